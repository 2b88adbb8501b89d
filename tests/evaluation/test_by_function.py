"""What ``clipkit evaluate``, ``embed`` and ``interpolate`` do, called from Python."""

from __future__ import annotations

import json

import pytest

from clipkit.cli import interpolate as interpolate_command
from clipkit.cli.evaluate import command as evaluate_command
from clipkit.errors import ConfigError
from clipkit.evaluation import (
    TASKS,
    EmbedOptions,
    EvaluationSuite,
    InterpolationPoint,
    Retrieval,
    interpolation_curve,
    make_evaluator,
    write_record,
)
from clipkit.evaluation.comparison import metric_intervals
from clipkit.evaluation.comparison.records import read_record
from clipkit.evaluation.report import evaluate_with_report, write_curve
from tests.helpers import tiny
from tests.helpers.factories import COLORS, write_shards


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_shards(folder, (9,))
    (folder / "classnames.txt").write_text("\n".join(COLORS))
    return str(folder)


@pytest.fixture(scope="module")
def encoder():
    return tiny.encoder(labels=True).eval()


def test_evaluators_by_task(data, encoder):
    by_name = make_evaluator("retrieval", data, options=EmbedOptions(limit=4))
    assert by_name.run(encoder) == Retrieval(data, options=EmbedOptions(limit=4)).run(encoder)
    for task in ("zero-shot", "label-head"):
        assert "top1" in make_evaluator(task, data).run(encoder)
    with pytest.raises(ConfigError, match="got 'zero_shot'; did you mean 'zero-shot'"):
        make_evaluator("zero_shot", data)


def test_commands_offer_the_tasks():
    assert evaluate_command.TASKS == TASKS
    assert set(interpolate_command.TASKS) <= set(TASKS)


def test_a_record_of_several_tasks_is_read_by_the_comparison(data, encoder, tmp_path):
    evaluators = {"retrieval": Retrieval(data), "zero-shot": make_evaluator("zero-shot", data)}
    evaluation = EvaluationSuite(evaluators).evaluate(encoder)
    intervals = metric_intervals(evaluation.outcomes)
    arguments = {"model": "mine", "data": data}
    write_record(tmp_path / "mine.json", evaluators, evaluation, arguments, intervals)
    records = read_record(tmp_path / "mine.json")
    assert [record.task for record in records] == list(evaluators)
    assert [record.primary_metric for record in records][1] == "top1"
    assert len(records[1].outcomes()[0]) == 9
    content = json.loads((tmp_path / "mine.json").read_text())
    assert content["primary_metrics"]["zero-shot"] == "zero-shot/top1"
    assert set(content["intervals"]) <= set(content["metrics"])


def test_curve_between_two_models(data, encoder, tmp_path):
    seen = []
    evaluators = {"a": Retrieval(data), "b": make_evaluator("zero-shot", data)}
    curve = interpolation_curve(encoder, encoder, evaluators, 3, seen.append)
    assert [point.alpha for point in curve] == [0.0, 0.5, 1.0]
    assert curve == seen
    expected = {"a/image_to_text/recall_at_1", "a/text_to_image/recall_at_1", "b/top1"}
    assert set(curve[0].drawn()) == expected
    write_curve(curve, tmp_path, {"start": "x"})
    content = json.loads((tmp_path / "curve.json").read_text())
    assert content["start"] == "x"
    assert [InterpolationPoint(**point) for point in content["curve"]] == curve
    with pytest.raises(ConfigError, match="points: expected at least 2"):
        interpolation_curve(encoder, encoder, evaluators, 1)


def test_report_of_evaluators(data, encoder, tmp_path):
    evaluators = {"zero-shot": make_evaluator("zero-shot", data), "retrieval": Retrieval(data)}
    metrics = evaluate_with_report(encoder, evaluators, tmp_path, title="Nine squares")
    assert metrics["retrieval"] == Retrieval(data).run(encoder)
    assert {f"recall/{color}" for color in COLORS} <= set(metrics["zero-shot"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"report.html", "confusion-zero-shot.png"}
    assert "Nine squares" in (tmp_path / "report.html").read_text()
