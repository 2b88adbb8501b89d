"""Re-ranked retrieval against a loop over single pairs."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from clipkit.cli.main import main
from clipkit.data import TextField, tokenizer_from_name
from clipkit.errors import ConfigError
from clipkit.evaluation import (
    EmbedOptions,
    RerankedRetrieval,
    Retrieval,
    RetrievalOptions,
    open_dataset,
)
from clipkit.evaluation.evaluators import reranked_retrieval
from clipkit.evaluation.joint_tokens import text_tokens
from clipkit.evaluation.report.collect.modalities import compared_images
from clipkit.evaluation.report.collect.reranking import reranking_of
from clipkit.metrics.reranking import reranked_pair_ranks
from clipkit.models import CrossAttentionFusion, save_encoder, with_fusion
from clipkit.models.inputs import transform_of
from tests.helpers import tiny
from tests.helpers.factories import pair, write_shard


@pytest.fixture(scope="module")
def model():
    encoder = tiny.encoder()
    torch.manual_seed(1)
    return with_fusion(encoder, CrossAttentionFusion(16, 1, 2)).eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.shards(tmp_path_factory.mktemp("data")) / "val"


@torch.no_grad()
def naive_recalls(model, data, num_best):
    """Recall at 1 in both directions after re-ranking, one pair at a time."""
    embedded = Retrieval(data).embed(model)
    name, length = model.text_tower.tokenizer_name, model.text_tower.context_length
    tokenizer = tokenizer_from_name(name, context_length=length)
    texts = [model.read_text(tokenizer(text)).tokens for text in embedded.captions]
    source, transform = Retrieval(data).data, transform_of(model.image_tower)
    images = [
        model.read_image(transform.of_file(source.sample(row).image)[None]).tokens
        for row in range(len(embedded.keys))
    ]

    def logit(i, j):
        matching = float(model.match(model.fuse({"image": images[i], "text": texts[j]}).pooled))
        cosine = float(embedded.images[i] @ embedded.texts[j])
        return float(model.logit_scale) * cosine + matching

    owners = embedded.text_to_image.tolist()
    of_images, of_texts = [], []
    for i in range(len(images)):
        best = (embedded.texts @ embedded.images[i]).topk(num_best).indices.tolist()
        logits = [logit(i, j) for j in best]
        of_images.append(owners[best[logits.index(max(logits))]] == i)
    for j in range(len(texts)):
        best = (embedded.images @ embedded.texts[j]).topk(num_best).indices.tolist()
        logits = [logit(i, j) for i in best]
        of_texts.append(best[logits.index(max(logits))] == owners[j])
    return sum(of_images) / len(of_images), sum(of_texts) / len(of_texts)


@pytest.mark.parametrize("num_best", [1, 4])
def test_recall_is_that_of_a_loop(model, data, num_best):
    before = Retrieval(data).run(model)
    after = RerankedRetrieval(Retrieval(data), num_best).run(model)
    assert {name: after[name] for name in before} == before
    of_images, of_texts = naive_recalls(model, data, num_best)
    assert after["reranked/image_to_text/recall_at_1"] == pytest.approx(of_images)
    assert after["reranked/text_to_image/recall_at_1"] == pytest.approx(of_texts)
    assert after["reranked/text_to_image/seconds_per_query"] > 0
    if num_best == 1:
        name = "text_to_image/recall_at_1"
        assert after[f"reranked/{name}"] == before[name]


def test_each_direction_scores_the_image_and_the_text_of_its_pairs(model, data, monkeypatch):
    """Scores of a random table, so that an exchange of rows and columns changes the recall."""
    embedded = Retrieval(data).embed(model)
    scale = model.logit_scale.detach()
    owners, similarities = embedded.text_to_image, embedded.texts @ embedded.images.T
    for seed in range(5):
        torch.manual_seed(seed)
        table = 10 * torch.randn(len(embedded.images), len(embedded.texts))
        monkeypatch.setattr(
            reranked_retrieval,
            "pair_scores",
            lambda j, i, t, pairs, s=table, **_: s[tuple(pairs.T)],
        )
        after = RerankedRetrieval(Retrieval(data), 4).run(model)
        table = table + scale * similarities.T
        best = similarities.topk(4, dim=1).indices
        of_texts = best.gather(1, table.T.gather(1, best).argmax(1, keepdim=True))[:, 0]
        best = similarities.T.topk(4, dim=1).indices
        of_images = best.gather(1, table.gather(1, best).argmax(1, keepdim=True))[:, 0]
        hits = (
            (of_texts == owners).double().mean(),
            (owners[of_images] == torch.arange(len(table))).double().mean(),
        )
        assert after["reranked/text_to_image/recall_at_1"] == pytest.approx(float(hits[0]))
        assert after["reranked/image_to_text/recall_at_1"] == pytest.approx(float(hits[1]))


def test_seconds_are_those_of_the_fusion_alone(model, data, monkeypatch):
    clock = [0.0]
    plain = reranked_pair_ranks

    def advancing(*args):
        clock[0] += 100
        return plain(*args)

    def scoring(joint, images, texts, pairs, **_):
        clock[0] += 1
        return torch.zeros(len(pairs))

    fake = SimpleNamespace(perf_counter=lambda: clock[0])
    monkeypatch.setattr(reranked_retrieval, "time", fake)
    monkeypatch.setattr(reranked_retrieval, "reranked_pair_ranks", advancing)
    monkeypatch.setattr(reranked_retrieval, "pair_scores", scoring)
    after = RerankedRetrieval(Retrieval(data), 2).run(model)
    count = len(Retrieval(data).embed(model).keys)
    assert after["reranked/image_to_text/seconds_per_query"] == pytest.approx(1 / count)


def test_tokens_leave_the_device_batch_by_batch(model, monkeypatch):
    events = []
    plain = model.read_text
    monkeypatch.setattr(model, "read_text", lambda ids: events.append("read") or plain(ids))
    monkeypatch.setattr(torch.Tensor, "cpu", lambda one: events.append("cpu") or one)
    tokenizer = tokenizer_from_name(model.text_tower.tokenizer_name, context_length=16)
    tokens = text_tokens(model, tokenizer, ["a", "a dog", "b"], EmbedOptions(batch_size=1))
    assert len(tokens.values) == 3
    assert events == ["read", "cpu", "cpu"] * 3


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
    retrieval = [*words, "--task", "retrieval", "--report"]
    assert main([*retrieval, str(tmp_path / "report"), "--rerank", "3"]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert 'id="reranking"' in page
    assert "Selected at random among the queries whose first candidate changed" in page
    assert main([*retrieval, str(tmp_path / "plain")]) == 0
    assert 'id="reranking"' not in (tmp_path / "plain" / "report.html").read_text()
    assert main([*words, "--suite", "robustness", "--rerank", "3"]) == 2


def test_changes_are_those_of_the_first_candidates(model, data):
    """The table and the gallery of the page, from what a loop over queries gives."""
    compared = RerankedRetrieval(Retrieval(data, ks=(1, 3)), 4).compare(model)
    samples = compared_images(Retrieval(data).data, compared.pair)
    content = reranking_of(compared, samples, num_queries=100)
    embedded = Retrieval(data).embed(model)
    owners = embedded.text_to_image.tolist()
    texts, images = content.directions
    assert (texts.direction, images.direction) == ("Text to image", "Image to text")
    metrics = compared.evaluation.metrics
    for part, name in ((texts, "text_to_image"), (images, "image_to_text")):
        names = [f"{name}/recall_at_{k}" for k in (1, 3)]
        assert [one[1:] for one in part.recalls] == [
            (metrics[one], metrics[f"reranked/{one}"]) for one in names
        ]
        assert part.seconds_per_query == metrics[f"reranked/{name}/seconds_per_query"] > 0
        assert 0 < part.num_changed == len(part.examples) <= part.num_queries
    before = (embedded.texts @ embedded.images.T).argmax(1).tolist()
    after = compared.directions[1].first_after.tolist()
    changed = [row for row in range(len(owners)) if before[row] != after[row]]
    assert texts.num_changed == len(changed)
    right = sum(after[row] == owners[row] for row in range(len(owners)))
    assert right / len(owners) == pytest.approx(metrics["reranked/text_to_image/recall_at_1"])
    gained = sum(one.effect == "better" for one in texts.examples)
    lost = sum(one.effect == "worse" for one in texts.examples)
    difference = (
        metrics["reranked/text_to_image/recall_at_1"] - metrics["text_to_image/recall_at_1"]
    )
    assert (gained - lost) / len(owners) == pytest.approx(difference)


def test_a_tie_is_no_win_on_the_page_either(model, data, monkeypatch):
    """Without any difference of scores, no first candidate belongs to its query."""
    monkeypatch.setattr(
        reranked_retrieval, "reranking_scores", lambda joint, ties, *_: torch.zeros_like(ties)
    )
    compared = RerankedRetrieval(Retrieval(data, ks=(1,)), 4).compare(model)
    assert compared.evaluation.metrics["reranked/text_to_image/recall_at_1"] == 0
    content = reranking_of(
        compared, compared_images(Retrieval(data).data, compared.pair), num_queries=100
    )
    for part in content.directions:
        assert not any(one.is_match[1] for one in part.examples)
    pairs = compared.pair.candidates.pairs.tolist()
    firsts = [list(pair) for pair in enumerate(compared.directions[0].first_after.tolist())]
    assert not [pair for pair in firsts if pair in pairs]


@pytest.mark.parametrize("of_captions", [False, True])
def test_groups_of_queries_are_those_of_separate_retrievals(model, tmp_path, of_captions):
    """Each group's captions are the only candidates of an image, if captions have groups."""
    samples = [pair(index) for index in range(6)]
    for index, members in enumerate(samples):
        text = f"a {index} dog\nein {index} Hund"
        members["txt"] = text.encode()
        group = ["en", "de"] if of_captions else ("x" if index % 2 else "y")
        members["json"] = json.dumps({"group": group}).encode()
    write_shard(tmp_path / "0.tar", [(f"{i:03d}", one) for i, one in enumerate(samples)])
    correct = RetrievalOptions(group_field="json:group")
    caption = TextField(one_per_line=True)
    data = open_dataset(str(tmp_path / "0.tar"), caption=caption)
    got = RerankedRetrieval(Retrieval(data, correct=correct), 3).run(model)
    names = ["de", "en"] if of_captions else ["x", "y"]
    for direction in ("image_to_text", "text_to_image"):
        groups = [got[f"reranked/{direction}/group/{n}/recall_at_1"] for n in names]
        assert f"{direction}/group/{names[0]}/recall_at_1" in got
        expected = sum(groups) / 2
        if direction == "text_to_image" or not of_captions:
            assert got[f"reranked/{direction}/recall_at_1"] == pytest.approx(expected)
    if of_captions:
        english = [(f"{i:03d}", {**one, "txt": one["txt"].split(b"\n")[0]})
                   for i, one in enumerate(samples)]  # fmt: skip
        write_shard(tmp_path / "en" / "0.tar", english)
        alone = RerankedRetrieval(Retrieval(str(tmp_path / "en" / "0.tar")), 3).run(model)
        name = "reranked/image_to_text/recall_at_1"
        assert got["reranked/image_to_text/group/en/recall_at_1"] == pytest.approx(alone[name])


def test_encoders_without_a_fusion_are_refused(data):
    with pytest.raises(
        ConfigError, match="expected an encoder with a fusion of two modalities, got DualEncoder"
    ):
        RerankedRetrieval(Retrieval(data)).run(tiny.encoder())
    with pytest.raises(ConfigError, match="num_best: expected at least 1, got 0"):
        RerankedRetrieval(Retrieval(data), 0)
