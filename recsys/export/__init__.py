"""Export of a bundle to a Triton model repository, generated from the stage list of the pipeline."""
