"""Online store of user states, one read by one key: built from the event log with `fold` of recsys.features.

Feast 0.67 needs numpy 2 while the python backend of the Triton wheel reads arrays of numpy 1 only, so the two cannot share
an environment; hence the stores behind `protocols.UserStates`.
"""
