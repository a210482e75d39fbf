"""Candidate sources beside the towers, and the merge of all of them."""
