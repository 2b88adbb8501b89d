"""Queries of many clients at a time: embedded and searched in batches, compared with classes."""
