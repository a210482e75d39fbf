"""Item text -> vectors, once per catalogue."""
