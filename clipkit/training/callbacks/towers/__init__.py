"""Callbacks that change how the towers are trained; one per file."""
