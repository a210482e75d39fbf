"""Blocks and losses that both models use."""
