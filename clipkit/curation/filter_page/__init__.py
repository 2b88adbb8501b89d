"""A page that shows what filters removed and why, with images."""

from clipkit.curation.filter_page.evidence import Evidence, FilterEvidence
from clipkit.curation.filter_page.page import write_filter_page

__all__ = ["Evidence", "FilterEvidence", "write_filter_page"]
