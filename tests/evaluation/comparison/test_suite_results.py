"""Results of a real suite are compared: one folder with two models, or two folders."""

import json
from pathlib import Path

import pytest

from clipkit.evaluation import Suite, SuiteEntry, SuiteOptions, outcome_metrics, run_suite
from clipkit.evaluation.comparison import Resampling, compare_records
from clipkit.evaluation.comparison.records import read_record
from clipkit.models import save_encoder
from tests.helpers.evaluation_data import tiny_encoder, write_layout

FAST = Resampling(replicates=100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("suite")
    for name, seed in (("a", 0), ("b", 1)):
        save_encoder(tiny_encoder(seed), folder / name)
    pairs = write_layout(folder / "pairs", (7, 5))
    classes = write_layout(folder / "classes", (9,), task="classification", start=20)
    entries = (
        SuiteEntry("wds/pairs", str(pairs)),
        SuiteEntry("wds/classes", str(classes), task="zero-shot"),
    )
    models = [str(folder / name) for name in "ab"]
    run_suite(Suite("mine", entries), models, folder / "out", SuiteOptions(device="cpu"))
    for name, model in zip("ab", models, strict=True):
        run_suite(
            Suite("mine", entries), [model], folder / f"of_{name}", SuiteOptions(device="cpu")
        )
    return folder


def test_two_models_of_a_suite(folder):
    comparison = compare_records([folder / "out"], resampling=FAST)
    assert [pair.data for pair in comparison.pairs] == ["wds/classes", "wds/pairs"]
    names = {pair.metrics[0].name for pair in comparison.pairs}
    assert names == {"top1", "text_to_image/recall_at_1"}
    assert comparison.left_out == ()
    for pair in comparison.pairs:
        assert pair.model != pair.baseline
        for change in pair.metrics:
            low, high = change.difference.interval or (change.difference.value,) * 2
            assert low <= change.difference.value <= high
            assert 0 < change.p_value <= 1


def test_two_folders_of_a_suite_are_the_same_comparison(folder):
    one = compare_records([folder / "out"], resampling=FAST)
    two = compare_records([folder / "of_a", folder / "of_b"], resampling=FAST)
    assert [pair.metrics for pair in one.pairs] == [pair.metrics for pair in two.pairs]


def test_outcomes_of_records_give_the_metrics_of_records(folder):
    for path in sorted((folder / "out").glob("*.json")):
        (record,) = read_record(path)
        assert record.data_hash
        values = {n: v for part in record.outcomes() for n, v in outcome_metrics(part).items()}
        written = json.loads(path.read_text())["metrics"]
        names = {"acc1": "top1", "image_retrieval_recall@1": "text_to_image/recall_at_1"}
        shared = [name for name in names if name in written]
        assert shared
        for name in shared:
            assert values[names[name]] == pytest.approx(written[name])
