"""Pack tables, folders and other data into shards; packed cache, subsets, verification."""
