"""Re-ranked retrieval against a loop over single pairs."""

from __future__ import annotations

import json

import pytest
import torch

from clipkit.cli.main import main
from clipkit.errors import ConfigError
from clipkit.evaluation import RerankedRetrieval, Retrieval
from clipkit.models import CrossAttentionFusion, save_encoder, with_fusion
from tests.helpers import tiny


@pytest.fixture(scope="module")
def model():
    encoder = tiny.encoder()
    torch.manual_seed(1)
    return with_fusion(encoder, CrossAttentionFusion(16, 1, 2)).eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.shards(tmp_path_factory.mktemp("data")) / "val"


@torch.no_grad()
def naive_recall(model, data, num_best):
    """Recall at 1 from images to texts after re-ranking, one pair at a time."""
    embedded = Retrieval(data).embed(model)
    tokenizer = model.text_tower.tokenizer_name
    from clipkit.data import tokenizer_from_name

    tokenizer = tokenizer_from_name(tokenizer, context_length=model.text_tower.context_length)
    texts = [model.read_text(tokenizer(text)).tokens for text in embedded.captions]
    source = Retrieval(data).data
    from clipkit.models.inputs import transform_of

    transform = transform_of(model.image_tower)
    hits = 0
    for row in range(len(embedded.keys)):
        best = (embedded.texts @ embedded.images[row]).topk(num_best).indices.tolist()
        pixels = transform.of_file(source.sample(row).image)
        image = model.read_image(pixels[None]).tokens
        scores = [
            float(model.match(model.fuse({"image": image, "text": texts[j]}).pooled)) for j in best
        ]
        first = best[max(range(len(best)), key=scores.__getitem__)]
        hits += int(embedded.text_to_image[first]) == row
    return hits / len(embedded.keys)


@pytest.mark.parametrize("num_best", [1, 4])
def test_recall_is_that_of_a_loop(model, data, num_best):
    before = Retrieval(data).run(model)
    after = RerankedRetrieval(Retrieval(data), num_best).run(model)
    assert {name: after[name] for name in before} == before
    wanted = naive_recall(model, data, num_best)
    assert after["reranked/image_to_text/recall_at_1"] == pytest.approx(wanted)
    assert after["reranked/text_to_image/seconds_per_query"] > 0
    if num_best == 1:
        name = "text_to_image/recall_at_1"
        assert after[f"reranked/{name}"] == before[name]


def test_the_command(model, data, tmp_path, capsys):
    save_encoder(model, tmp_path / "joint")
    words = ["evaluate", "--model", str(tmp_path / "joint"), "--data", str(data), "--device", "cpu"]
    output = tmp_path / "metrics.json"
    assert main([*words, "--task", "retrieval", "--rerank", "3", "--output", str(output)]) == 0
    metrics = json.loads(output.read_text())["metrics"]
    expected = RerankedRetrieval(Retrieval(data), 3).run(model)
    for name in ("text_to_image/recall_at_1", "reranked/text_to_image/recall_at_1"):
        assert metrics[name] == pytest.approx(expected[name])
    (line,) = [row for row in capsys.readouterr().out.splitlines() if "image/seconds_per" in row]
    assert "%" not in line
    assert main([*words, "--task", "zero-shot", "--rerank", "3"]) == 2
    retrieval = [*words, "--task", "retrieval", "--report", str(tmp_path / "report.html")]
    assert main([*retrieval, "--rerank", "3"]) == 2
    assert main(retrieval) == 0
    assert main([*words, "--suite", "robustness", "--rerank", "3"]) == 2


def test_encoders_without_a_fusion_are_refused(data):
    with pytest.raises(ConfigError, match="expected an encoder with a fusion of images and texts"):
        RerankedRetrieval(Retrieval(data)).run(tiny.encoder())
    with pytest.raises(ConfigError, match="num_best: expected at least 1, got 0"):
        RerankedRetrieval(Retrieval(data), 0)
