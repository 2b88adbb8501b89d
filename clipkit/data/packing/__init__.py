"""From tables, folders and other data sets to shards; the packed cache, subsets, verification."""
