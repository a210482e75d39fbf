"""Composition of the processes of a deployment from its layout and the endpoints of their servers."""
