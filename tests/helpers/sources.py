"""The package's modules as syntax trees, parsed once for all tests that read them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import clipkit

PACKAGE = Path(clipkit.__file__).resolve().parent


@cache
def trees() -> dict[Path, ast.Module]:
    """The tree of each file of the package; no test changes one."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {path: ast.parse(path.read_text("utf-8"), str(path)) for path in paths}
