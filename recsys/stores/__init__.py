"""Files that survive a crash and are seen to change: atomic writes, appends, stamps, watchers."""
