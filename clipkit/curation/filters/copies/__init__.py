"""Filters that remove copies: equal files, images that look alike, similar embeddings."""
