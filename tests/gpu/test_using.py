"""What is done with a model after training, on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from clipkit.data import OpenClipTokenizer
from clipkit.evaluation import EmbedOptions, cached_embeddings, make_evaluator
from clipkit.metrics.functional import retrieval_recall
from tests.helpers import evaluation_data, tiny


def test_recalls_are_those_of_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.nn.functional.normalize(torch.randn(700, 32, generator=generator), dim=1)
    text = torch.nn.functional.normalize(image + 0.8 * torch.randn(700, 32), dim=1)
    owner = torch.arange(700)
    here = retrieval_recall(image, text, owner, chunk_size=256)
    there = retrieval_recall(image.cuda(), text.cuda(), owner.cuda(), chunk_size=256)
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
        encoder.cuda()
        there = encoder.encode_image(images.cuda()), encoder.encode_text(tokens.cuda())
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(other.cpu(), one, rtol=1e-4, atol=1e-5)


def test_texts_and_images_are_encoded_as_on_the_cpu() -> None:
    encoder = tiny.encoder().eval()
    images = [Image.new("RGB", (20, 16), color) for color in ("red", "navy", "white")]
    here = encoder.encode(["a dog", "a cat"], images, batch_size=2)
    there = encoder.cuda().encode(["a dog", "a cat"], images, batch_size=2)
    for one, other in zip(here, there, strict=True):
        assert not other.is_cuda
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["attention", "occlusion"])
def test_explanations_are_those_of_the_cpu(method: str) -> None:
    encoder = tiny.encoder().eval()
    image = Image.effect_noise((20, 16), 80).convert("RGB")
    here = encoder.explain(image, "a red square", method)
    there = encoder.cuda().explain(image, "a red square", method)
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
    encoder.cuda()
    assert evaluator.run(encoder) == pytest.approx(here, abs=1e-4, nan_ok=True)
    for _ in range(2):
        with cached_embeddings(encoder, tmp_path / "cache"):
            assert evaluator.run(encoder) == pytest.approx(here, abs=1e-4, nan_ok=True)


def test_a_checkpoint_of_a_gpu_is_read_and_exported_on_a_cpu(tmp_path: Path) -> None:
    from clipkit.models import save_open_clip

    encoder = tiny.encoder().cuda()
    save_open_clip(encoder, tmp_path / "open_clip_model.safetensors")
    assert (tmp_path / "open_clip_model.safetensors").stat().st_size > 0
