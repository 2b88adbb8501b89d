"""Association of images with a cue: the numbers of a loop after DataComp, ties, and bad data."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from PIL import Image

from clipkit.errors import DataError, MetricError
from clipkit.evaluation import (
    EmbedOptions,
    ImageAssociation,
    Suite,
    SuiteOptions,
    data_hash,
    load_outcomes,
    open_associations,
    outcome_metrics,
    read_suite,
    run_suite,
)
from clipkit.evaluation.comparison import metric_intervals
from clipkit.evaluation.evaluators.association import jaccard_of_choice
from tests.helpers.evaluation_data import picture, tiny_encoder
from tests.helpers.ranks import run_ranks

SIZES = (5, 5, 6, 10, 12, 12)
CUES = ("orange", "Full moon", "umbrella", "graze", "bald", "west")
NAMES = [f"tea party {number}" for number in range(14)]


def rows():
    rng = random.Random(3)
    for number, (cue, size) in enumerate(zip(CUES, SIZES, strict=True)):
        candidates = rng.sample(NAMES, size)
        yield f"i{number}", cue, candidates, rng.sample(candidates, 2 + number % 2)


def write_table(path, of_rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "candidates", "cue", "associations", "ID"])
        for number, (key, cue, candidates, associations) in enumerate(of_rows):
            lists = json.dumps(candidates), json.dumps(associations)
            writer.writerow([number, lists[0], cue, lists[1], key])


def files(root):
    """The table and the folder of WinoGAViL."""
    (root / "winogavil_images").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (root / "winogavil_images" / f"{name}.jpg").write_bytes(picture(number, "jpg"))
    write_table(root / "winogavil_dataset.csv", rows())
    return root


def archive(root):
    """The same with the archive as it is on the Hub."""
    source = files(root / "source")
    with ZipFile(root / "winogavil_images.zip", "w") as file:
        for image in sorted((source / "winogavil_images").iterdir()):
            file.write(image, f"winogavil_images/{image.name}")
    (source / "winogavil_dataset.csv").rename(root / "winogavil_dataset.csv")
    return root


def parquet(root):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    files(root)
    (root / "winogavil_dataset.csv").unlink()
    columns = zip(*rows(), strict=True)
    table = dict(zip(("ID", "cue", "candidates", "associations"), map(list, columns), strict=True))
    pq.write_table(pa.table(table), root / "test.parquet")
    return root


def expected(encoder):
    """DataComp's numbers: one image and text at a time, sets, and means in a loop."""
    scores = {}
    vectors = {}
    for number, name in enumerate(NAMES):
        image = Image.open(io.BytesIO(picture(number, "jpg")))
        vectors[name] = encoder.encode(images=[image])[1][0].double()
    for key, cue, candidates, associations in rows():
        article = "An" if cue[0].lower() in "aeiou" else "A"
        text = encoder.encode(texts=[f"{article} {cue.lower()}"])[0][0].double()
        similarity = {name: float(text @ vectors[name]) for name in candidates}
        best = set(sorted(candidates, key=similarity.__getitem__)[-len(associations) :])
        right = set(associations)
        scores[key] = len(best & right) / len(best | right)
    return scores


@pytest.mark.parametrize("form", [files, archive, parquet])
def test_every_form_gives_datacomps_numbers(tmp_path, form):
    encoder = tiny_encoder()
    scores = expected(encoder)

    evaluation = ImageAssociation(form(tmp_path), options=EmbedOptions(batch_size=4)).evaluate(
        encoder
    )

    (outcomes,) = evaluation.outcomes
    assert dict(
        zip(outcomes.keys, outcomes.columns["avg_jaccard_score"].tolist(), strict=True)
    ) == pytest.approx(scores)
    by_size = {
        size: [s for s, n in zip(scores.values(), SIZES, strict=True) if n == size]
        for size in SIZES
    }
    few, many = by_size[5] + by_size[6], by_size[10] + by_size[12]
    assert evaluation.metrics == pytest.approx(
        {
            "avg_jaccard_score": sum(scores.values()) / 6,
            "jaccard_score_5": sum(by_size[5]) / 2,
            "jaccard_score_6": by_size[6][0],
            "jaccard_score_10": by_size[10][0],
            "jaccard_score_12": sum(by_size[12]) / 2,
            "jaccard_score_5-6": sum(few) / 3,
            "jaccard_score_10-12": sum(many) / 3,
        }
    )
    assert 0 < evaluation.metrics["avg_jaccard_score"] < 1
    assert set(metric_intervals(evaluation.outcomes)) <= set(evaluation.metrics)
    assert encoder.training


def collapse(encoder):
    with torch.no_grad():
        for tower in (encoder.image_tower, encoder.text_tower):
            tower.register_forward_hook(lambda module, args, out: torch.ones_like(out))
    return encoder


def test_a_collapsed_model_scores_zero(tmp_path):
    metrics = ImageAssociation(files(tmp_path)).run(collapse(tiny_encoder()))
    assert set(metrics.values()) == {0.0}
    assert "jaccard_score_10-12" in metrics


