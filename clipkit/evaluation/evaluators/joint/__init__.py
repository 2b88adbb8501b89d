"""Evaluators of the heads of a joint encoder."""
