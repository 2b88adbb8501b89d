"""Evaluators that know no trainer, and the report."""
