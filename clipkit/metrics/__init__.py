"""Exact retrieval and classification metrics, as functions and as torchmetrics states."""
