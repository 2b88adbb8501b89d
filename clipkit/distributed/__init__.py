"""Rank and world size of this process, and exact collectives with gradients."""
