"""Processes of one run: who this one is, and exact collectives with gradients."""
