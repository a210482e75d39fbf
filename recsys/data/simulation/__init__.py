"""Simulated users of a shop whose every probability is known: as a written event log, or before a running gateway."""
