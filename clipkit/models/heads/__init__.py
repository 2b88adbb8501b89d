"""Label heads."""
