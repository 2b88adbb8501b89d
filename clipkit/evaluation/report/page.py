"""The page: parts in their order, style and script inside, written atomically."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

import clipkit
from clipkit.atomic_files import write_text
from clipkit.errors import DataError
from clipkit.evaluation.report.charts import render_chart, render_histogram
from clipkit.evaluation.report.confusion import render_confusion
from clipkit.evaluation.report.data import ReportData
from clipkit.evaluation.report.facts import render_facts, render_run
from clipkit.evaluation.report.gallery import render_gallery
from clipkit.evaluation.report.markup import Attributes, Markup, join, tag
from clipkit.evaluation.report.results import render_headlines, render_tables

_POLICY: Final = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
"""The browser itself refuses every request: the page is self-contained or visibly broken."""

_ICON: Final = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Crect width='16' height='16' rx='4' fill='%23265fbd'/%3E"
    "%3Cpath d='M4 8.4 7 11l5-6' fill='none' stroke='white' stroke-width='2'/%3E%3C/svg%3E"
)

_RESULTS: Final = (
    "Recall at k: the share of queries whose right answer stands among the first k. "
    "Baselines are set in grey."
)
_CURVES: Final = (
    "Over optimizer steps. Point at a curve, or focus it and use the arrow keys, to read values."
)
_GALLERY: Final = (
    "What the model finds. The right answer carries a check mark; the number is the cosine "
    "similarity; the rank says where the right answer stands."
)
_CONFUSION: Final = "Which classes the model takes for one another when it only reads their names."
_HEALTH: Final = (
    "Measures that need no labels. A space that collapses shows here before the recalls drop."
)
_RUN: Final = "What was trained, on what, and for how long."


def write_report(path: Path | str, data: ReportData) -> Path:
    """Write the page beside its place, then move it there: a reader never sees half a page.

    Args:
        path: Where the page goes; folders that are missing are made.
        data: What it shows.

    Returns:
        The path of the page.

    Raises:
        DataError: If the file cannot be written.
    """
    path = Path(path)
    page = render_report(data)
    try:
        write_text(path, page)
    except OSError as error:
        raise DataError(f"{path}: cannot write the report: {error.strerror}") from error
    return path


def render_report(data: ReportData) -> str:
    """The whole page as text.

    Args:
        data: What it shows; empty parts are left out.

    Returns:
        One HTML document that needs no other file and no network.
    """
    return _document(data.title, _title(data), _sections(data), _foot(data.credits))


def render_document(
    title: str, subtitle: str, sections: Sequence[Section], *, style: str = ""
) -> str:
    """A page in the report's style with other parts.

    Args:
        title: Its heading.
        subtitle: A sentence under the heading.
        sections: Its parts, in order.
        style: Style sheet of the parts, after the report's own.

    Returns:
        One HTML document that needs no other file and no network.
    """
    heading = tag(
        "div", {"class": "title"}, tag("h1", None, title), tag("p", {"class": "subtitle"}, subtitle)
    )
    return _document(title, heading, sections, _foot(()), style)


def _document(
    title: str, heading: Markup, sections: Sequence[Section], foot: Markup, extra_style: str = ""
) -> str:
    root = files("clipkit.evaluation.report")
    style = Markup((root / "page.css").read_text(encoding="utf-8") + extra_style)
    script = Markup((root / "page.js").read_text(encoding="utf-8"))
    head = [
        tag("meta", {"charset": "utf-8"}),
        tag("meta", {"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("meta", {"name": "color-scheme", "content": "light dark"}),
        tag("meta", {"name": "generator", "content": f"clipkit {clipkit.__version__}"}),
        tag("title", None, title),
        tag("link", {"rel": "icon", "href": _ICON}),
        tag("style", None, style),
    ]
    body = [
        tag("a", {"class": "skip", "href": "#main"}, "To the results"),
        _bar(sections),
        tag("main", {"id": "main"}, heading, *[section.render() for section in sections]),
        foot,
        tag("div", {"id": "tip", "role": "tooltip", "hidden": True}),
        tag("script", None, script),
    ]
    document = tag("html", {"lang": "en"}, tag("head", None, *head), tag("body", None, *body))
    return f"<!doctype html>\n{document}\n"


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page.

    Args:
        anchor: Its name in links.
        title: Its heading.
        text: What it says about itself.
        content: What it shows.
    """

    anchor: str
    title: str
    text: str
    content: Markup

    def render(self) -> Markup:
        """The part with its heading."""
        lead = tag("div", {"class": "lead"}, tag("h2", None, self.title), tag("p", None, self.text))
        content = tag("div", {"class": "content"}, self.content)
        return tag("section", {"id": self.anchor, "aria-label": self.title}, lead, content)


def _sections(data: ReportData) -> list[Section]:
    """Every part that has something to show."""
    sections = [
        Section("results", "Results", _RESULTS, join(render_tables(data.results))),
        Section("curves", "Learning curves", _CURVES, _curves(data)),
        Section("gallery", "Gallery", _GALLERY, _gallery(data)),
        Section("confusion", "Confusion", _CONFUSION, _confusion(data)),
        Section("health", "Health of the embeddings", _HEALTH, _health(data)),
        Section("run", "The run", _RUN, render_run(data)),
    ]
    return [section for section in sections if section.content]


def _curves(data: ReportData) -> Markup:
    charts = [render_chart(chart) for chart in data.charts]
    return tag("div", {"class": "charts"}, *charts) if charts else Markup()


def _gallery(data: ReportData) -> Markup:
    if not data.text_queries and not data.image_queries:
        return Markup()
    return render_gallery(data.text_queries, data.image_queries, data.gallery_note)


def _confusion(data: ReportData) -> Markup:
    return Markup() if data.confusion is None else render_confusion(data.confusion)


def _health(data: ReportData) -> Markup:
    parts = [] if data.similarity is None else [render_histogram(data.similarity)]
    parts += [render_facts(data.health)] if data.health else []
    return tag("div", {"class": "health"}, *parts) if parts else Markup()


def _bar(sections: Sequence[Section]) -> Markup:
    links = [
        tag("a", {"href": f"#{section.anchor}"}, section.title.split(" of ")[0])
        for section in sections
    ]
    button: Attributes = {
        "type": "button",
        "class": "theme",
        "hidden": True,
        "aria-label": "Dark colours",
    }
    icon = tag("svg", {"viewBox": "0 0 20 20", "aria-hidden": "true"},
               tag("circle", {"cx": 10, "cy": 10, "r": 7}),
               tag("path", {"d": "M10 3a7 7 0 0 1 0 14z"}))  # fmt: skip
    return tag("header", {"class": "top"}, tag("span", {"class": "brand"}, "clipkit"),
               tag("nav", {"aria-label": "Parts of the report"}, *links),
               tag("button", button, icon))  # fmt: skip


def _title(data: ReportData) -> Markup:
    day = tag("time", {"datetime": data.created.isoformat(timespec="seconds")},
              f"{data.created:%d %B %Y, %H:%M}".lstrip("0"))  # fmt: skip
    return tag(
        "div",
        {"class": "title"},
        tag("p", {"class": "kicker"}, "Report of a run · ", day),
        tag("h1", None, data.title),
        tag("p", {"class": "subtitle"}, data.subtitle) if data.subtitle else "",
        render_headlines(data.results),
    )


def _foot(credits_: Sequence[str]) -> Markup:
    credits = [tag("p", None, credit) for credit in credits_]
    made = tag("p", None, f"Made by clipkit {clipkit.__version__}. This page is one file and loads "
               "nothing from the network.")  # fmt: skip
    return tag("footer", None, *credits, made)
