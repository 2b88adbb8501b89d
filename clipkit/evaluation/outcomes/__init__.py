"""Outcome of each image or query, from which metrics, intervals and comparisons are computed."""