@pytest.mark.parametrize(
    ("scores", "expected_score"),
    [
        ([0.9, 0.8, 0.1, 0.2], 1),
        ([0.9, 0.1, 0.8, 0.2], 1 / 3),
        ([0.1, 0.2, 0.8, 0.9], 0),
        ([0.9, 0.5, 0.5, 0.2], 1 / 3),  # a wrong one has the same score: no place for either
        ([0.5, 0.5, 0.9, 0.2], 0),  # one place for two
        ([0.5, 0.5, 0.1, 0.2], 1),  # the same score, and a place for both
    ],
)
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_ties_are_never_wins(scores, expected_score, order):
    correct = torch.tensor([True, True, False, False])
    score = jaccard_of_choice(torch.tensor(scores)[order], correct[order])
    assert score == pytest.approx(expected_score)


def test_nan_is_an_error():
    with pytest.raises(MetricError, match="NaN"):
        jaccard_of_choice(torch.tensor([0.1, torch.nan]), torch.tensor([True, False]))


def test_a_limit_counts_cues(tmp_path):
    data = open_associations(files(tmp_path))
    metrics = ImageAssociation(data, options=EmbedOptions(limit=2)).run(tiny_encoder())
    assert set(metrics) == {"avg_jaccard_score", "jaccard_score_5", "jaccard_score_5-6"}


def test_cues_of_the_same_candidates_are_one_group(tmp_path):
    files(tmp_path)
    names = NAMES[:5]
    write_table(tmp_path / "winogavil_dataset.csv", [("a", "x", names, names[:2])] * 2)
    (outcomes,) = ImageAssociation(tmp_path).evaluate(tiny_encoder()).outcomes
    assert outcomes.keys == ("a", "a#2")
    assert outcomes.groups[0] == outcomes.groups[1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("a", "", NAMES[:3], NAMES[:1]), "row 1: expected a cue.*no cue"),
        (("a", "x", NAMES[:3], NAMES[:3]), "row 1: .*associations"),
        (("a", "x", NAMES[:3], []), "row 1: .*associations"),
        (("a", "x", NAMES[:3], ["other"]), "row 1: .*associations"),
        (("a", "x", NAMES[:1] * 2, NAMES[:1]), "row 1: .*a name twice"),
        (("a", "x", "text", NAMES[:1]), "row 1: .*no list of names"),
        (("a", "x", ["../../x", "y"], ["y"]), "outside of"),
        (("a", "x", ["gone", "y"], ["y"]), "no such file"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, message):
    files(tmp_path)
    write_table(tmp_path / "winogavil_dataset.csv", [row])
    with pytest.raises(DataError, match=message):
        ImageAssociation(tmp_path).run(tiny_encoder())


def test_bad_sources_are_named(tmp_path):
    with pytest.raises(DataError, match=r"expected one table .*winogavil_dataset\.csv"):
        open_associations(tmp_path)
    (tmp_path / "t.csv").write_text("cue,candidates\n")
    with pytest.raises(DataError, match=r"t\.csv: expected the columns .*associations missing"):
        open_associations(tmp_path)
    (tmp_path / "t.csv").write_text("cue,candidates,associations\n")
    with pytest.raises(DataError, match=r"t\.csv: no samples found"):
        open_associations(tmp_path)
    with pytest.raises(DataError, match="expected a folder or table of this machine"):
        open_associations("https://example.org/data")


def test_a_damaged_archive_is_named(tmp_path):
    archive(tmp_path)
    (tmp_path / "winogavil_images.zip").write_bytes(b"PK torn")
    with pytest.raises(DataError, match=r"winogavil_images\.zip"):
        ImageAssociation(tmp_path).run(tiny_encoder())


def choose_on_rank(rank: int, world_size: int, path: Path, workers: int):
    options = EmbedOptions(batch_size=2, num_workers=workers)
    outcomes = ImageAssociation(path, options=options).evaluate(tiny_encoder()).outcomes[0]
    return outcomes.columns["avg_jaccard_score"].tolist(), outcomes.keys


def test_ranks_and_workers_choose_as_one_process(tmp_path):
    path = archive(tmp_path)
    alone = choose_on_rank(0, 1, path, 0)
    assert run_ranks(choose_on_rank, 2, path, 0) == [alone, alone]
    assert choose_on_rank(0, 1, path, 2) == alone


def test_the_suite_of_datacomp_measures_it_from_the_hub(tmp_path, hub, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = archive(tmp_path / "data")
    names = ("winogavil_dataset.csv", "winogavil_images.zip")
    hub.data_set("nlphuji/winogavil").commit({name: (root / name).read_bytes() for name in names})
    (entry,) = [e for e in read_suite("datacomp").entries if e.name.endswith("winogavil")]
    monkeypatch.setattr(
        "clipkit.evaluation.suites.runner.load_model", lambda *args: (tiny_encoder(), None)
    )

    run = run_suite(Suite("datacomp", (entry,)), ["tiny"], "out", SuiteOptions(device="cpu"))

    assert run.failures == ()
    (path,) = Path("out/datacomp").glob("*/eval_results.jsonl")
    line = json.loads(path.read_text())
    metrics = ImageAssociation(root).run(tiny_encoder())
    assert line["key"] == "misc/winogavil"
    assert line["metrics"] == {**metrics, "main_metric": metrics["jaccard_score_10-12"]}
    (outcomes,) = load_outcomes(next(Path("out").glob("*.outcomes.npz")))
    assert outcome_metrics(outcomes) == metrics
    details = json.loads(next(Path("out/details").glob("*.json")).read_text())
    assert details["hashes"]["data"] == data_hash(open_associations(root))
    assert details["num_samples"] == 6
