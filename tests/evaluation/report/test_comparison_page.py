"""The page of a comparison: names, scales, signs and verdicts."""

from __future__ import annotations

import pytest

from clipkit.evaluation.comparison import Change, Comparison, Estimate, PairComparison
from clipkit.evaluation.report.comparison_page import render_comparison
from clipkit.evaluation.report.sections.comparison import metric_blocks, short_names
from tests.helpers.html import parse
from tests.helpers.report_content import HOSTILE

HALF, MORE = Estimate(0.5, (0.45, 0.55)), Estimate(0.7, (0.66, 0.75))


def change(name="top1", low=0.15, value=0.2, high=0.26, noise=False) -> Change:
    difference = Estimate(value, (low, high))
    return Change(name, HALF, MORE, difference, "mcnemar", 0.01, 0.02, noise, 200)


def pair(*changes: Change, model="runs/b/last.ckpt", data="data/pets") -> PairComparison:
    return PairComparison(data, "zero-shot", "runs/a/last.ckpt", model, changes, (), 200, 100)


def test_bars_share_a_scale_and_zero_is_in_the_middle():
    changes = change(), change("top5", -0.52, -0.26, 0.0, noise=True)
    names = short_names(["runs/a/last.ckpt", "runs/b/last.ckpt"]) | {"data/pets": "pets"}

    (block,) = metric_blocks([pair(*changes)], names)

    assert block.extent == "52.0"
    assert block.rows[0].bar == pytest.approx((50 + 48 * 0.15 / 0.52, 68.46, 74), abs=0.01)
    assert block.rows[1].bar == (2, 26, 50)
    assert [row.verdict for row in block.rows] == ["better", "noise"]
    assert [row.name for row in block.rows] == ["Top-1", "Top-5"]
    assert block.rows[0].difference.value == "+20.0"
    assert block.rows[1].difference.interval == "−52.0 to +0.0"
    assert (block.baseline, block.model) == ("a/last.ckpt", "b/last.ckpt")


def test_two_models_are_named_in_the_title_and_tiles_show_the_change():
    page = parse(render_comparison(Comparison((pair(change()),))))
    text = " ".join(" ".join(page.text).split())

    assert "b/last.ckpt against a/last.ckpt" in text
    assert "zero-shot on pets" in text
    assert "+20.0 points" in text
    assert "50.0 → 70.0" in text
    assert "runs/b/last.ckpt" in text


def test_many_data_sets_have_an_overview():
    pairs = tuple(pair(change(), data=f"data/set {number}") for number in range(5))

    page = parse(render_comparison(Comparison(pairs)))

    assert "overview" in page.ids
    assert "overview" not in parse(render_comparison(Comparison(pairs[:4]))).ids


def test_nothing_of_a_name_is_markup():
    hostile = pair(change(HOSTILE), model=HOSTILE, data=HOSTILE)

    page = render_comparison(Comparison((hostile,), left_out=(HOSTILE,)))

    assert "<script>alert" not in page
    assert parse(page).tags.count("script") == 1


def test_short_names_stay_distinct():
    assert short_names(["a/x", "a/y/x"]) == {"a/x": "x", "a/y/x": "y/x"}
    assert short_names(["/m/x", "x"]) == {"/m/x": "m/x", "x": "x"}
    assert short_names([]) == {}
