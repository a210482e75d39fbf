"""Claims about ranking."""
