"""The Triton models: decode, call recsys, encode."""
