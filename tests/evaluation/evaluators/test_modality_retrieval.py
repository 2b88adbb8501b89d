"""Retrieval over every ordered pair of modalities, against loops over single samples."""

from __future__ import annotations

import itertools
import json
import statistics

import numpy as np
import pytest
import torch

from clipkit.cli.main import main
from clipkit.data import EvalSoundTransform, EvalTransform, Sounds
from clipkit.errors import ConfigError, DataError, SampleError
from clipkit.evaluation import (
    EmbedOptions,
    Retrieval,
    RetrievalOptions,
    cached_embeddings,
    tokenizer_of,
)
from clipkit.models import MultimodalEncoder, save_encoder
from tests.helpers import heard
from tests.helpers.factories import write_shard
from tests.helpers.ranks import run_ranks
from tests.helpers.series import Series, SeriesTower, npy

KS = (1, 5)
PAIRS = list(itertools.permutations(heard.MODALITIES, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return heard.write_heard(tmp_path_factory.mktemp("heard"))


def items(encoder, samples):
    """Sample and embedding of every input of each modality, one forward pass each."""
    transform, sounds = EvalTransform(16), EvalSoundTransform(heard.MEL)
    rng, tokenizer = np.random.default_rng(0), tokenizer_of(encoder)
    found = {name: [] for name in heard.MODALITIES}
    encoder.eval()
    with torch.no_grad():
        for number, members in samples:
            if "jpg" in members:
                pixels = transform(members["jpg"], rng)[None]
                found["image"].append((number, encoder.encode_image(pixels)[0]))
            if "wav" in members:
                mels = sounds.of_file(members["wav"])[None]
                found["sound"].append((number, encoder.encode_signal("sound", mels)[0]))
            for caption in members.get("txt", b"").decode().splitlines():
                found["text"].append((number, encoder.encode_text(tokenizer([caption]))[0]))
    return found


def naive(found, correct=lambda a, b: a == b):
    """Recall at k, mean and median rank of every ordered pair, by loops; ties are never won."""
    metrics: dict[str, float] = {}
    for query, target in PAIRS:
        both = {n for n, _ in found[query]} & {n for n, _ in found[target]}
        ranks = []
        for number, vector in found[query]:
            if number not in both:
                continue
            scores = [
                (round(float(vector.double() @ other.double()), 9), correct(number, of))
                for of, other in found[target]
                if of in both
            ]
            best = max(score for score, is_right in scores if is_right)
            ranks.append(1 + sum(score >= best and not right for score, right in scores))
        if ranks:
            name = f"{query}_to_{target}"
            metrics |= {
                f"{name}/recall_at_{k}": float(np.mean([r <= k for r in ranks])) for k in KS
            }
            metrics[f"{name}/mean_rank"] = statistics.fmean(ranks)
            metrics[f"{name}/median_rank"] = statistics.median(ranks)
    return metrics


def embedded_items(evaluator, encoder):
    embedded = evaluator.embed_all(encoder)
    return {
        name: list(zip(rows.samples.tolist(), rows.values, strict=True))
        for name, rows in embedded.rows.items()
    }


def test_every_ordered_pair_is_that_of_loops_over_single_samples(folder):
    encoder = heard.encoder()
    evaluator = Retrieval(folder, ks=KS, options=EmbedOptions(batch_size=4))
    found = embedded_items(evaluator, encoder)
    singly = items(encoder, [(number, heard.sample(number)) for number in range(23)])
    for name in heard.MODALITIES:
        assert [n for n, _ in found[name]] == [n for n, _ in singly[name]]
        rows = [torch.stack([row for _, row in part[name]]) for part in (found, singly)]
        torch.testing.assert_close(*rows, atol=1e-5, rtol=0)
    result = evaluator.evaluate(encoder)
    expected = naive(found)
    assert len(expected) == 6 * 4
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected)
    has = {m: {n for n, _ in found[m]} for m in heard.MODALITIES}
    for first, second in itertools.combinations(heard.MODALITIES, 2):
        both = len(has[first] & has[second])
        assert result.details[f"{first}_and_{second}/num_samples"] == both
        assert result.details[f"{first}_and_{second}/num_left_out"] == 23 - both
    assert "rsum" not in result.metrics  # needs recall at 10
    assert {name.rpartition("/")[0] for name in result.metrics} == {f"{a}_to_{b}" for a, b in PAIRS}


def test_samples_with_an_equal_caption_match_in_every_pair(folder):
    texts = [set(heard.sample(n).get("txt", b"").decode().splitlines()) for n in range(23)]
    encoder = heard.encoder()
    merged = Retrieval(folder, ks=KS, correct=RetrievalOptions(merge_captions=True))
    expected = naive(
        embedded_items(merged, encoder), lambda a, b: a == b or bool(texts[a] & texts[b])
    )
    metrics = merged.run(encoder)
    for pair in (("image", "sound"), ("sound", "image")):
        for measure in ("recall_at_1", "recall_at_5", "mean_rank"):
            name = "{}_to_{}/{}".format(*pair, measure)
            assert metrics[name] == pytest.approx(expected[name]), name
    assert (
        metrics["image_to_sound/mean_rank"]
        <= Retrieval(folder, ks=KS).run(encoder)["image_to_sound/mean_rank"]
    )


def test_groups_and_widths_of_every_pair(folder):
    options = RetrievalOptions(group_field="json:kind", widths=(4,))
    metrics = Retrieval(folder, ks=KS, correct=options).run(heard.encoder())
    for query, target in PAIRS:
        of_group = [metrics[f"{query}_to_{target}/group/{c}/recall_at_1"] for c in heard.COLOURS]
        assert metrics[f"{query}_to_{target}/worst_group/recall_at_1"] == min(of_group)
        assert f"width_4/{query}_to_{target}/recall_at_1" in metrics


def test_one_sample_and_embeddings_that_are_all_equal(tmp_path):
    write_shard(tmp_path / "one.tar", [("a", heard.sample(0))])
    metrics = Retrieval(tmp_path / "one.tar", ks=KS).run(heard.encoder())
    assert all(value == 1 for name, value in metrics.items() if "recall" in name or "rank" in name)
    write_shard(tmp_path / "same.tar", [(str(n), heard.sample(0)) for n in range(6)])
    metrics = Retrieval(tmp_path / "same.tar", ks=KS).run(heard.encoder())
    assert {metrics[f"{a}_to_{b}/mean_rank"] for a, b in PAIRS} == {6}


def test_pairs_that_no_sample_has_are_left_out_and_named(tmp_path, caplog):
    silent = [(str(n), {k: v for k, v in heard.sample(n).items() if k != "wav"}) for n in (0, 2)]
    write_shard(tmp_path / "silent.tar", silent)
    metrics = Retrieval(tmp_path / "silent.tar", ks=KS).run(heard.encoder())
    assert {name.partition("/")[0] for name in metrics} == {"image_to_text", "text_to_image"}
    assert "no sample has sound and text" in caplog.text
    write_shard(tmp_path / "heard.tar", [("a", {"wav": heard.sample(0)["wav"]})])
    with pytest.raises(DataError, match="expected samples with two of image, sound, text, got"):
        Retrieval(tmp_path / "heard.tar").run(heard.encoder())


def test_a_broken_sound_is_an_error_or_absent_by_choice(tmp_path, caplog):
    samples = [(f"s{n}", heard.sample(n)) for n in (0, 2, 3)]
    samples[1][1]["wav"] = b"RIFF, but no sound"
    write_shard(tmp_path / "broken.tar", samples)
    encoder = heard.encoder()
    with pytest.raises(SampleError, match=r"s2: sound: member wav"):
        Retrieval(tmp_path / "broken.tar").run(encoder)
    field = Sounds(EvalSoundTransform(heard.MEL), on_error="absent")
    result = Retrieval(tmp_path / "broken.tar", fields=[field]).evaluate(encoder)
    assert result.details["image_and_text/num_samples"] == 3
    assert result.details["sound_and_text/num_left_out"] == 1
    assert "1 inputs cannot be read and count as absent (first: s2: sound" in caplog.text


def test_a_cache_keeps_images_and_sounds_of_samples_that_have_them(
    folder, tmp_path, monkeypatch, caplog
):
    encoder, field = heard.encoder(), Sounds(EvalSoundTransform(heard.MEL))
    with cached_embeddings(encoder, tmp_path):
        first = Retrieval(folder, ks=KS).evaluate(encoder)
        assert len(list(tmp_path.rglob("*.npz"))) == 3
        Retrieval(folder, ks=KS, fields=[field]).run(encoder)
        assert "cache keeps captions only, because fields were given for sound" in caplog.text
        assert len(list(tmp_path.rglob("*.npz"))) == 3
        for name in ("encode_image", "encode_signal", "encode_text"):
            monkeypatch.setattr(encoder, name, None)  # no tower runs
        again = Retrieval(folder, ks=KS).evaluate(encoder)
        with pytest.raises(TypeError):
            Retrieval(folder, ks=KS, options=EmbedOptions(limit=5)).evaluate(encoder)
    assert again.metrics == first.metrics
    assert again.details == first.details


def test_a_modality_of_its_own_needs_its_field(tmp_path, caplog):
    towers = {**heard.encoder().towers, "series": SeriesTower()}
    encoder = MultimodalEncoder(towers)
    numbers = np.random.default_rng(0).normal(size=(4, 2, 11))
    samples = [(str(n), {**heard.sample(0), "npy": npy(numbers[n])}) for n in range(4)]
    write_shard(tmp_path / "four.tar", samples)
    metrics = Retrieval(tmp_path / "four.tar", ks=KS).run(encoder)
    assert "leaving out series: no field reads them" in caplog.text
    assert not any("series" in name for name in metrics)
    metrics = Retrieval(tmp_path / "four.tar", ks=KS, fields=[Series()]).run(encoder)
    assert len({name.partition("/")[0] for name in metrics}) == 12
    with pytest.raises(ConfigError, match="fields: expected those of the further towers"):
        Retrieval(tmp_path / "four.tar", fields=[Series("depth")]).run(encoder)


def test_without_images(folder):
    encoder = heard.encoder()
    towers = {name: encoder.towers[name] for name in ("text", "sound")}
    metrics = Retrieval(folder, ks=KS).run(MultimodalEncoder(towers))
    assert {name.partition("/")[0] for name in metrics} == {"sound_to_text", "text_to_sound"}


def measured(rank, world_size, folder):
    result = Retrieval(folder, options=EmbedOptions(batch_size=3)).evaluate(heard.encoder())
    return result.metrics, result.details


def test_two_ranks_measure_what_one_does(folder):
    ranks = run_ranks(measured, 2, str(folder))
    metrics, details = measured(0, 1, str(folder))
    assert ranks[0] == ranks[1]
    assert ranks[0][0] == pytest.approx(metrics, abs=1e-9)
    assert ranks[0][1] == details


def test_the_command_prints_and_writes_all_pairs(folder, tmp_path, capsys):
    save_encoder(heard.encoder(), tmp_path / "model")
    words = ["evaluate", "--data", str(folder), "--device", "cpu", "--output"]
    for name in ("a", "b"):
        output = str(tmp_path / f"{name}.json")
        assert main([*words, output, "--model", str(tmp_path / "model")]) == 0
    printed = capsys.readouterr().out
    assert "Recall at 1, percent" in printed
    assert "Median rank" in printed
    assert "image and sound: 12 samples, 11 left out" in printed
    record = json.loads((tmp_path / "a.json").read_text())
    assert set(record["metrics"]) >= {f"{a}_to_{b}/recall_at_10" for a, b in PAIRS}
    table = record["modalities"]["recall_at_1"]
    assert table["sound"]["text"] == record["metrics"]["sound_to_text/recall_at_1"]
    assert record["details"]["image_and_sound/num_left_out"] == 11
    records = [str(tmp_path / f"{name}.json") for name in ("a", "b")]
    assert main(["compare", *records, "--replicates", "100"]) == 0
    assert "sound_to_image/recall_at_1" in capsys.readouterr().out
