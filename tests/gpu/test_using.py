"""What is done with a model after training, on a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipkit.data import OpenClipTokenizer
from clipkit.evaluation import EmbedOptions, cached_embeddings, make_evaluator
from clipkit.export import export_encoder
from clipkit.metrics.functional import retrieval_recall
from clipkit.models import load_encoder
from tests.gpu.device import DEVICE
from tests.helpers import evaluation_data, tiny


def test_recalls_are_those_of_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.nn.functional.normalize(torch.randn(700, 32, generator=generator), dim=1)
    text = torch.nn.functional.normalize(image + 0.8 * torch.randn(700, 32), dim=1)
    owner = torch.arange(700)
    here = retrieval_recall(image, text, owner, chunk_size=256)
    there = retrieval_recall(image.to(DEVICE), text.to(DEVICE), owner.to(DEVICE), chunk_size=256)
    assert {k: float(v) for k, v in there.items()} == pytest.approx(
        {k: float(v) for k, v in here.items()}, abs=2e-3
    )


def test_embeddings_are_those_of_the_cpu() -> None:
    encoder = tiny.encoder().eval()
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    tokens = torch.nn.utils.rnn.pad_sequence(
        [
            torch.tensor(OpenClipTokenizer(context_length=16).encode(f"a {n} square"))
            for n in range(6)
        ],
        batch_first=True,
    )
    with torch.no_grad():
        here = encoder.encode_image(images), encoder.encode_text(tokens)
        encoder.to(DEVICE)
        there = encoder.encode_image(images.to(DEVICE)), encoder.encode_text(tokens.to(DEVICE))
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(other.cpu(), one, rtol=1e-4, atol=1e-5)


def test_texts_and_images_are_encoded_as_on_the_cpu() -> None:
    encoder = tiny.encoder().eval()
    images = [Image.new("RGB", (20, 16), color) for color in ("red", "navy", "white")]
    here = encoder.encode(["a dog", "a cat"], images, batch_size=2)
    there = encoder.to(DEVICE).encode(["a dog", "a cat"], images, batch_size=2)
    for one, other in zip(here, there, strict=True):
        assert not other.is_cuda
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["attention", "occlusion"])
def test_explanations_are_those_of_the_cpu(method: str) -> None:
    encoder = tiny.encoder().eval()
    image = Image.effect_noise((20, 16), 80).convert("RGB")
    here = encoder.explain(image, "a red square", method)
    there = encoder.to(DEVICE).explain(image, "a red square", method)
    torch.testing.assert_close(there.heat_map.cpu(), here.heat_map, rtol=1e-3, atol=1e-4)
    for (word, weight), (other, of_cpu) in zip(there.words, here.words, strict=True):
        assert word == other
        assert weight == pytest.approx(of_cpu, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("task", ["retrieval", "zero-shot", "linear-probe", "nearest-neighbours"])
def test_evaluations_are_those_of_the_cpu(tmp_path: Path, task: str) -> None:
    """Also from embeddings that the GPU has put into the cache."""
    for split, start in (("test", 0), ("train", 100)):
        evaluation_data.write_layout(tmp_path / "data", split=split, start=start, counts=(20, 20))
    evaluator = make_evaluator(task, tmp_path / "data", options=EmbedOptions(batch_size=4))
    encoder = evaluation_data.tiny_encoder().eval()
    here = evaluator.run(encoder)
    encoder.to(DEVICE)
    assert evaluator.run(encoder) == pytest.approx(here, abs=1e-4, nan_ok=True)
    for _ in range(2):
        with cached_embeddings(encoder, tmp_path / "cache"):
            assert evaluator.run(encoder) == pytest.approx(here, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("format", ["open_clip", "onnx"])
def test_an_export_of_a_gpu_computes_the_same_on_a_cpu(tmp_path: Path, format: str) -> None:
    """Formats compare what they wrote with the encoder themselves."""
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    encoder = tiny.encoder().to(DEVICE).eval()
    export_encoder(encoder, tmp_path / "export", format)
    if format == "open_clip":
        here = load_encoder(tmp_path / "export").encode(["a red square"]).texts
        there = encoder.encode(["a red square"]).texts
        torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-5)


def test_a_collection_is_that_of_the_cpu_and_is_searched(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from clipkit.collection import Collection
    from clipkit.collection.embedding import EmbedPlan, embed_collection, start_collection
    from clipkit.search import QueryPart, Searcher

    source = tiny.shards(tmp_path / "data")
    hits, embedded = [], []
    for device in (torch.device("cpu"), DEVICE):
        encoder = tiny.encoder().eval().to(device)
        output = tmp_path / f"on {device.type} {len(hits)}"
        shards = str(source / "train" / "*.tar")
        plan = EmbedPlan("tiny", shards, output, batch_size=4, num_workers=0)
        opened = plan.open_data()
        info = start_collection(plan, encoder, None, opened)
        assert embed_collection(plan, info, encoder, opened).num_missing == 0
        collection = Collection(output)
        rows = collection.images(np.arange(len(collection)))
        embedded.append(torch.from_numpy(rows.astype(np.float32)))
        searcher = Searcher(output, encoder, device=str(device))
        found = searcher.search([QueryPart(text="a red square")])
        hits.append({hit.row: hit.score for hit in found.hits})
    torch.testing.assert_close(embedded[1], embedded[0], rtol=0, atol=2e-3)  # of 16 bits
    assert hits[1] == pytest.approx(hits[0], abs=4e-3)
