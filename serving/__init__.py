"""Serving of recsys bundles: gateway, event log, user states, Triton."""
