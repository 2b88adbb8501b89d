"""``clipkit shards``."""
