"""Abstract towers, towers of timm and transformers, and helpers."""
