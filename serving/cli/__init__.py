"""The commands of `python -m serving`, a file a group."""
