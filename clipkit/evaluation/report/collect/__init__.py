"""Collect report content from models, data and logs."""
