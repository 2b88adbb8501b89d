"""``clipkit fit | validate | test | predict``."""
