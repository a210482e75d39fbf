"""One calibrated probability an objective for each candidate."""
