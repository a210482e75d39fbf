"""Measurement: outcomes credited to what was shown, and the figures of users, releases and experiments that follow."""
