"""Triton around recsys: the server, its stages and its client."""
