"""Classifiers on frozen embeddings: linear, nearest neighbours, few-shot."""
