"""Records of ``evaluate`` and of suites, and what is refused to be compared."""

import json
from dataclasses import replace

import numpy as np
import pytest

from clipkit.errors import ConfigError, DataError
from clipkit.evaluation.comparison import Comparison, Resampling, compare_records, comparison_json
from clipkit.evaluation.comparison.records import outcomes_path, read_record
from clipkit.evaluation.report.comparison_page import render_comparison
from tests.helpers.records import classified, write_record, write_suite_record

FAST = Resampling(replicates=100)


@pytest.fixture
def two(tmp_path):
    return [
        write_record(tmp_path / "before.json", classified(0.5)),
        write_record(tmp_path / "after.json", classified(0.8, seed=1)),
    ]


def test_two_files_are_compared(two):
    comparison = compare_records(two, resampling=FAST)
    (pair,) = comparison.pairs
    assert (pair.baseline, pair.model, pair.data) == ("before", "after", "data/animals")
    assert (pair.task, pair.num_units, pair.num_groups) == ("zero-shot", 200, 200)
    assert pair.metrics[0].name == "top1"
    assert pair.metrics[0].verdict == "better"
    assert pair.metrics[0].p_value < 1e-6
    assert len(pair.classes) == 6


def test_the_same_seed_gives_the_same_comparison(two):
    assert compare_records(two, resampling=FAST) == compare_records(two, resampling=FAST)
    other = compare_records(two, resampling=Resampling(replicates=100, seed=1))
    assert other != compare_records(two, resampling=FAST)


def test_more_models_are_compared_with_the_first_or_a_chosen_one(two, tmp_path):
    third = write_record(tmp_path / "third.json", classified(0.6, seed=2))
    pairs = compare_records([*two, third], resampling=FAST).pairs
    assert [(pair.baseline, pair.model) for pair in pairs] == [
        ("before", "after"), ("before", "third"),
    ]  # fmt: skip
    pairs = compare_records([*two, third], baseline="third", resampling=FAST).pairs
    assert {pair.baseline for pair in pairs} == {"third"}
    with pytest.raises(ConfigError, match=r"--baseline: expected one of before.*'thrid'.*'third'"):
        compare_records([*two, third], baseline="thrid")


def test_tasks_of_a_record_are_compared_one_by_one(tmp_path):
    parts = [
        replace(classified(0.5), prefix="zero-shot/"),
        replace(classified(0.6), prefix="head/"),
    ]
    names = {"tasks": ["zero-shot", "head"], "primary_metrics": {"zero-shot": "zero-shot/top1"}}
    first = write_record(tmp_path / "a.json", parts, **names)
    second = write_record(tmp_path / "b.json", classified(0.7, seed=3))
    comparison = compare_records([first, second], resampling=FAST)
    assert [pair.task for pair in comparison.pairs] == ["zero-shot"]
    assert comparison.pairs[0].metrics[0].name == "top1"
    assert comparison.left_out == ("head: only a has it",)


def test_two_folders_of_suites_are_one_table(tmp_path):
    for number, dataset in enumerate(("wds/cifar10", "wds/pets", "wds/food101")):
        write_suite_record(tmp_path / "a", "small", dataset, classified(0.5, seed=number))
        write_suite_record(tmp_path / "b", "large", dataset, classified(0.7, seed=9 + number))
    write_suite_record(tmp_path / "b", "large", "wds/svhn", classified(0.7))
    (tmp_path / "a/results.json").write_text("[1, 2]")
    (tmp_path / "a/notes.json").write_text("{torn")
    comparison = compare_records([tmp_path / "a", tmp_path / "b"], resampling=FAST)
    assert [pair.data for pair in comparison.pairs] == ["wds/cifar10", "wds/food101", "wds/pets"]
    assert comparison.pairs[0].model == "large weights"
    assert comparison.left_out == (
        "wds/svhn by zeroshot_classification: only large weights has it",
    )


def test_models_of_one_folder_are_compared_with_one_another(tmp_path):
    for model in ("large", "small"):
        for dataset in ("cifar10", "pets"):
            outcomes = classified(0.5, seed=len(model))
            write_suite_record(tmp_path, model, dataset, outcomes)
    write_suite_record(tmp_path, "large", "pets", classified(0.5), language="de")
    comparison = compare_records([tmp_path], baseline="small weights", resampling=FAST)
    assert [(pair.data, pair.model) for pair in comparison.pairs] == [
        ("cifar10", "large weights"), ("pets", "large weights"),
    ]  # fmt: skip
    assert "pets (de)" in comparison.left_out[0]


def test_models_of_the_same_name_are_told_apart_by_their_files(tmp_path):
    paths = [
        write_record(tmp_path / name, classified(0.5, seed=n), model="last.ckpt", weights="raw")
        for n, name in enumerate(("a.json", "b.json"))
    ]
    (pair,) = compare_records(paths, resampling=FAST).pairs
    assert pair.baseline == f"last.ckpt (raw weights) ({paths[0]})"
    assert pair.model == f"last.ckpt (raw weights) ({paths[1]})"


