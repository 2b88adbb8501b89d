"""Configurations, weights, towers and export of open_clip."""
