"""Exact search on a torch device: tiles of matrix products, and Triton kernels for large catalogues."""
