"""Abstract towers, timm and transformers towers, and their helpers."""
