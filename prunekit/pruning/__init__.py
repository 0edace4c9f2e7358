"""One round of pruning, by slices or by single weights."""
