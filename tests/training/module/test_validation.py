"""Every validation sample counts once: in val/loss, in predict, over any number of ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from clipkit.cli.main import main
from clipkit.training import ValidationOptions
from clipkit.training.callbacks import SaveCheckpoint
from clipkit.training.module.term_means import TermMeans
from tests.helpers import tiny
from tests.helpers.factories import pair, write_shard
from tests.helpers.ranks import run_ranks

NUM_VAL = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten validation pairs, by class as a packed folder has them; the last one has no label."""
    folder = tiny.shards(tmp_path_factory.mktemp("shards"), (9, 14))
    order = sorted(range(NUM_VAL), key=lambda number: number % tiny.NUM_CLASSES)
    samples = [(f"v{i}", pair(i, label=i != order[-1])) for i in order]
    write_shard(folder / "val" / "00000.tar", samples)
    return folder


class Seen(Callback):
    """The keys of every validation batch of this rank."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, ...]] = []

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, *_):
        self.batches.append(batch.keys)


def validated(folder: Path, run: Path, batch_size: int, **options: Any) -> tuple[Any, Any]:
    """The metrics of an untrained model, and the batches of this rank."""
    seen = Seen()
    trainer = tiny.trainer(run, seen, **options)
    data = tiny.data(folder, 4, val=True, validation=ValidationOptions(batch_size))
    (metrics,) = trainer.validate(tiny.module(labels=True), data, verbose=False)
    return metrics, seen.batches


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(4, [3, 3, 4]), (8, [5, 5]), (16, [10]), (1, [1] * NUM_VAL)]
)
def test_all_samples_are_validated(folder, tmp_path, batch_size, sizes):
    metrics, batches = validated(folder, tmp_path, batch_size)
    assert [len(batch) for batch in batches] == sizes
    keys = [key for batch in batches for key in batch]
    assert sorted(keys) == [f"v{i}" for i in range(NUM_VAL)]
    # The label loss does not depend on the batch: it is the mean over the nine labelled samples.
    whole, _ = validated(folder, tmp_path, NUM_VAL)
    assert metrics["val/label"] == pytest.approx(whole["val/label"], rel=1e-5)
    weighted = metrics["val/contrastive_weighted"] + metrics["val/label_weighted"]
    assert metrics["val/loss"] == pytest.approx(weighted, rel=1e-6)


def test_means_are_weighted_by_the_samples_of_each_term():
    means = TermMeans()
    for label, number in ((1.0, 0.0), (2.0, 3.0), (8.0, 1.0)):
        means.add(
            {
                "loss": torch.tensor(99.0),
                "contrastive": torch.tensor(label),
                "contrastive_weighted": torch.tensor(2 * label),
                "contrastive_num_samples": torch.tensor(4.0),
                "label": torch.tensor(label),
                "label_weighted": torch.tensor(label / 2),
                "label_num_samples": torch.tensor(number),
            }
        )
    found = {name: value.item() for name, value in means.result().items()}
    assert found["contrastive"] == pytest.approx(11 / 3)
    assert found["label"] == pytest.approx((3 * 2 + 8) / 4)
    assert found["loss"] == pytest.approx(2 * 11 / 3 + (3 * 2 + 8) / 8)
    assert found["label_num_samples"] == pytest.approx(4 / 3)
    assert means.result() == {}


def test_no_label_at_all_is_no_division_by_zero():
    means = TermMeans()
    zero = torch.zeros(())
    means.add({"loss": zero, "label": zero, "label_weighted": zero, "label_num_samples": zero})
    assert {float(value) for value in means.result().values()} == {0.0}


@pytest.mark.parametrize("batch_size", [4, 8, 64])
def test_predict_writes_every_pair(folder, tmp_path, batch_size):
    words = tiny.words(folder, tmp_path, f"--data.val={folder}/val/*.tar")
    assert main(["predict", *words, f"--data.validation.batch_size={batch_size}"]) == 0
    stored = np.load(tmp_path / "embeddings.rank0.npz")
    assert sorted(stored["keys"].tolist()) == [f"v{i}" for i in range(NUM_VAL)]
    assert stored["image"].shape == stored["text"].shape == (NUM_VAL, tiny.CONFIG["embed_dim"])


def test_best_checkpoint_looks_at_all_samples(folder, tmp_path):
    """The metric of ``best.ckpt`` is the one that a validation of its weights gives."""
    saver = SaveCheckpoint(monitor="val/loss", mode="min")
    trainer = tiny.trainer(tmp_path, saver, max_epochs=2)
    data = tiny.data(folder, 4, val=True, validation=ValidationOptions(8))
    trainer.fit(tiny.module(labels=True), data)
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)
    (metrics,) = tiny.trainer(tmp_path).validate(
        tiny.module(labels=True),
        tiny.data(folder, 4, val=True, validation=ValidationOptions(8)),
        ckpt_path=str(tmp_path / "best.ckpt"),
        verbose=False,
        weights_only=True,
    )
    state = next(v for k, v in best["callbacks"].items() if "SaveCheckpoint" in k)
    assert -state["best"] == pytest.approx(metrics["val/loss"], rel=1e-5)


def validate_ranks(rank: int, world_size: int, folder: Path, run: Path, batch_size: int) -> Any:
    options = {"devices": world_size, "num_nodes": 1, "strategy": "ddp"}
    metrics, batches = validated(folder, run, batch_size, **options)
    return {name: float(value) for name, value in metrics.items()}, batches


@pytest.mark.parametrize(("world_size", "batch_size"), [(2, 2), (3, 1), (3, 2)])
def test_ranks_validate_every_sample_once_and_agree(folder, tmp_path, world_size, batch_size):
    found = run_ranks(validate_ranks, world_size, folder, tmp_path, batch_size, timeout_seconds=240)
    keys = [key for _, batches in found for batch in batches for key in batch]
    assert sorted(keys) == [f"v{i}" for i in range(NUM_VAL)]
    assert len({json.dumps(metrics) for metrics, _ in found}) == 1
    one, _ = validated(folder, tmp_path, NUM_VAL)
    assert found[0][0]["val/label"] == pytest.approx(one["val/label"], rel=1e-4)
