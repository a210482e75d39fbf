"""Vectors of item text, fitted once per catalogue."""
