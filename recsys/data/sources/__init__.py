"""One file a data set; each source has `load() -> Dataset`."""
