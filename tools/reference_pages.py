"""A hook of mkdocs: one page of reference for each package with an ``__all__``.

The pages exist only while the site is built; their entries are what the packages export.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parent.parent
SECTION = "Reference"
_EXPORTS = re.compile(r"^(?:\w+, )*__all__ = ", re.MULTILINE)


def public_modules() -> list[str]:
    """The names of the packages, and single files beside them, that export something."""
    folder = ROOT / "clipkit"
    files = sorted([*folder.rglob("__init__.py"), *folder.glob("*.py")])
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in files
        if _EXPORTS.search(path.read_text(encoding="utf-8"))
    )


def page(module: str) -> str:
    """The Markdown of a module's page."""
    exporting = importlib.import_module(module)
    entries = [f"::: {module}.{name}" for name in sorted(exporting.__all__)]
    return "\n\n".join([f"# {module}", inspect.getdoc(exporting) or "", *entries]) + "\n"


def address(module: str) -> str:
    """The file of a module's page."""
    return f"reference/{module}.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages in the navigation, at the end of its section."""
    pages = [{module: address(module)} for module in public_modules()]
    (section,) = [entry for entry in config.nav or [] if SECTION in entry]
    section[SECTION] = [*section[SECTION], *pages]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the site."""
    from mkdocs.structure.files import File

    for module in public_modules():
        files.append(File.generated(config, address(module), content=page(module)))
    return files
