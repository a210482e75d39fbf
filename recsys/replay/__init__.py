"""The log as it was at a moment: replayed queries, labelled requests, evaluation queries and their histories."""
