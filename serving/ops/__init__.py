"""A stack on one machine: start, supervision, damage, shutdown, and what its operator does."""
