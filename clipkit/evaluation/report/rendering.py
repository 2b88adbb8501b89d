"""Render the Jinja templates of all pages: one environment, one style sheet, one script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import clipkit
from clipkit.evaluation.report.content import SoundClip, Thumbnail
from clipkit.evaluation.report.numbers import compact, grouped, percent

_PACKAGE: Final = "clipkit.evaluation.report"
_STYLES: Final = (
    "base", "navigation", "title", "sections", "tables", "charts", "gallery", "confusion",
    "classes", "map", "explanations", "comparison", "pages", "data", "filter", "run",
)  # fmt: skip
_SCRIPTS: Final = (
    "core", "theme", "navigation", "tips", "charts", "gallery", "tables", "map", "copy",
)  # fmt: skip


def render(template: str, context: Mapping[str, object]) -> str:
    """Render a template of the folder ``templates``.

    Every value is escaped, and a name that the context lacks is an error.
    """
    return _environment().get_template(template).render(context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        compact=compact, grouped=grouped, percent=percent, data_uri=data_uri, csp_hash=_csp_hash
    )
    environment.globals.update(style=_style(), script=_script(), version=clipkit.__version__)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment


def data_uri(file: Thumbnail | SoundClip) -> str:
    """Return an image or a sound as a ``data:`` address, which needs no network."""
    return f"data:{file.media_type};base64,{base64.b64encode(file.data).decode()}"


def _joined(folder: str, names: Sequence[str], ending: str) -> Markup:
    """Join style sheets or scripts. They are no templates: braces have no meaning there."""
    place = files(_PACKAGE) / "templates" / folder
    return Markup("".join((place / f"{n}.{ending}").read_text(encoding="utf-8") for n in names))  # noqa: S704


def _style() -> Markup:
    return _joined("styles", _STYLES, "css")


def _script() -> Markup:
    """Return the scripts inside one function, whose names are not those of the page."""
    return Markup("(() => {{\n{}}})();").format(_joined("scripts", _SCRIPTS, "js"))


def _csp_hash(text: str) -> str:
    """Return the source expression with which a content security policy admits only ``text``."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
