"""What the data of an embedded collection hold: the facts of the data page."""

from clipkit.curation.overview.data_facts import DataFacts, describe_data

__all__ = ["DataFacts", "describe_data"]
