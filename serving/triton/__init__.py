"""Triton: the server as a process, and its client."""
