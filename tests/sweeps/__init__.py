"""Runs that are repeated for every step, mode or objective."""
