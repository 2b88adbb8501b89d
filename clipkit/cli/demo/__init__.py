"""``clipkit demo``."""
