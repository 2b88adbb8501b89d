"""How the run went: facts, parameters, versions, configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clipkit.evaluation.report.data import Fact, ReportData, TowerParameters
from clipkit.evaluation.report.markup import Markup, join, tag
from clipkit.evaluation.report.numbers import compact, grouped


def render_facts(facts: Sequence[Fact]) -> Markup:
    """Names and values in as many columns as there is room for."""
    pairs = [
        tag("div", None, tag("dt", None, fact.name), tag("dd", None, fact.value),
            tag("dd", {"class": "why"}, fact.note) if fact.note else "")
        for fact in facts
    ]  # fmt: skip
    return tag("dl", {"class": "facts"}, *pairs)


def render_run(data: ReportData) -> Markup:
    """Everything about the run but its results."""
    parts = [render_facts(data.facts)] if data.facts else []
    if data.parameters:
        parts.append(_parameters(data.parameters))
    if data.versions:
        parts.append(_versions(data.versions))
    if data.config:
        parts.append(_config(data.config))
    return join(parts)


def _parameters(parameters: Sequence[TowerParameters]) -> Markup:
    rows = [_parameter_row(row) for row in parameters]
    total = TowerParameters(
        "Together",
        sum(row.num_trainable for row in parameters),
        sum(row.num_frozen for row in parameters),
    )
    heads = [tag("th", {"scope": "col"}, text) for text in ("Part", "Trainable", "Frozen")]
    return tag(
        "table",
        {"class": "plain"},
        tag("caption", None, "Parameters"),
        tag("thead", None, tag("tr", None, *heads)),
        tag("tbody", None, *rows),
        tag("tfoot", None, _parameter_row(total)) if len(rows) > 1 else "",
    )


def _parameter_row(row: TowerParameters) -> Markup:
    cells = [
        tag("td", {"title": grouped(count)}, compact(count))
        for count in (row.num_trainable, row.num_frozen)
    ]
    return tag("tr", None, tag("th", {"scope": "row"}, row.name), *cells)


def _versions(versions: Mapping[str, str]) -> Markup:
    items = [
        tag("li", None, name, " ", tag("b", None, version)) for name, version in versions.items()
    ]
    return tag("ul", {"class": "versions", "aria-label": "Versions"}, *items)


def _config(config: str) -> Markup:
    copy = tag("button", {"type": "button", "class": "copy", "hidden": True}, "Copy")
    text = tag("pre", {"tabindex": 0, "aria-label": "Configuration"}, tag("code", None, config))
    return tag("details", {"class": "config"}, tag("summary", None, "Resolved configuration"),
               tag("div", None, copy, text))  # fmt: skip
