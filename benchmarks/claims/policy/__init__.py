"""Claims about policy."""
