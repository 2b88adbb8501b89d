"""Sharding of parameters, and changes of trainable parameters with DDP."""
