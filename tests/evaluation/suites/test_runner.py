"""Suites from models and data to the files of other tools; what is kept, and what fails."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from sklearn.metrics import f1_score

from clipkit.data.storage.cache import ShardCache
from clipkit.errors import ConfigError
from clipkit.evaluation import (
    DataCompTask,
    EmbedOptions,
    Retrieval,
    RobustnessOptions,
    Suite,
    SuiteEntry,
    SuiteOptions,
    ZeroShotClassification,
    ZeroShotOptions,
    data_hash,
    load_outcomes,
    model_hash,
    open_dataset,
    outcome_metrics,
    run_suite,
)
from clipkit.evaluation.suites import runner
from clipkit.models import load_model, save_encoder
from tests.helpers.evaluation_data import picture, tiny_encoder, write_layout
from tests.helpers.factories import write_shard
from tests.helpers.sound_sets import sound_encoder, write_esc50

KEYS = ["dataset", "model", "pretrained", "task", "metrics", "language"]
CPU = SuiteOptions(device="cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two models, and data of three kinds."""
    folder = tmp_path_factory.mktemp("made")
    for name, seed in (("a", 0), ("b", 1)):
        save_encoder(tiny_encoder(seed), folder / name)
    write_layout(folder / "pairs", (7, 5))
    write_layout(folder / "classes", (9,), task="classification", start=20)
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch) -> Path:
    """A folder of its own with copies, in which a test runs."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def both(made, tmp_path_factory):
    """The two models measured in ``out``, and what was reported: folder, run, titles."""
    folder = shutil.copytree(made, tmp_path_factory.mktemp("both"), dirs_exist_ok=True)
    titles: list[tuple[str, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = run_suite(
            suite(), ["a", "b"], "out", CPU, lambda title, _, left: titles.append((title, left))
        )
    return folder, run, titles


@pytest.fixture
def measured(both, folder) -> Path:
    """A folder of its own with copies, in which ``out`` has the results of both models."""
    return shutil.copytree(both[0], folder, dirs_exist_ok=True)


def suite(**more: str) -> Suite:
    pairs = SuiteEntry(
        "wds/pairs", "pairs", datacomp=DataCompTask("retrieval/p", "P", "mean_recall@1")
    )
    classes = SuiteEntry(
        "wds/vtab/classes",
        "classes",
        task="zero-shot",
        datacomp=DataCompTask("c", "C", "F1-macro_all"),
    )
    return Suite("mine", (pairs, classes, *(SuiteEntry(name, data) for name, data in more.items())))


def test_sounds_are_measured_next_to_images_by_the_same_model(folder):
    save_encoder(sound_encoder(), folder / "towers")
    write_esc50(folder / "ESC-50", folds=2, per_class=1)
    sounds = SuiteEntry("esc50", "ESC-50", "zero-shot", "fold2", modality="sound")
    images = SuiteEntry("classes", "classes", "zero-shot")
    run = run_suite(Suite("mixed", (sounds, images)), ["towers"], "out", CPU)
    assert (run.num_complete, run.num_measured, run.failures) == (2, 2, ())
    details = {p.stem: json.loads(p.read_text()) for p in (folder / "out/details").glob("*.json")}
    requests = {d["request"]["name"]: d["request"] for d in details.values()}
    assert requests["esc50"]["modality"] == "sound"
    assert "modality" not in requests["classes"]  # so that results of earlier versions are kept
    expected = ZeroShotClassification(open_dataset("ESC-50", "fold2", modality="sound"))
    found = next(d["metrics"] for d in details.values() if d["request"]["name"] == "esc50")
    assert found == pytest.approx(expected.run(sound_encoder().eval()))
    assert run_suite(Suite("mixed", (sounds, images)), ["towers"], "out", CPU).num_measured == 0
    with pytest.raises(ConfigError, match="modality: expected image or sound"):
        SuiteEntry("esc50", "ESC-50", modality="smell")


def few_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for half a minute until a server is given up."""
    cache = ShardCache(retries=1, backoff_seconds=0)
    monkeypatch.setattr("clipkit.data.storage.cache.default_cache", lambda: cache)


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_each_result_has_exactly_the_keys_of_clip_benchmark(both, measured):
    _, run, told = both
    assert (run.num_complete, run.num_measured, run.failures) == (4, 4, ())
    assert told[0] == ("a on wds/pairs", 3)
    assert told[-1] == ("b on wds/vtab/classes", 0)
    stem = "pairs_a_clipkit_en_zeroshot_retrieval"
    record = json.loads(Path(f"out/{stem}.json").read_text())
    assert list(record) == KEYS
    assert list(record.values())[:4] == ["wds/pairs", "clipkit", "a", "zeroshot_retrieval"]
    encoder = load_model("a", "cpu").encoder
    recalls = Retrieval("pairs").run(encoder)
    expected = {
        f"{kind}_retrieval_recall@{k}": recalls[f"{direction}/recall_at_{k}"]
        for kind, direction in (("image", "text_to_image"), ("text", "image_to_text"))
        for k in (1, 5, 10)
    }
    assert record["metrics"] == expected
    classes = json.loads(
        Path("out/vtab_classes_a_clipkit_en_zeroshot_classification.json").read_text()
    )
    accuracies = ZeroShotClassification("classes").run(encoder)
    assert classes["metrics"] == {
        "acc1": accuracies["top1"],
        "acc5": accuracies["top5"],
        "mean_per_class_recall": accuracies["mean_per_class_recall"],
    }
    details = json.loads(Path(f"out/details/{stem}.json").read_text())
    assert details["metrics"] == recalls
    assert details["hashes"]["model"] == model_hash(encoder)
    assert details["hashes"]["data"] == data_hash(open_dataset("pairs"))
    outcomes = load_outcomes(f"out/{stem}.outcomes.npz")
    measured = {key: value for part in outcomes for key, value in outcome_metrics(part).items()}
    assert measured.items() <= recalls.items()


