"""Cache of training stages: results are found by a fingerprint of all that they depend on."""
