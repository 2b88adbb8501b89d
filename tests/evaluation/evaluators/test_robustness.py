"""Robustness of classifiers: counted as a loop does, on any number of ranks and workers."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from clipkit.errors import ConfigError, DataError
from clipkit.evaluation import (
    CorruptedImages,
    CorruptionRobustness,
    EmbedOptions,
    LabelHeadClassification,
    ZeroShotClassification,
    corrupt,
    open_dataset,
    outcome_metrics,
)
from clipkit.evaluation.memory import remembering
from clipkit.models import LinearLabelHead
from tests.helpers.evaluation_data import CLASSES, tiny_encoder, write_layout
from tests.helpers.factories import write_shard
from tests.helpers.ranks import run_ranks

KINDS = ("fog", "gaussian_noise")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_layout(tmp_path_factory.mktemp("data") / "set", (5, 4))


def write_corrupted(root, folder, kind, strength):
    """The images of a data set, corrupted and stored as any other data set."""
    data = open_dataset(root)
    samples = []
    for number in range(len(data)):
        sample = data.sample(number)
        with Image.open(io.BytesIO(sample.image)) as image:
            rgb = image.convert("RGB")
        side = min(rgb.size)
        scale = 224 / side
        size = [max(224, round(edge * scale)) for edge in rgb.size]
        square = rgb.resize(size, Image.Resampling.BICUBIC)
        left, top = (round((edge - 224) / 2) for edge in size)
        pixels = np.asarray(square.crop((left, top, left + 224, top + 224)))
        stored = io.BytesIO()
        Image.fromarray(corrupt(pixels, kind, strength, sample.key)).save(stored, "PNG")
        members = {"png": stored.getvalue(), "cls": str(sample.label).encode()}
        samples.append((sample.key, members))
    write_shard(folder / "test" / "0.tar", samples)
    (folder / "test" / "nshards.txt").write_text("1")
    for name in ("classnames.txt", "zeroshot_classification_templates.txt"):
        (folder / name).write_text((root / name).read_text())
    return folder


def test_accuracies_are_those_of_stored_corrupted_images(tmp_path, root):
    encoder = tiny_encoder()

    evaluation = CorruptionRobustness(ZeroShotClassification(root), KINDS, (1, 4)).evaluate(encoder)

    metrics = evaluation.metrics
    clean = ZeroShotClassification(root).evaluate(encoder)
    single = {}
    for kind in KINDS:
        for strength in (1, 4):
            folder = write_corrupted(root, tmp_path / f"{kind}{strength}", kind, strength)
            single[kind, strength] = ZeroShotClassification(folder).run(encoder)["top1"]
            assert metrics[f"{kind}_{strength}/top1"] == pytest.approx(single[kind, strength])
    assert metrics["clean/top1"] == pytest.approx(clean.metrics["top1"])
    mean = sum(single.values()) / 4
    assert metrics["corrupted/top1"] == pytest.approx(mean)
    assert metrics["mean_corruption_error"] == pytest.approx(1 - mean)
    assert metrics["fog/top1"] == pytest.approx((single["fog", 1] + single["fog", 4]) / 2)
    of_four = (single["fog", 4] + single["gaussian_noise", 4]) / 2
    assert metrics["strength_4/top1"] == pytest.approx(of_four)
    (outcomes,) = evaluation.outcomes
    assert outcomes.keys == clean.outcomes[0].keys
    assert metrics == outcome_metrics(outcomes)


def test_a_label_head_is_measured_too(root):
    encoder = tiny_encoder()
    encoder.label_head = LinearLabelHead(encoder.embedding_dim, len(CLASSES))
    encoder.label_head.class_names = CLASSES
    torch.nn.init.normal_(encoder.label_head.linear.weight)

    metrics = CorruptionRobustness(LabelHeadClassification(root), ["fog"], [5]).run(encoder)

    assert metrics["clean/top1"] == LabelHeadClassification(root).run(encoder)["top1"]
    assert set(metrics) == {
        "clean/top1", "corrupted/top1", "mean_corruption_error", "fog/top1", "strength_5/top1",
        "fog_5/top1",
    }  # fmt: skip


def measure_on_rank(rank: int, world_size: int, root, workers: int):
    options = EmbedOptions(batch_size=4, num_workers=workers)
    robustness = CorruptionRobustness(ZeroShotClassification(root, options=options), KINDS, [5])
    (outcomes,) = robustness.evaluate(tiny_encoder()).outcomes
    return {name: column.tolist() for name, column in outcomes.columns.items()}


def test_ranks_and_workers_measure_what_one_process_measures(root):
    alone = measure_on_rank(0, 1, root, 0)

    assert run_ranks(measure_on_rank, 2, root, 0) == [alone, alone]
    assert measure_on_rank(0, 1, root, 1) == alone


def test_embeddings_of_corrupted_images_are_not_kept_in_memory(root, monkeypatch):
    kept = []
    monkeypatch.setattr(
        "clipkit.evaluation.embedding.recall",
        lambda key, owners, compute: kept.append(key) or compute(),
    )
    with remembering():
        CorruptionRobustness(ZeroShotClassification(root), ["fog"], [1, 2]).run(tiny_encoder())
    assert len(kept) == 1  # those of the images as they are


def test_class_embeddings_are_computed_once(root, monkeypatch):
    classifier, calls = ZeroShotClassification(root), []
    compute = classifier._classifier
    monkeypatch.setattr(classifier, "_classifier", lambda e: calls.append(e) or compute(e))
    CorruptionRobustness(classifier, ["fog"], [1, 2]).run(tiny_encoder())
    assert len(calls) == 1


def test_damaged_images_and_wrong_options_are_named(tmp_path, root):
    write_shard(tmp_path / "0.tar", [("bad", {"png": b"no image", "cls": b"0"})])
    (tmp_path / "classnames.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="bad"):
        CorruptedImages(open_dataset(tmp_path), "fog", 1).sample(0)
    classifier = ZeroShotClassification(root)
    for kinds, strengths in ((["smog"], [1]), ([], [1]), (["fog"], []), (["fog"], [9])):
        with pytest.raises(ConfigError):
            CorruptionRobustness(classifier, kinds, strengths)
