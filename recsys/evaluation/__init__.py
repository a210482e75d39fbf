"""Honest figures: full ranking, pessimistic ties, targets that nothing was fitted on."""
