"""Evaluators, one per file."""
