"""``clipkit tune``."""
