"""Worlds, load, faults, peers, pictures and result files that claims share."""
