"""Any script on pages and in tables: direction, emoji, and tables by group and language."""

from __future__ import annotations

import io
import unicodedata
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser

import pytest

from clipkit.cli.evaluate.tables import metric_table, pair_tables, print_metrics
from clipkit.evaluation.report import Result, render_report
from clipkit.evaluation.report.sections.results import listings, tables
from tests.helpers.html import VOID, parse
from tests.helpers.report_content import full_report

HEBREW = "כלב שמח"
NAMES = ("ar", "עברית", "日本語", "हिन्दी", "ไทย", "👩‍🚀🐕", "Ελλάδα", "z\u202etxet", "[red]")
NOT_SHOWN = ("kind", "config", "versions")


def foreign(value: object, name: str = "") -> object:
    """Put Hebrew before every text inside nested dataclasses, sequences and mappings."""
    if isinstance(value, str):
        return value if name in NOT_SHOWN else f"{HEBREW} {value}"
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return [foreign(item, name) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: foreign(getattr(value, f.name), f.name) for f in fields(value)}
        return replace(value, **changed)
    return value


class Directions(HTMLParser):
    """Collects texts from right to left that no element isolates from the text around it."""

    def __init__(self):
        super().__init__()
        self.open = []  # name of each element, and whether it isolates its text
        self.mixed = []
        self.isolated = 0

    def handle_starttag(self, name, attributes):
        if name not in VOID:
            isolates = name == "bdi" or dict(attributes).get("dir") == "auto"
            self.open.append((name, isolates))

    def handle_startendtag(self, name, attributes):
        pass

    def handle_endtag(self, name):
        self.open.pop()

    def handle_data(self, data):
        is_page = self.open and self.open[-1][0] not in ("script", "style", "title")
        if is_page and any(unicodedata.bidirectional(c) in ("R", "AL") for c in data):
            if any(isolates for _, isolates in self.open):
                self.isolated += 1
            else:
                self.mixed.append(f"<{self.open[-1][0]}> {' '.join(data.split())}")


def test_every_text_has_a_direction_of_its_own():
    page = render_report(foreign(full_report()))
    parse(page)
    directions = Directions()
    directions.feed(page)
    assert directions.mixed == []
    assert directions.isolated > 100
    assert '<div id="tip" role="tooltip" dir="auto" hidden>' in page
    assert '<html lang="en">' in page


def width(text: str) -> int:
    """Columns of a terminal, from Unicode's tables; of joined emoji only the first counts."""
    columns, joined = 0, False
    for character in text:
        if unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf"):
            joined = character == "\u200d"
            continue
        is_wide = unicodedata.east_asian_width(character) in "WF"
        columns += 0 if joined else 1 + is_wide
        joined = False
    return columns


def recalls():
    metrics = {"recall_at_1": 0.5, "worst_pair/recall_at_1": 0.0}
    metrics |= {
        f"{a}_to_{b}/recall_at_{k}": 0.01 * (i * len(NAMES) + j)
        for i, a in enumerate(NAMES)
        for j, b in enumerate(NAMES)
        for k in (1, 5)
        if a != b
    }
    return metrics | {"worst_pair/recall_at_5": 0.0, "recall_at_5": 0.6}


def groups():
    ways = ("text_to_image", "image_to_text")
    metrics = {f"{way}/group/{n}/recall_at_1": 0.25 for way in ways for n in NAMES}
    return metrics | {f"{way}/worst_group/recall_at_1": 0.125 for way in ways} | {
        f"{way}/group_gap/recall_at_1": 0.125 for way in ways
    }  # fmt: skip


def printed(table, columns=200):
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=columns, color_system=None).print(table)
    return stream.getvalue().splitlines()


def test_text_tables_are_aligned_by_display_width():
    lines = printed(metric_table(groups(), {}))
    assert {width(line) for line in lines} == {width(lines[0])}
    assert any("日本語" in line for line in lines)
    assert any("[red]" in line for line in lines)
    for name in NAMES[:2]:
        line = next(line for line in lines if name in line)
        rtl = any(unicodedata.bidirectional(c) in ("R", "AL") for c in line)
        assert ("\u2068" in line) == ("\u2069" in line) == rtl
    assert not any("\u202e" in line for line in lines)


def test_the_matrix_of_languages(capsys):
    metrics = recalls()
    print_metrics("title", metrics, {}, {})
    shown = capsys.readouterr().out
    assert "worst_pair/recall_at_1" in shown
    assert "_to_" not in shown
    prefixed = {f"translation/{name}": value for name, value in metrics.items()}
    for given in (metrics, prefixed):
        (table,) = pair_tables(given)
        lines = printed(table)[1:]
        assert {width(line) for line in lines} == {width(lines[0])}
        row = next(line for line in lines if line.startswith("│ 日本語"))
        at, size = NAMES.index("日本語"), len(NAMES)
        figures = {f"{at * size + j:.1f}" for j in range(size) if j != at}
        assert set(row.replace("│", " ").split()) == {"日本語", *figures}
    assert list(pair_tables({"text_to_image/recall_at_1": 0.5})) == []


def test_the_report_has_tables_of_languages():
    result = Result("Model", recalls() | groups(), intervals={
        "text_to_image/group/ar/recall_at_1": (0.2, 0.3),
    })  # fmt: skip
    arranged = listings([result])
    assert tables([result]) == []
    by_title = {listing.title: listing for listing in arranged}
    of_groups = by_title["Model: recall by group, percent"]
    assert of_groups.columns == ["Text to image, R@1", "Image to text, R@1"]
    assert [name for name, _ in of_groups.rows] == [*NAMES, "worst of them"]
    assert of_groups.rows[0][1] == [("25.0", "20.0–30.0"), ("25.0", "")]
    assert of_groups.rows[-1][1] == [("12.5", ""), ("12.5", "")]
    matrix = by_title["Model: translation from row to column, R@1, percent"]
    names = sorted(NAMES)
    assert (matrix.columns, [name for name, _ in matrix.rows]) == (names, names)
    cells = {(row, column): value for row, values in matrix.rows
             for column, (value, _) in zip(names, values, strict=True)}  # fmt: skip
    for i, a in enumerate(NAMES):
        for j, b in enumerate(NAMES):
            expected = "" if a == b else f"{i * len(NAMES) + j:.1f}"
            assert cells[a, b] == expected
    others = by_title["Model: other metrics"]
    assert not any("to" in name.split() for name, _ in others.rows)


@pytest.mark.parametrize("name", ["text_to_image/recall_at_1", "de_to_en/recall_at_1"])
def test_other_keys_are_no_pairs_of_languages(name):
    assert not any("translation" in each.title for each in listings([Result("A", {name: 0.5})]))
