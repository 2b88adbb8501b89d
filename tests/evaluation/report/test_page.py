"""The rendered report: escaping, omitted parts, figures, files."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from datetime import datetime
from xml.etree import ElementTree

import jinja2
import pytest

from clipkit.errors import DataError
from clipkit.evaluation.report import (
    Chart,
    Classifier,
    Confusion,
    Examples,
    ReportData,
    Result,
    Series,
    chart_svg,
    render_report,
    write_report,
)
from clipkit.evaluation.report.rendering import data_uri, render
from tests.helpers.html import parse
from tests.helpers.report_content import HOSTILE, SECTIONS, full_report, thumbnail


def text_of(page: str, section: str) -> str:
    match = re.search(f'<section id="{section}".*?</section>', page, re.DOTALL)
    assert match is not None
    return " ".join("".join(parse(match[0]).text).split())


def with_results(*results: Result) -> str:
    return render_report(ReportData("A run", results=results))


def made_hostile(value: object) -> object:
    """Replace every string inside nested dataclasses, sequences and mappings."""
    if isinstance(value, str):
        return HOSTILE + value
    if isinstance(value, dict):
        return {HOSTILE + str(key): made_hostile(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [made_hostile(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{f.name: made_hostile(getattr(value, f.name)) for f in fields(value)}
        )
    assert value is None or isinstance(value, int | float | bytes | datetime)
    return value


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from strings(getattr(value, field.name))


def test_full_page_is_well_formed_with_unique_anchors():
    parser = parse(render_report(full_report()))

    assert len(parser.ids) == len(set(parser.ids))
    assert set(SECTIONS) <= set(parser.ids)


def test_exact_numbers_of_parameters_need_no_mouse():
    text = parse(render_report(full_report())).text

    assert "6\N{NARROW NO-BREAK SPACE}812\N{NARROW NO-BREAK SPACE}416" in text
    assert "6.81M " in text


def test_no_string_of_the_user_is_markup_or_template():
    data = made_hostile(full_report())

    page = render_report(data)

    parser, harmless = parse(page), parse(render_report(full_report()))
    assert parser.tags.count("script") == 1
    assert set(parser.tags) == set(harmless.tags)
    assert "<script>alert" not in page
    plain = "\n".join([*harmless.text, *harmless.values])
    shown = "\n".join([*parser.text, *parser.values])
    pairs = list(zip(strings(full_report()), strings(data), strict=True))
    assert sum(text in plain for text, _ in pairs) > 0.8 * len(pairs)
    for text, hostile in pairs:
        assert text not in plain or hostile in shown, hostile


def test_page_names_no_address_outside_itself():
    page = render_report(full_report())

    addresses = re.findall(r"""(?:src|href)=["']([^"']*)""", page)
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "default-src 'none'" in page


def test_the_policy_admits_the_script_of_the_page_only():
    page = render_report(full_report())
    script = re.search("<script>(.*)</script>", page, re.DOTALL)
    assert script is not None

    digest = hashlib.sha256(script[1].encode()).digest()

    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}'" in page


def test_images_are_stored_inside_the_page_unchanged():
    shown = full_report().examples.gallery.text_queries[0].hits[0].image
    page = render_report(full_report())

    uri = re.search(r'src="data:image/webp;base64,([^"]+)"', page)
    assert uri is not None
    assert base64.b64decode(uri[1]) == shown.data
    assert data_uri(thumbnail(0)) in page


def test_empty_parts_are_left_out():
    parser = parse(render_report(ReportData("Nothing yet")))

    assert set(parser.ids) == {"main", "tip"}
    assert "Nothing yet" in parser.text


def test_gallery_with_one_direction_only_has_one_tab():
    data = full_report()
    gallery = replace(data.examples.gallery, image_queries=())

    parser = parse(render_report(replace(data, examples=Examples(gallery))))

    assert "tab-texts" in parser.ids
    assert "tab-images" not in parser.ids


def test_headlines_are_printed_in_percent_next_to_the_baseline():
    page = with_results(
        Result("Chance", {"top1": 0.1}, is_baseline=True),
        Result("Model", {"top1": 0.512, "text_to_image/recall_at_1": 0.25}),
    )

    tiles = page[page.index('class="headlines"') : page.index("<section")]
    assert "25.0<span> %" in tiles
    assert "51.2<span> %" in tiles
    assert "Chance 10.0 %" in tiles
    assert 'class="headlines"' not in with_results(Result("Model", {"odd": 0.3}))


def test_every_metric_has_a_cell_and_a_gap_is_no_zero():
    page = with_results(
        Result("A", {"text_to_image/recall_at_1": 0.5, "image_to_text/recall_at_1": 0.25}),
        Result("B", {"text_to_image/recall_at_1": 0.125, "l2": 0.001}),
    )

    retrieval, other = text_of(page, "results").split("B: other metrics")
    assert "A 50.0 25.0 B 12.5 –" in retrieval.replace("R@1", "")
    assert "L20.001" in other
    assert "50.0" not in other


def test_confusion_without_an_error_or_a_sample_is_drawn():
    confusion = Confusion(["a", "b"], [[3, 0], [0, 0]])

    page = render_report(
        ReportData("A run", examples=Examples(classifiers=[Classifier("x", confusion)]))
    )

    assert "All images were classified correctly." in text_of(page, "confusion")


def test_confusion_of_many_classes_says_which_are_shown():
    counts = [[10 if i == j else 0 for j in range(40)] for i in range(40)]
    counts[30][31] = 7
    confusion = Confusion([f"class {i}" for i in range(40)], counts)

    text = text_of(
        render_report(
            ReportData("A run", examples=Examples(classifiers=[Classifier("x", confusion)]))
        ),
        "confusion",
    )

    assert "24 of 40 classes" in text
    assert "class 30 predicted as class 31" in text
    assert "7 of 17" in text


def test_a_chart_as_one_file():
    lines = [Series("top1", [(0, 0.5), (1, 0.9)]), Series(HOSTILE, [(0, 0.2), (1, 0.1)])]

    svg = chart_svg(Chart("Accuracy", lines, is_share=True), "alpha")

    assert svg.startswith("<svg")
    root = ElementTree.fromstring(svg)
    names = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert names.count("polyline") == 2
    assert names.count("circle") == 4 + 2  # points and legend
    assert "script" not in names
    assert HOSTILE in [element.text for element in root.iter()]
    with pytest.raises(DataError, match="expected 1 to 6 lines, got 0"):
        chart_svg(Chart("Nothing", []), "alpha")


def test_a_name_that_the_context_lacks_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        render("shards.html", {"numbers": {}})


def test_report_replaces_the_old_one_and_leaves_no_draft(tmp_path):
    path = tmp_path / "deep" / "report.html"
    write_report(path, ReportData("First"))

    returned = write_report(path, ReportData("Second"))

    assert returned == path
    assert "Second" in path.read_text(encoding="utf-8")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_report_that_cannot_be_written_says_where(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(DataError, match=r"file.report\.html: cannot write"):
        write_report(tmp_path / "file" / "report.html", ReportData("x"))