def test_tables_of_all_results(measured):
    with Path("out/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert list(rows[0])[:4] == ["acc1", "acc5", "mean_per_class_recall", "dataset"]
    for row in rows:
        assert row["model_fullname"] == f"{row['model']} {row['pretrained']}"
        task = "zeroshot_retrieval" if row["dataset"] == "wds/pairs" else "zeroshot_classification"
        assert row["task"] == task
        assert bool(row["acc1"]) != bool(row["text_retrieval_recall@5"])
    manifest = pyarrow.parquet.read_table("out/manifest.parquet").to_pylist()
    assert [row["num_samples"] for row in manifest] == [12, 12, 9, 9]
    assert len({row["model_hash"] for row in manifest}) == 2
    assert len({row["data_hash"] for row in manifest}) == 2
    assert [row["prompts_hash"] is None for row in manifest] == [True, True, False, False]
    assert not any(row["error"] for row in manifest)


def test_lines_of_datacomp(folder):
    left = SuiteEntry(
        "more", "classes", task="zero-shot", datacomp=DataCompTask("w", "W", "acc_wg")
    )
    run = run_suite(Suite("mine", (*suite().entries, left)), ["a"], "out", CPU)

    lines = Path("out/datacomp/clipkit a/eval_results.jsonl").read_text().splitlines()
    pairs, classes = (json.loads(line) for line in lines)
    assert [list(line) for line in (pairs, classes)] == [["key", "dataset", "metrics"]] * 2
    values = pairs["metrics"]
    both = values["image_retrieval_recall@1"], values["text_retrieval_recall@1"]
    assert values["main_metric"] == values["mean_recall@1"] == sum(both) / 2
    predictions = ZeroShotClassification("classes").predict(load_model("a", "cpu").encoder)
    labels, chosen = predictions.labels.numpy(), predictions.scores.argmax(1).numpy()
    expected = f1_score(labels, chosen, average="macro", labels=np.unique(labels))
    assert classes["metrics"]["main_metric"] == pytest.approx(expected, abs=1e-9)
    assert (classes["key"], classes["dataset"]) == ("c", "C")
    assert run.left_out == {"w": "not in DataComp's file: acc_wg is not measured"}


def test_what_is_complete_is_not_measured_again(measured, monkeypatch):
    content = {name: Path("out", name).read_bytes() for name in files(measured / "out")}
    monkeypatch.setattr(runner, "load_model", None)  # loads no model

    run = run_suite(suite(), ["a", "b"], "out", CPU)

    assert (run.num_complete, run.num_measured) == (4, 0)
    Path("out/other.json").write_text('{"metrics": {}, "model": "of another tool"}')
    Path("out/torn.json").write_text("{")
    tables = ("results.csv", "manifest.parquet", "eval_results.jsonl")
    now = {name: Path("out", name).read_bytes() for name in content}
    assert {n: c for n, c in now.items() if not n.endswith(tables)} == {
        n: c for n, c in content.items() if not n.endswith(tables)
    }
    assert now["results.csv"] == content["results.csv"]


@pytest.mark.parametrize("change", ["model", "data", "limit", "precision", "json", "details"])
def test_what_changed_is_measured_again(measured, change):
    folder, options = measured, CPU
    if change == "model":
        save_encoder(tiny_encoder(3), folder / "a")
    elif change == "data":
        write_layout(folder / "pairs", (6, 6))
    elif change == "limit":
        options = SuiteOptions(EmbedOptions(limit=4), "cpu")
    elif change == "precision":
        options = SuiteOptions(EmbedOptions(precision="bf16"), "cpu")
    elif change == "json":
        path = folder / "out" / "pairs_a_clipkit_en_zeroshot_retrieval.json"
        path.write_bytes(path.read_bytes()[:40])
    else:
        (folder / "out" / "details" / "pairs_a_clipkit_en_zeroshot_retrieval.json").unlink()

    run = run_suite(suite(), ["a"], "out", options)

    assert run.num_measured == (2 if change in ("model", "limit", "precision") else 1)
    assert run_suite(suite(), ["a"], "out", options).num_measured == 0


def test_failures_are_named_and_the_rest_is_measured(folder, monkeypatch):
    few_retries(monkeypatch)
    (folder / "broken").mkdir()
    (folder / "broken" / "open_clip_config.json").write_text("{}")
    (folder / "empty" / "test").mkdir(parents=True)
    dead = suite(dead="http://127.0.0.1:9/wds", empty="empty", last="pairs")
    dead = Suite("mine", (*dead.entries[2:4], *dead.entries[:2], dead.entries[4]))

    run = run_suite(dead, ["broken", "nowhere.ckpt", "a"], "out", CPU)

    assert (run.num_complete, run.num_measured) == (3, 3)
    failed = {failure.title: failure.reason for failure in run.failures}
    assert len(failed) == 5 + 5 + 2
    assert "the model cannot be loaded" in failed["broken on last"]
    assert "no such file" in failed["nowhere.ckpt on wds/pairs"]
    assert "127.0.0.1:9" in failed["a on dead"]
    assert "empty" in failed["a on empty"]
    rows = pyarrow.parquet.read_table("out/manifest.parquet").to_pylist()
    assert sum(row["error"] is not None for row in rows) == 12
    assert len([name for name in files(folder / "out") if name.endswith("retrieval.json")]) == 4


def test_an_unexpected_error_is_a_failure_of_its_data_set(folder, monkeypatch, caplog):
    def explode(*args, **options):
        raise RuntimeError("CUDA out of memory\nand more")

    monkeypatch.setattr("clipkit.evaluation.evaluators.zero_shot.embed_pairs", explode)
    run = run_suite(suite(), ["a"], "out", CPU)
    (failure,) = run.failures
    assert failure.reason == "RuntimeError: CUDA out of memory"
    assert run.num_measured == 1
    assert "Traceback" in caplog.text


def test_nothing_to_measure_is_refused(folder):
    entry = SuiteEntry("a", "pairs", unavailable="has no images")
    with pytest.raises(ConfigError, match="none of 1 data sets"):
        run_suite(Suite("mine", (entry,)), ["a"], "out", CPU)
    with pytest.raises(ConfigError, match="got 0 models"):
        run_suite(suite(), [], "out", CPU)
    twice = Suite("mine", (SuiteEntry("a/b", "pairs"), SuiteEntry("a_b", "classes")))
    with pytest.raises(ConfigError, match=r"a/b .* a_b would have the same result file"):
        run_suite(twice, ["a"], "out", CPU)
    assert not Path("out").exists()


def test_the_second_model_reads_only_its_own_cached_embeddings(measured):
    options = SuiteOptions(device="cpu", cache="cache")
    first = run_suite(suite(), ["a", "b"], "first", options)
    second = run_suite(suite(), ["a", "b"], "again", options)
    assert first.num_measured == second.num_measured == 4
    for name in files(measured / "out"):
        if name.endswith(".json") and "/" not in name:
            expected = Path("out", name).read_bytes()
            assert Path("first", name).read_bytes() == expected
            assert Path("again", name).read_bytes() == expected


def test_groups_of_datacomp_are_read_from_a_vector(folder):
    samples = []
    for number in range(12):
        file = io.BytesIO()
        np.save(file, np.array([number % 3, 7], dtype=np.int64))
        members = {"png": picture(number), "cls": str(number % 6).encode(), "npy": file.getvalue()}
        samples.append((f"s{number}", members))
    root = write_layout(folder / "regions", (1,), task="classification")
    write_shard(root / "test" / "0.tar", samples)
    entries = tuple(
        SuiteEntry(name, "regions", task="zero-shot", datacomp=DataCompTask(name, name, metric),
                   zero_shot=ZeroShotOptions(group_field="npy:0"))
        for name, metric in (("geode", "acc_wg"), ("dollar_street", "acc_top5_wg"))
    )  # fmt: skip
    run = run_suite(Suite("mine", entries), ["a"], "out", CPU)
    assert (run.left_out, run.failures) == ({}, ())

    predictions = ZeroShotClassification("regions").predict(load_model("a", "cpu").encoder)
    order = predictions.scores.argsort(1, descending=True)
    hits = [
        [
            int(label) in row[:k].tolist()
            for row, label in zip(order, predictions.labels, strict=True)
        ]
        for k in (1, 5)
    ]
    expected = [min(np.mean(of_k[region::3]) for region in range(3)) for of_k in hits]
    lines = Path("out/datacomp/clipkit a/eval_results.jsonl").read_text().splitlines()
    found = [json.loads(line)["metrics"]["main_metric"] for line in lines]
    assert found == pytest.approx(expected)


def test_pair_choices_are_a_task_of_suites(folder):
    for name in ("one.png", "two.png"):
        (folder / name).write_bytes(picture(len(name)))
    table = "image,true_caption,false_caption\none.png,a dog,a cat\ntwo.png,a tree,a house\n"
    (folder / "choices.csv").write_text(table)
    entry = SuiteEntry("aro", "choices.csv", task="pair-choice")
    run = run_suite(Suite("mine", (entry,)), ["a"], "out", CPU)
    assert run.failures == ()
    record = json.loads(Path("out/aro_a_clipkit_en_image_caption_selection.json").read_text())
    assert set(record["metrics"]) == {"text_acc", "acc"}
    details = json.loads(
        Path("out/details/aro_a_clipkit_en_image_caption_selection.json").read_text()
    )
    assert details["num_samples"] == 2
    assert len(details["hashes"]["data"]) == 32


def test_a_task_that_clip_benchmark_lacks_keeps_its_metrics(folder):
    options = RobustnessOptions(corruptions=["contrast"], strengths=[5])
    entry = SuiteEntry("hard", "classes", task="corruptions", robustness=options)
    gone = SuiteEntry("gone", "gone", task="corruptions", robustness=options)
    run = run_suite(Suite("mine", (entry, gone)), ["a"], "out", CPU)
    assert [failure.title for failure in run.failures] == ["a on gone"]  # with lists as options
    record = json.loads(Path("out/hard_a_clipkit_en_corruptions.json").read_text())
    assert {"clean/top1", "corrupted/top1"} <= set(record["metrics"])
    assert run_suite(Suite("mine", (entry,)), ["a"], "out", CPU).num_measured == 0
