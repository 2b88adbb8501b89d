"""Sharding of parameters, and what DDP must be told."""
