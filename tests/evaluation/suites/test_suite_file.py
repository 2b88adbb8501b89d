"""Suites as YAML files: what is read, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipkit.errors import ConfigError
from clipkit.evaluation import read_suite, shipped_suites


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_names_addresses_and_languages(tmp_path):
    suite = read_suite(
        write(
            tmp_path,
            """
root: https://example.org/wds_{name}/{language}
split: val
datasets:
  - wds/vtab/pets
  - {name: flowers, data: data/flowers, split: test, task: zero-shot, limit: 5}
  - name: coco
    language: [de, "no"]
    caption: json:{language}
    correct: {merge_captions: true}
  - {name: shots, task: few-shot, probe: {shots: [1, 2], train_split: fit}}
""",
        )
    )
    pets, flowers, german, norwegian, shots = suite.entries
    assert suite.name == "mine"
    assert (pets.data, pets.split) == ("https://example.org/wds_vtab-pets/en", "val")
    assert (flowers.data, flowers.split, flowers.limit) == ("data/flowers", "test", 5)
    assert (german.caption, german.data) == ("json:de", "https://example.org/wds_coco/de")
    assert german.correct.merge_captions
    assert norwegian.title == "coco (no)"
    assert (shots.probe.shots, shots.probe.train_split) == ((1, 2), "fit")
    assert [e.name for e in suite.in_languages(("de",)).entries] == ["coco"]
    with pytest.raises(ConfigError, match="expected one of the suite 'mine', de, en, no, got 'fr'"):
        suite.in_languages(("fr",))


def test_root_is_replaced(tmp_path):
    path = write(tmp_path, "datasets: [wds/a/b, {name: c, data: elsewhere}]")
    first, second = read_suite(path, "/data/{name}").entries
    assert (first.data, second.data) == ("/data/a-b", "elsewhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "expected the keys root, split, datasets"),
        ("datasets: []", "datasets: expected a list of data sets"),
        ("", "expected the keys"),
        ("dataset: [a]", r"unknown key 'dataset'; did you mean 'datasets'\?"),
        ("datasets: [a]", "expected 'data', or 'root' of the suite"),
        ("root: data\ndatasets: [a]", "root: expected a place for the name .*{name}, got 'data'"),
        ("datasets: [3]", r"datasets\[0\]: expected a name, or a mapping with 'name', got 3"),
        ("datasets: [{name: a, data: b, taks: x}]", r"unknown key 'taks'; did you mean 'task'\?"),
        ("datasets: [{name: a, data: b, task: zero}]", "task: expected one of retrieval"),
        ("datasets: [{name: a, data: 3}]", "data: expected str, got 3"),
        ("datasets: [{name: a, data: b, limit: true}]", "limit: expected int | None, got True"),
        ("datasets: [{name: a, data: b, limit: 0}]", "limit: expected at least 1, got 0"),
        ("datasets: [{name: a, data: b, probe: 3}]", "probe: expected a mapping of options"),
        ("datasets: [{name: a, data: b, probe: {shot: 3}}]", "did you mean 'shots'"),
        ("datasets: [{name: a, data: b, probe: {shots: x}}]", "shots: expected"),
        ("datasets: [{name: a, data: b, robustness: {classifier: x}}]", "robustness: classifier:"),
        ("datasets: [{name: a, data: b, datacomp: {key: x}}]", "datacomp: .*'name'"),
        ("datasets: [{name: a, data: b, language: [no]}]", "language: expected texts, got False"),
        ("datasets: [{name: a, data: b, language: []}]", "language: expected texts, got"),
        ("datasets: [{name: a, data: b}, {name: a, data: c}]", "a occurs twice"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_suite(write(tmp_path, text))
    assert "mine.yaml" in str(caught.value)


def test_a_suite_that_does_not_exist():
    with pytest.raises(ConfigError, match=r"one of clip_benchmark, .*did you mean 'robustness'"):
        read_suite("robustnes")


def test_shipped_suites_are_readable():
    names = [
        "clip_benchmark", "compositionality", "datacomp", "multilingual", "retrieval", "robustness",
    ]  # fmt: skip
    assert shipped_suites() == names
    sizes = {name: len(read_suite(name).entries) for name in shipped_suites()}
    assert sizes == {
        "clip_benchmark": 41,
        "compositionality": 7 + 1 + 4,
        "datacomp": 40,
        "multilingual": 11 + 2 + 2 + 11 + 36 + 5,
        "retrieval": 3,
        "robustness": 7,
    }
    pets = next(e for e in read_suite("clip_benchmark").entries if e.name == "wds/vtab/pets")
    assert pets.data == "https://huggingface.co/datasets/clip-benchmark/wds_vtab-pets/tree/main"


def test_datacomp_has_38_main_metrics():
    tasks = [entry.datacomp for entry in read_suite("datacomp").entries]
    assert len({task.key for task in tasks}) == len({task.name for task in tasks}) == 40
    assert sum(bool(task.main_metric) for task in tasks) == 38
    others = {task.key: task.main_metric for task in tasks if task.main_metric != "acc1"}
    assert others["vtab/pets"] == "mean_per_class_recall"
    assert others["retrieval/flickr_1k_test_image_text_retrieval"] == "mean_recall@1"
    association = next(t for t in read_suite("datacomp").entries if t.task == "association")
    assert association.datacomp.main_metric == "jaccard_score_10-12"
    assert not any(e.unavailable for e in read_suite("datacomp").entries if e.datacomp.main_metric)
    assert (
        len(others) == 4 + 2 + 1 + 2 + 2 + 2
    )  # recalls, retrieval, WinoGAViL, WILDS, groups, none


def test_the_files_of_a_language():
    suite = read_suite("multilingual").in_languages(("jp",))
    coco, xtd, imagenet = suite.entries
    assert coco.data == "data/multilingual_mscoco_captions-jp"
    assert xtd.title == "xtd10 (jp)"
    assert imagenet.zero_shot.class_names == "clip_benchmark/datasets/jp_classnames.json:imagenet1k"


def test_corruptions_are_options_of_an_entry(tmp_path):
    path = tmp_path / "suite.yaml"
    entry = (
        "{name: a, data: a, task: corruptions, robustness: {corruptions: [fog], strengths: [3]}}"
    )
    path.write_text(f"datasets:\n  - {entry}\n")
    (read,) = read_suite(path).entries
    assert (list(read.robustness.corruptions), list(read.robustness.strengths)) == (["fog"], [3])
    path.write_text(f"datasets:\n  - {entry.replace('fog', 'smog, 3')}\n")
    with pytest.raises(ConfigError, match="robustness"):
        read_suite(path)
