"""Sources of data sets, one file each, with `load() -> Dataset`."""
