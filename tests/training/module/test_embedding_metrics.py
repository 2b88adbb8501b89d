"""Recall and health of the embeddings of data.val, as they are logged with a validation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.evaluation import Retrieval, open_dataset
from clipkit.evaluation.embedding_health import health_metrics
from clipkit.metrics.functional import retrieval_recall
from clipkit.training import ValidationOptions
from clipkit.training.callbacks import SaveCheckpoint
from clipkit.training.module.embedding_metrics import EmbeddingMetrics
from clipkit.training.strategies.fsdp import ShardedStrategy
from clipkit.types import Embeddings
from tests.helpers import tiny
from tests.helpers.ranks import run_ranks

NUM_VAL = 10
RECALLS = [f"{way}/recall_at_{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.shards(tmp_path_factory.mktemp("shards"), (9, 14), val=NUM_VAL)


def validated(folder: Path, run: Path, module: Any = None, **options: Any) -> dict[str, float]:
    trainer = tiny.trainer(run, **options)
    data = tiny.data(folder, 4, val=True, validation=ValidationOptions(3))
    (metrics,) = trainer.validate(module or tiny.module(), data, verbose=False)
    return dict(metrics)


def test_validation_logs_the_recall_that_the_evaluator_measures(folder, tmp_path):
    module = tiny.module()
    metrics = validated(folder, tmp_path, module)
    evaluator = Retrieval(open_dataset(str(folder / "val")))
    expected = evaluator.run(module.encoder)
    for name in RECALLS:
        assert metrics[f"val/{name}"] == pytest.approx(expected[name])
    assert metrics["val/retrieval_candidates"] == NUM_VAL
    pairs = evaluator.embed(module.encoder)
    health = health_metrics(pairs.images, pairs.texts, pairs.text_to_image)
    assert set(health) == {
        "effective_rank_image", "effective_rank_text", "uniformity_image", "uniformity_text",
        "alignment", "modality_gap",
    }  # fmt: skip
    for name, value in health.items():
        assert metrics[f"val/health/{name}"] == pytest.approx(value, rel=1e-3, abs=1e-4)


def test_a_test_logs_the_same(folder, tmp_path):
    data = tiny.data(folder, 4, val=True)
    (metrics,) = tiny.trainer(tmp_path).test(tiny.module(), data, verbose=False)
    assert {f"test/{name}" for name in RECALLS} <= metrics.keys()


def test_a_fit_saves_the_checkpoint_of_the_best_recall(folder, tmp_path):
    save = SaveCheckpoint(monitor="val/text_to_image/recall_at_1")
    trainer = tiny.trainer(tmp_path, save, max_steps=4, val_check_interval=2)
    trainer.fit(tiny.module(), tiny.data(folder, 4, val=True))
    assert save.best_model_score is not None
    assert 0 <= float(save.best_model_score) <= 1
    assert (tmp_path / "best.ckpt").exists()


def test_none_is_logged_if_none_is_wanted(folder, tmp_path):
    module = tiny.module(retrieval_pairs=0)
    logged = validated(folder, tmp_path, module)
    assert not any("recall" in name or "health" in name for name in logged)
    with pytest.raises(ConfigError, match=r"model\.retrieval_pairs: expected at least 0, got -1"):
        tiny.module(retrieval_pairs=-1)


def test_the_number_of_pairs_is_limited(folder, tmp_path):
    metrics = validated(folder, tmp_path, tiny.module(retrieval_pairs=4))
    assert metrics["val/retrieval_candidates"] == 4
    assert metrics["val/text_to_image/recall_at_5"] == 1  # of four candidates


def embedded(number: int, **changes: Any) -> tuple[Embeddings, Any]:
    generator = torch.Generator().manual_seed(number)
    rows = torch.nn.functional.normalize(torch.randn(2, 6, 5, generator=generator), dim=2)
    batch = replace(tiny.batch(6), sample_ids=torch.arange(6) + 10 * number, **changes)
    return Embeddings(rows[0], rows[1], torch.tensor(1.0)), batch


def test_captions_of_a_group_match_all_of_its_images():
    metrics = EmbeddingMetrics(100)
    groups = torch.tensor([4, 4, -1, -1, 4, 9])
    embeddings, batch = embedded(1, groups=groups)
    metrics.add(embeddings, batch)
    values = metrics.result(torch.device("cpu"))
    scores = embeddings.text @ embeddings.image.T
    matches = (groups[:, None] == groups) & (groups >= 0) | torch.eye(6, dtype=torch.bool)
    hits = matches[torch.arange(6), scores.argmax(1)].float().mean()
    assert values["text_to_image/recall_at_1"] == pytest.approx(float(hits))


def test_pairs_that_do_not_belong_together_are_left_out():
    metrics = EmbeddingMetrics(100)
    mask = torch.tensor([True, False, True, True, False, True])
    embeddings, batch = embedded(2, pair_mask=mask)
    metrics.add(embeddings, batch)
    values = metrics.result(torch.device("cpu"))
    image, text = embeddings.image[mask], embeddings.text[mask]
    expected = retrieval_recall(image, text, torch.arange(4))
    assert {name: float(values[name]) for name in expected} == pytest.approx(expected)
    assert metrics.result(torch.device("cpu")) == {}  # the batches are forgotten


def test_without_captions_the_health_of_images_is_measured():
    metrics = EmbeddingMetrics(100)
    embeddings, batch = embedded(3)
    metrics.add(replace(embeddings, text=None), replace(batch, tokens=None))
    names = {"health/effective_rank_image", "health/uniformity_image", "retrieval_candidates"}
    assert metrics.result(torch.device("cpu")).keys() == names


def test_embeddings_that_are_no_numbers_do_not_end_a_run():
    metrics = EmbeddingMetrics(100)
    embeddings, batch = embedded(4)
    embeddings.image[2] = torch.nan
    metrics.add(embeddings, batch)
    values = metrics.result(torch.device("cpu"))
    assert all(values[name].isnan() for name in RECALLS)


def test_batches_without_ids_give_nothing():
    metrics = EmbeddingMetrics(100)
    embeddings, batch = embedded(5)
    metrics.add(embeddings, replace(batch, sample_ids=None))
    assert metrics.result(torch.device("cpu")) == {}


def on_ranks(rank: int, world_size: int, folder: Path, run: Path, sharded: bool):
    strategy = ShardedStrategy() if sharded else "ddp"
    options = {"devices": world_size, "strategy": strategy} if world_size > 1 else {}
    return validated(folder, run, **options)


@pytest.mark.parametrize("sharded", [False, True])
def test_ranks_log_the_values_of_one_process(folder, tmp_path, sharded):
    expected = validated(folder, tmp_path / "one")
    for metrics in run_ranks(on_ranks, 2, folder, tmp_path / "two", sharded):
        for name in [*RECALLS, "retrieval_candidates"]:
            assert metrics[f"val/{name}"] == pytest.approx(expected[f"val/{name}"])
        for name in expected:
            if "health" in name:
                assert metrics[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-4)
