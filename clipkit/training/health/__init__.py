"""Bad steps and stalled ranks: the logic without Lightning."""
