"""``clipkit evaluate``."""
