"""Recall of groups of queries: languages of captions, categories of samples."""

from __future__ import annotations

import json

import pytest
import torch

from clipkit.cli.main import main
from clipkit.data.text.captions import JsonFields
from clipkit.errors import DataError
from clipkit.evaluation import Retrieval, RetrievalOptions, open_dataset, outcome_metrics
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.evaluation_data import picture, tiny_encoder
from tests.helpers.factories import write_shard
from tests.helpers.ranks import run_ranks

COLORS = ["red", "blue", "green", "grey", "black"]
LANGUAGES = ("de", "en", "en", "fr")


def captions(number):
    return [f"{language} {COLORS[number]} {n}" for n, language in enumerate(LANGUAGES)]


def write(folder, values):
    """Five images with four captions each; ``values`` are fields of their JSON."""
    samples = []
    for number, fields in enumerate(values):
        text = "\n".join(captions(number)).encode()
        members = {"png": picture(number), "txt": text, "json": json.dumps(fields).encode()}
        samples.append((f"s{number}", members))
    write_shard(folder / "0.tar", samples)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    values = [
        {
            "kind": "warm" if number in (0, 3) else "cold",
            "languages": list(LANGUAGES),
            "by_language": {
                "fr": captions(number)[3], "en": captions(number)[1:3], "de": captions(number)[:1],
            },
        }
        for number in range(5)
    ]  # fmt: skip
    return write(tmp_path_factory.mktemp("data"), values)


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder()


def measured(root, encoder, field, **options):
    correct = RetrievalOptions(group_field=field)
    return Retrieval(root, ks=(1, 2), correct=correct, **options).evaluate(encoder)


def scores_of(root, encoder):
    pairs = Retrieval(root).embed(encoder)
    return pairs.images.double() @ pairs.texts.double().T


def test_categories_of_samples(root, encoder):
    metrics = measured(root, encoder, "json:kind").metrics
    scores = scores_of(root, encoder)
    owners = torch.arange(5).repeat_interleave(4)
    right = {
        "text_to_image": scores.argmax(0) == owners,
        "image_to_text": owners[scores.argmax(1)] == torch.arange(5),
    }
    warm = torch.tensor([True, False, False, True, False])
    for way, mask in (("text_to_image", warm.repeat_interleave(4)), ("image_to_text", warm)):
        values = [right[way][m].double().mean().item() for m in (mask, ~mask)]
        shown = [metrics[f"{way}/group/{name}/recall_at_1"] for name in ("warm", "cold")]
        assert shown == pytest.approx(values)
        assert metrics[f"{way}/worst_group/recall_at_1"] == pytest.approx(min(values))


@pytest.mark.parametrize("field", ["json:languages", "json:by_language"])
def test_languages_of_captions(root, encoder, field):
    evaluation = measured(root, encoder, field)
    metrics = evaluation.metrics
    scores = scores_of(root, encoder)
    inside = torch.tensor([language == "en" for language in LANGUAGES * 5])
    owners = torch.arange(5).repeat_interleave(4)[inside]
    # The candidates are the captions in that language, as if it were a data set of its own.
    texts = scores[:, inside].argmax(1)
    expected = (owners[texts] == torch.arange(5)).double().mean()
    assert metrics["image_to_text/group/en/recall_at_1"] == pytest.approx(float(expected))
    images = (scores[:, inside].argmax(0) == owners).double().mean()
    assert metrics["text_to_image/group/en/recall_at_1"] == pytest.approx(float(images))
    joined = {k: v for part in evaluation.outcomes for k, v in outcome_metrics(part).items()}
    assert joined == metrics


def test_a_language_alone_has_the_same_recall(root, encoder):
    grouped = measured(root, encoder, "json:by_language").metrics
    picker = JsonFields({"by_language": 1.0}, languages={"en": 1.0})
    alone = Retrieval(open_dataset(root, caption=picker), ks=(1, 2)).run(encoder)
    for way in ("image_to_text", "text_to_image"):
        for k in (1, 2):
            group = grouped[f"{way}/group/en/recall_at_{k}"]
            assert group == pytest.approx(alone[f"{way}/recall_at_{k}"])


def on_rank(rank, world_size, root):
    return measured(root, tiny_encoder(), "json:languages").metrics


def test_ranks_agree(root, encoder):
    expected = on_rank(0, 1, root)
    assert run_ranks(on_rank, 2, root) == [pytest.approx(expected)] * 2


@pytest.mark.parametrize(
    "value", [None, "", [], ["en"], ["a", "b", "c", ""], {"en": "another text"}, ["a"] * 5]
)
def test_a_value_that_does_not_fit_is_refused(tmp_path, encoder, value):
    folder = write(tmp_path, [{"kind": "a"}, {"kind": value}])
    with pytest.raises(DataError, match="sample s1: json:kind: expected its group, a list of the"):
        measured(folder, encoder, "json:kind")


def test_the_command_prints_groups(root, tmp_path, capsys):
    model = write_checkpoint(tmp_path / "last.ckpt", tiny_encoder())
    words = ["evaluate", "--model", str(model), "--data", str(root), "--task", "retrieval"]
    assert main([*words, "--group-field", "json:kind"]) == 0
    assert "group/warm/recall_at_1" in capsys.readouterr().out
    assert main([*words, "--templates", "openai"]) == 2
    assert "--templates: expected one of the tasks zero-shot" in capsys.readouterr().err
