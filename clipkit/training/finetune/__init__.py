"""Presets of ``clipkit finetune``."""
