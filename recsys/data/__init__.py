"""Sources of a data set, its one canonical form, its validation and its splits by time."""
