"""Benchmarks: a command for each claim of docs/benchmarks.md, what they share, their results and a journal."""
