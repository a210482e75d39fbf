"""Data sets: sources, canonical form, validation and splits."""
