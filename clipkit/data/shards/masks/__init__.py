"""Masks of sample ids: which samples of a data set are kept, and why the others are not."""
