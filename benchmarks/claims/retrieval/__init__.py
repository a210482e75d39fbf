"""Claims about retrieval."""
