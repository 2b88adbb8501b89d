"""Prompts of the classes: lists by name, files, ensembles."""
