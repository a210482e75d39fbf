"""Inspection before training: propose the description of files, and find problems in a described log."""
