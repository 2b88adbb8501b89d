"""Further modalities of a sample, next to image and caption."""
