"""The page of `clipkit search serve`: HTML, style sheets and JavaScript modules without a build."""

from clipkit.search.serving.page.files import CONTENT_SECURITY_POLICY, PageFile, page_files

__all__ = ["CONTENT_SECURITY_POLICY", "PageFile", "page_files"]
