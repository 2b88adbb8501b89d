"""Embeddings on disk: the same numbers, never those of other weights, data or texts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from clipkit.evaluation import (
    EmbedOptions,
    Retrieval,
    ZeroShotClassification,
    cached_embeddings,
    embed_pairs,
    model_hash,
    open_dataset,
)
from clipkit.models import DualEncoder, load_model, save_encoder
from tests.helpers.evaluation_data import tiny_encoder, write_layout
from tests.helpers.factories import write_shard


@pytest.fixture
def root(tmp_path) -> Path:
    return write_layout(tmp_path / "set", (7, 5))


@pytest.fixture
def encoder() -> DualEncoder:
    return tiny_encoder()


class Passes:
    """Number of images and texts that pass the towers of an encoder."""

    def __init__(self, encoder: DualEncoder) -> None:
        self.images = self.texts = 0
        encoder.image_tower.register_forward_hook(lambda _m, args, _o: self._image(args[0]))
        encoder.text_tower.register_forward_hook(lambda _m, args, _o: self._text(args[0]))

    def _image(self, batch) -> None:
        self.images += len(batch)

    def _text(self, batch) -> None:
        self.texts += len(batch)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.npz"))


def test_the_second_time_no_tower_runs_and_the_numbers_are_the_same(tmp_path, root, encoder):
    cache = tmp_path / "cache"
    plain = embed_pairs(encoder, open_dataset(root), EmbedOptions())
    accuracy = ZeroShotClassification(root).run(encoder)
    with cached_embeddings(encoder, cache):
        first = embed_pairs(encoder, open_dataset(root), EmbedOptions())
        assert ZeroShotClassification(root).run(encoder) == accuracy
    passes = Passes(encoder)
    with cached_embeddings(encoder, cache):
        second = embed_pairs(encoder, open_dataset(root), EmbedOptions())
        assert ZeroShotClassification(root).run(encoder) == accuracy
    assert (passes.images, passes.texts) == (0, 0)
    for pairs in (first, second):
        assert torch.equal(pairs.images, plain.images)
        assert torch.equal(pairs.texts, plain.texts)
        assert torch.equal(pairs.text_to_image, plain.text_to_image)
        assert torch.equal(pairs.labels, plain.labels)
        assert (pairs.keys, pairs.captions) == (plain.keys, plain.captions)
    assert len(files(cache)) == 3  # images, captions, prompts


def test_changes_of_weights_data_limit_and_precision_are_other_embeddings(tmp_path, root, encoder):
    cache = tmp_path / "cache"

    def embed(limit: int | None = None, precision: str = "fp32") -> torch.Tensor:
        options = EmbedOptions(limit=limit, precision=precision)
        with cached_embeddings(encoder, cache):
            return embed_pairs(encoder, open_dataset(root), options, captions=False).images

    embed()
    assert len(embed(limit=3)) == 3
    embed(precision="bf16")
    assert len(files(cache)) == 3
    before = embed()
    with torch.no_grad():
        next(encoder.image_tower.parameters()).add_(0.5)
    after = embed()
    assert len(files(cache)) == 4
    assert not torch.equal(before, after)
    # the same keys and sizes with another content: only the time of the change differs
    shard = root / "test" / "0.tar"
    content = bytearray(shard.read_bytes())
    time_ns = shard.stat().st_mtime_ns
    write_shard(root / "test" / "0.tar", [("s0", {"txt": b"new", "png": _png(), "cls": b"1"})])
    assert len(embed()) == 6
    shard.write_bytes(content)
    os.utime(shard, ns=(time_ns, time_ns + 10**9))
    embed()
    assert len(files(cache)) == 6


def _png() -> bytes:
    from tests.helpers.evaluation_data import picture

    return picture(3)


@pytest.mark.parametrize("damage", ["torn", "empty", "other", "shape"])
def test_a_damaged_file_is_computed_again(tmp_path, root, encoder, damage, caplog):
    import numpy as np

    cache = tmp_path / "cache"
    evaluator = Retrieval(root)
    with cached_embeddings(encoder, cache):
        recalls = evaluator.run(encoder)
    for path in files(cache):
        content = path.read_bytes()
        if damage == "shape":
            np.savez(path, format=np.array("clipkit-embeddings-1"), rows=np.zeros((2, 3), "f4"))
        else:
            half = content[: len(content) // 2]
            path.write_bytes({"torn": half, "empty": b"", "other": b"PK" + half}[damage])
    with cached_embeddings(encoder, cache):
        assert evaluator.run(encoder) == recalls
    assert "again" in caplog.text
    passes = Passes(encoder)
    with cached_embeddings(encoder, cache):
        assert evaluator.run(encoder) == recalls
    assert (passes.images, passes.texts) == (0, 0)


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path, root, encoder, caplog):
    (tmp_path / "file").write_text("no folder")
    with cached_embeddings(encoder, tmp_path / "file" / "cache"):
        recalls = Retrieval(root).run(encoder)
    assert recalls == Retrieval(root).run(encoder)
    assert "embeddings are not kept" in caplog.text


def test_another_encoder_within_the_block_is_not_cached(tmp_path, root, encoder):
    other = tiny_encoder(seed=1)
    with cached_embeddings(encoder, tmp_path / "cache"):
        Retrieval(root).run(other)
    assert files(tmp_path / "cache") == []


def test_equal_models_have_equal_hashes(tmp_path, encoder):
    save_encoder(encoder, tmp_path / "model")
    loaded = load_model(tmp_path / "model", "cpu").encoder
    assert model_hash(loaded) == model_hash(encoder)
    assert model_hash(tiny_encoder(seed=1)) != model_hash(encoder)
    encoder.image_tower.interpolation = "bilinear"
    assert model_hash(loaded) != model_hash(encoder)
