"""Towers, the dual encoder over them, and their checkpoints."""
