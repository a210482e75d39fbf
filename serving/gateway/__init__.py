"""The HTTP door: identity, limits, the user's state, the deadline and its ladder, impressions, metrics."""
