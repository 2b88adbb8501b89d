"""Evaluation data: layout of the files, decoded chunks."""
