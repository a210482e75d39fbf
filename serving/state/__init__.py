"""What is known of a user at this moment, read by one key: folded from the event log by the features' own `fold`."""
