"""What is known of a user at this moment, read by one key: folded from the event log by the features' own `fold`.

Feast 0.67 needs numpy 2 while the python backend of the Triton wheel reads arrays of numpy 1 only, so that both cannot share
an environment, and the stores behind `contract.UserStates` are our own.
"""
