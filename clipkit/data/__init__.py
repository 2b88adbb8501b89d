"""From shards to batches: index, order, reading, decoding, collation, packing."""
