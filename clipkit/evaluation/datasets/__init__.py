"""Evaluation data: layout of the files, prompts, decoded chunks."""
