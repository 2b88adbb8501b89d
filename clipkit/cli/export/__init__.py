"""``clipkit export``."""