def test_other_prompts_are_refused_unless_asked(two):
    write_record(two[1], classified(0.8, seed=1), templates={"zero-shot": ["{}", "a {}"]})
    with pytest.raises(DataError, match=r"after\.json: expected the prompts.*--any-prompts"):
        compare_records(two, resampling=FAST)
    assert compare_records(two, any_prompts=True, resampling=FAST).pairs


def test_other_images_are_refused_and_counted(two):
    write_record(two[1], classified(0.8, seed=1, num_images=120))
    with pytest.raises(
        DataError, match=r"expected the 200 images.*got 120, of which 120 are shared"
    ):
        compare_records(two, resampling=FAST)


def test_other_files_under_the_same_names_are_refused(two, tmp_path):
    """Many data sets number their samples: keys alone do not tell them apart."""
    for path, digest in zip(two, ("aaa", "bbb"), strict=True):
        write_record(path, classified(0.5), data_hashes={"zero-shot": digest})
    with pytest.raises(DataError, match=r"got other files, though 200 of 200 names of images"):
        compare_records(two, resampling=FAST)
    write_record(two[1], classified(0.5), data_hashes={"zero-shot": "aaa"})
    assert compare_records(two, resampling=FAST).pairs


def test_hashes_of_a_suite_are_in_its_details(tmp_path):
    for folder, prompts in (("a", "x"), ("b", "y")):
        path = write_suite_record(tmp_path / folder, folder, "pets", classified(0.5))
        details = tmp_path / folder / "details" / path.name
        details.parent.mkdir()
        details.write_text(json.dumps({"hashes": {"data": "d", "prompts": prompts}}))
    with pytest.raises(DataError, match="expected the prompts"):
        compare_records([tmp_path / "a", tmp_path / "b"], resampling=FAST)
    details.write_text(json.dumps({"hashes": {"data": "e", "prompts": "x"}}))
    with pytest.raises(DataError, match="got other files"):
        compare_records([tmp_path / "a", tmp_path / "b"], resampling=FAST)
    for content in ("", "[]", '{"hashes": 3}', '{"hashes": {"prompts": "x"}}'):
        details.write_text(content)
        read_record(path)
    assert compare_records([tmp_path / "a", tmp_path / "b"], resampling=FAST).pairs


def test_missing_outcomes_are_named(two):
    outcomes_path(two[1]).unlink()
    with pytest.raises(DataError, match=r"after\.outcomes\.npz, found no such file; run the eval"):
        compare_records(two)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text"])
def test_torn_outcomes_are_refused(two, content):
    outcomes_path(two[1]).write_bytes(content)
    with pytest.raises(DataError, match=r"after\.outcomes\.npz"):
        compare_records(two)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"model": 3}',
        '{"model": "a", "metrics": {}}',
        "\ud83d",
        "[" * 100_000,
    ],
)
def test_other_files_are_refused(tmp_path, content, two):
    path = tmp_path / "other.json"
    path.write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(DataError, match=r"other\.json: expected a record"):
        compare_records([two[0], path])


def test_paths_that_cannot_be_compared(tmp_path, two):
    with pytest.raises(DataError, match=r"nothing\.json: cannot be read: No such file"):
        compare_records([tmp_path / "nothing.json", two[0]])
    with pytest.raises(ConfigError, match="expected at least two models, got before"):
        compare_records(two[:1])
    with pytest.raises(DataError, match="is also in"):
        compare_records([two[0], two[0]])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected JSON records of evaluations, found none"):
        compare_records([tmp_path / "empty", two[0]])
    write_record(two[1], classified(0.5), tasks=["linear-probe"])
    with pytest.raises(
        DataError, match=r"expected a task of .*before\.json \(zero-shot\), got lin"
    ):
        compare_records(two)


def test_odd_values_of_a_record_are_read(tmp_path):
    path = write_record(tmp_path / "a.json", None, tasks="zero-shot", primary_metrics=[1])
    (record,) = read_record(path)
    assert (record.task, record.primary_metric) == ("", "")


def test_json_has_no_values_that_json_lacks(two):
    comparison = compare_records(two, resampling=FAST)
    pair = comparison.pairs[0]
    undefined = replace(pair.metrics[0], p_value=np.nan, corrected_p_value=np.nan)
    content = comparison_json(replace(comparison, pairs=(replace(pair, metrics=(undefined,)),)))
    change = json.loads(json.dumps(content, allow_nan=False))["pairs"][0]["metrics"][0]
    assert change["p_value"] is None
    assert change["verdict"] == "better"
    assert change["difference"]["interval"] == list(pair.metrics[0].difference.interval)


def test_the_page_shows_what_changed(two, tmp_path):
    page = render_comparison(compare_records(two, resampling=FAST))
    for text in ("before", "after", "Top-1", "Mean per class recall", "frog", "better", "95 %"):
        assert text in page
    assert "Overview" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    third = write_record(tmp_path / "third.json", classified(0.6, seed=2), model="<b>third</b>")
    page = render_comparison(compare_records([*two, third], resampling=FAST))
    assert "Overview" in page
    assert "<b>third</b>" not in page
    assert "Nothing was compared" in render_comparison(Comparison(()))
