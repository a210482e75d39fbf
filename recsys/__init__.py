"""A multi-stage hybrid recommender: retrieve, rank, rules."""
