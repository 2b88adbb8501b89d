"""Re-ranking of any two modalities that are fused, against loops over single pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clipkit.cli.main import main
from clipkit.data import EvalSoundTransform, EvalTransform
from clipkit.errors import ConfigError, DataError
from clipkit.evaluation import EmbedOptions, RerankedRetrieval, Retrieval, tokenizer_of
from clipkit.evaluation.report.evaluated import evaluate_with_report
from clipkit.models import (
    CrossAttentionFusion,
    JointEncoder,
    MergedFusion,
    save_encoder,
    with_fusion,
    with_towers,
)
from tests.helpers import heard
from tests.helpers.factories import write_shard

SAMPLES, BEST = 12, 3


def encoder(first: str, second: str) -> JointEncoder:
    """Three towers, a scale for sounds and texts, and a fusion of two of them."""
    towers = heard.encoder()
    own = {"sound": towers.towers["sound"]}
    with_scale = with_towers(towers.dual(), own, pair_scales=["text:sound"])
    with_scale.set_logit_scale(3.0, "text:sound")
    torch.manual_seed(2)
    return with_fusion(with_scale, CrossAttentionFusion(16, 1, 2, second, [first])).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return heard.write_heard(tmp_path_factory.mktemp("heard"), (SAMPLES,))


@torch.no_grad()
def read(joint, name):
    """Sample, embedding and tokens of every input of a modality, one at a time."""
    found, rng = [], np.random.default_rng(0)
    for number in range(SAMPLES):
        members = heard.sample(number)
        if name == "image" and "jpg" in members:
            given = [joint.read_image(EvalTransform(16)(members["jpg"], rng)[None])]
        elif name == "sound" and "wav" in members:
            mels = EvalSoundTransform(heard.MEL).of_file(members["wav"])
            given = [joint.read_signal("sound", mels[None])]
        elif name == "text":
            lines, tokenizer = members.get("txt", b"").decode().splitlines(), tokenizer_of(joint)
            given = [joint.read_text(tokenizer([line])) for line in lines]
        else:
            given = []
        found += [(number, one.embedding[0], one.tokens) for one in given]
    return found


@torch.no_grad()
def naive_recall(joint, query, target):
    """Recall at 1 of the best candidates in the order of the sum, one pair at a time."""
    scale = 3.0 if {query, target} == {"sound", "text"} else float(joint.logit_scale)
    queries, targets = read(joint, query), read(joint, target)
    both = {n for n, *_ in queries} & {n for n, *_ in targets}
    hits = []
    for number, own, tokens in queries:
        if number not in both:
            continue
        found = []
        for of, other, given in targets:
            if of in both:
                pooled = joint.fuse({query: tokens, target: given}).pooled
                cosine = float(own @ other)
                found.append((cosine, scale * cosine + float(joint.match(pooled)[0]), of))
        best = sorted(found, reverse=True)[:BEST]
        hits.append(max(best, key=lambda one: one[1])[2] == number)
    return np.mean(hits)


@pytest.mark.parametrize(("first", "second"), [("sound", "text"), ("image", "sound")])
def test_the_fused_modalities_are_reranked(folder, first, second):
    joint = encoder(first, second)
    retrieval = Retrieval(folder, options=EmbedOptions(batch_size=5))
    before = retrieval.run(joint)
    assert {"image_to_text/recall_at_1", "sound_to_image/recall_at_1"} <= before.keys()
    after = RerankedRetrieval(retrieval, BEST).run(joint)
    assert {name: after[name] for name in before} == before
    for query, target in ((first, second), (second, first)):
        name = f"reranked/{query}_to_{target}/recall_at_1"
        assert after[name] == pytest.approx(naive_recall(joint, query, target)), name
    reranked = {name.split("/")[1] for name in after if name.startswith("reranked/")}
    assert reranked == {f"{first}_to_{second}", f"{second}_to_{first}"}


def test_the_command_and_its_page(folder, tmp_path, capsys):
    save_encoder(encoder("sound", "text"), tmp_path / "joint")
    words = ["evaluate", "--model", str(tmp_path / "joint"), "--data", str(folder)]
    words += ["--task", "retrieval", "--device", "cpu", "--rerank", "3"]
    assert main([*words, "--report", str(tmp_path / "report")]) == 0
    assert "reranked/sound_to_text/recall_at_1" in capsys.readouterr().out
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Sound to text" in page[page.index('id="reranking"') :]


def test_images_that_are_left_out_are_not_shown(folder, tmp_path):
    """Thumbnails are those of the samples that have both, by their own numbers."""
    joint = encoder("image", "text")
    evaluators = {"retrieval": RerankedRetrieval(Retrieval(folder), BEST)}
    metrics = evaluate_with_report(joint, evaluators, tmp_path, title="Images")["retrieval"]
    name = "reranked/text_to_image/recall_at_1"
    assert metrics[name] == pytest.approx(naive_recall(joint, "text", "image"))


def test_what_cannot_be_reranked_is_named(folder, tmp_path):
    towers = heard.encoder()
    every = with_fusion(towers, MergedFusion(16, 1, 2, ["image", "text", "sound"]))
    with pytest.raises(ConfigError, match="a query and a candidate, got one of image, text, sound"):
        RerankedRetrieval(Retrieval(folder), BEST).run(every)
    samples = [(str(n), {k: heard.sample(n)[k] for k in ("jpg", "txt")}) for n in (0, 2)]
    write_shard(tmp_path / "0.tar", samples)
    with pytest.raises(DataError, match="expected samples with sound and text, which the encoder"):
        RerankedRetrieval(Retrieval(str(tmp_path / "0.tar")), BEST).run(encoder("sound", "text"))
