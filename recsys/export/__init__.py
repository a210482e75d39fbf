"""A bundle -> a Triton model repository, generated from the stage list of the pipeline."""
