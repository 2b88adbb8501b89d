"""Checks of options that need no trainer."""
