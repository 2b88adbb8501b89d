"""Words that pages and the package do not use, from the table of docs/contributing/style.md."""

import re

UNUSED_WORDS = (
    r"pictures?(?! of (?:a )?\{\})", "besides?", "former", "go(?:es|ing|ne)? on",
    "(?:by|from) chance", "whole", "wholly", "nobody", "somebody", "whoever", "learns",
    "teach(?:es)?", "taught", "so many", "lies", "likewise", "may never", "not looked at", "cut at",
    "(?:once|bytes|batches|captions|images|memory|pairs|rows|samples|seconds|steps|texts|tokens) "
    "an? (?:batch|class|epoch|image|process|rank|sample|second|shard|step|worker)",
)  # fmt: skip
UNUSED = re.compile(rf"\b(?:{'|'.join(UNUSED_WORDS)})(?!\w)", re.IGNORECASE)
