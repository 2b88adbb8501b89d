"""What the data of an embedded collection hold: the facts and the content of the data page."""

from clipkit.curation.overview.data_facts import DataFacts, describe_data
from clipkit.curation.overview.page_content import DataPage, data_page
from clipkit.curation.overview.stats_page import write_stats_page

__all__ = ["DataFacts", "DataPage", "data_page", "describe_data", "write_stats_page"]
