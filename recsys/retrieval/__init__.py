"""Two towers: a user and an item become vectors whose inner product is the retrieval score."""
