"""Zero-shot classification: prompts, ImageNet's folders, groups, calibration, ranks."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import open_clip
import pytest
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from torchmetrics.functional import classification as oracle

from clipkit.errors import ConfigError, DataError
from clipkit.evaluation import (
    EmbedOptions,
    Evaluator,
    ZeroShotClassification,
    embed_pairs,
    evaluating,
    open_dataset,
    outcome_metrics,
    reliability_diagrams,
    resolve_prompts,
    tokenizer_of,
)
from clipkit.evaluation.prompts.embeddings import prompt_embeddings
from clipkit.models import with_towers
from tests.helpers.evaluation_data import CLASSES, picture, sample, tiny_encoder, write_layout
from tests.helpers.factories import write_shard
from tests.helpers.ranks import run_ranks

REGIONS = ("asia", "europe", "africa")


def with_regions(root, split, numbers):
    samples = []
    for i in numbers:
        members = sample(i, text=False)
        facts = {"region": REGIONS[i % 3], "year": i // 2, "split": split}
        members["json"] = json.dumps(facts).encode()
        samples.append((f"s{i:07d}", members))
    write_shard(root / split / "0.tar", samples)
    (root / split / "nshards.txt").write_text("1\n")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = write_layout(tmp_path_factory.mktemp("data") / "set", (2,), task="classification")
    with_regions(root, "test", range(24))
    with_regions(root, "train", range(100, 136))
    with_regions(root, "leaky", range(20, 40))
    return root


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder()


def test_scale_of_images_and_texts_is_that_of_the_exported_encoder(root):
    model = with_towers(tiny_encoder(), {}, pair_scales=["image:text"])
    with torch.no_grad():
        model.log_pair_scales["image:text"].fill_(1.5)
    scales = [
        ZeroShotClassification(root).measure(one)[0].logit_scale for one in (model, model.dual())
    ]
    assert scales == pytest.approx([math.exp(1.5)] * 2)


def test_metrics_are_those_of_torchmetrics(root, encoder):
    evaluator = ZeroShotClassification(root)
    predictions, evaluation = evaluator.measure(encoder)
    scores, labels = predictions.scores, predictions.labels
    scale = float(encoder.log_logit_scale.detach().exp())
    assert predictions.logit_scale == pytest.approx(scale)
    expected = {
        "top1": oracle.multiclass_accuracy(scores, labels, 6, average="micro"),
        "top5": oracle.multiclass_accuracy(scores, labels, 6, average="micro", top_k=5),
        "balanced_accuracy": oracle.multiclass_recall(scores, labels, 6, average="macro"),
        "macro_precision": oracle.multiclass_precision(scores, labels, 6, average="macro"),
        "macro_f1": oracle.multiclass_f1_score(scores, labels, 6, average="macro"),
        "ece": oracle.multiclass_calibration_error((scale * scores).softmax(1), labels, 6),
    }
    assert {name: evaluation.metrics[name] for name in expected} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, abs=1e-5
    )
    assert evaluator.run(encoder) == evaluator.evaluate(encoder).metrics == evaluation.metrics
    (outcomes,) = evaluation.outcomes
    diagram = reliability_diagrams(outcomes)["confidence"]
    assert diagram.error() == pytest.approx(evaluation.metrics["ece"])
    assert diagram.weight.sum() == 24


def test_prompts_of_each_class_are_averaged_as_a_loop_does(root, encoder):
    prompts = [[f"{name} {k}" for k in range(n + 1)] for n, name in enumerate(CLASSES)]
    given = dict(zip(CLASSES, prompts, strict=True))
    tokenizer = tokenizer_of(encoder)
    with evaluating(encoder):
        rows = [
            F.normalize(torch.cat([encoder.encode_text(tokenizer([p])) for p in ps]).mean(0), dim=0)
            for ps in prompts
        ]
        got = prompt_embeddings(encoder, prompts, tokenizer, batch_size=4)
    torch.testing.assert_close(got, torch.stack(rows), atol=1e-5, rtol=0)
    images = embed_pairs(encoder, open_dataset(root), EmbedOptions(), captions=False).images
    scores = ZeroShotClassification(root, templates=given).predict(encoder).scores
    torch.testing.assert_close(scores, images @ torch.stack(rows).T, atol=2e-5, rtol=0)


def test_openais_ensemble_is_that_of_open_clip(root, encoder):
    names, tokenizer = open_clip.IMAGENET_CLASSNAMES[:6], tokenizer_of(encoder)
    prompts = resolve_prompts("openai", names, open_dataset(root)).positive
    with evaluating(encoder):
        model = SimpleNamespace(
            encode_text=lambda tokens, normalize: encoder.encode_text(tokens),
        )
        expected = open_clip.build_zero_shot_classifier(
            model, tokenizer, names, open_clip.OPENAI_IMAGENET_TEMPLATES, device="cpu"
        )
        got = prompt_embeddings(encoder, prompts, tokenizer)
    torch.testing.assert_close(got, expected.T, atol=1e-5, rtol=0)


def test_yaml_names_lists_and_prompts_of_classes(root, tmp_path):
    (tmp_path / "e.yaml").write_text(
        f"""
        a: {{class_path: clipkit.evaluation.ZeroShotClassification,
             init_args: {{data: {root}, templates: openai}}}}
        b: {{class_path: clipkit.evaluation.ZeroShotClassification,
             init_args: {{data: {root}, class_names: [a, b, c, d, e, f],
                          templates: {{a: [x], b: [x], c: [x], d: [x], e: [x], f: [y, z]}}}}}}
        c: {{class_path: clipkit.evaluation.ZeroShotMultiLabel,
             init_args: {{data: {root}, templates: {{positive: ["{{}}"], negative: ["no {{}}"]}},
                          positives: json:labels}}}}
        """
    )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--e", type=dict[str, Evaluator], enable_path=True)
    instantiate = getattr(parser, "instantiate", parser.instantiate_classes)
    evaluators = instantiate(parser.parse_args([f"--e={tmp_path}/e.yaml"])).e
    assert len(evaluators["a"].prompts.positive[0]) == 80
    assert evaluators["b"].prompts.positive[5] == ("y", "z")
    assert evaluators["c"].prompts.negative[0] == (f"no {CLASSES[0]}",)


def test_of_classes_with_the_same_prompts_the_first_is_predicted(tmp_path, encoder, caplog):
    root = write_layout(tmp_path, (8,), classes=("a", "b"), task="classification")
    members = [(f"s{i}", {"png": picture(i), "cls": str(i % 2).encode()}) for i in range(8)]
    write_shard(root / "test" / "0.tar", members)
    evaluator = ZeroShotClassification(root, templates={"a": ["thing"], "b": ["thing"]})
    metrics = evaluator.run(encoder)
    assert "the classes 0 and 1 have the same prompts (b)" in caplog.text
    assert metrics["top1"] == 0.5
    assert metrics["macro_precision"] == 0.25


def test_a_collapsed_model_scores_nothing(root):
    encoder = tiny_encoder()
    encode = encoder.encode_text
    encoder.encode_text = lambda tokens: encode(tokens[:1]).expand(len(tokens), -1)
    metrics = ZeroShotClassification(root).run(encoder)
    assert metrics["top1"] == metrics["macro_f1"] == metrics["macro_precision"] == 0


def test_folders_of_wordnet_ids_get_imagenets_names(tmp_path, encoder):
    wnids = {"n15075141": 2, "n01440764": 3, "n02012849": 1}
    for number, (wnid, count) in enumerate(wnids.items()):
        (tmp_path / "test" / wnid).mkdir(parents=True)
        for i in range(count):
            path = tmp_path / "test" / wnid / f"{i}.png"
            path.write_bytes(picture(10 * number + i))
    evaluator = ZeroShotClassification(tmp_path, templates="simple")
    assert evaluator.class_names == ("tench", "crane bird", "toilet paper")
    assert evaluator.templates[0] == "itap of a {}."
    assert evaluator.prompts.positive[2][0] == "itap of a toilet paper."
    predictions = evaluator.predict(encoder)
    assert torch.bincount(predictions.labels).tolist() == [3, 1, 2]
    same = ZeroShotClassification(tmp_path, class_names="imagenet", templates="simple")
    assert torch.equal(same.predict(encoder).scores, predictions.scores)


def test_folders_of_numbers_are_not_numbered_as_text(tmp_path, encoder):
    for number in (0, 1, 2, 10):
        (tmp_path / "test" / str(number)).mkdir(parents=True)
        for i in range(number % 7 + 1):
            path = tmp_path / "test" / str(number) / f"{i}.png"
            path.write_bytes(picture(20 * number + i))
    evaluator = ZeroShotClassification(tmp_path, class_names="imagenet", templates="simple")
    counts = torch.bincount(evaluator.predict(encoder).labels).tolist()
    names = open_clip.IMAGENET_CLASSNAMES
    assert dict(zip(evaluator.class_names, counts, strict=True)) == {
        names[0]: 1, names[1]: 2, names[2]: 3, names[10]: 4,
    }  # fmt: skip


def test_groups_are_measured_as_a_loop_does(root, encoder):
    evaluation = ZeroShotClassification(root, group_field="json:region").evaluate(encoder)
    metrics, (outcomes, groups) = evaluation.metrics, evaluation.outcomes
    right = outcomes.columns["rank"] == 0
    means = {
        region: float(right[[i for i in range(24) if REGIONS[i % 3] == region]].float().mean())
        for region in REGIONS
    }
    assert {r: metrics[f"group/{r}/top1"] for r in REGIONS} == pytest.approx(means)
    assert metrics["worst_group/top1"] == pytest.approx(min(means.values()))
    gap = max(means.values()) - min(means.values())
    assert metrics["group_gap/top1"] == pytest.approx(gap)
    assert "worst_group/top5" in metrics
    # a group that a bootstrap has not drawn is no worst group
    drawn = outcome_metrics(groups, torch.tensor([float(i % 3 == 0) for i in range(24)]))
    assert drawn["worst_group/top1"] == pytest.approx(means["asia"])
    assert drawn["group_gap/top1"] == 0


def test_an_image_without_a_group_is_named(root, encoder):
    with pytest.raises(DataError, match=r"24 of 24 samples have no group in json:colour.*s0000000"):
        ZeroShotClassification(root, group_field="json:colour").run(encoder)


def test_the_temperature_is_fitted_on_the_other_split(root, encoder):
    evaluation = ZeroShotClassification(root, calibration_split="train").evaluate(encoder)
    fitted_on = ZeroShotClassification(root, split="train").predict(encoder)

    def loss(temperature):
        logits = fitted_on.scores.double() * fitted_on.logit_scale / temperature
        return float(F.cross_entropy(logits, fitted_on.labels))

    temperature = evaluation.details["temperature"]
    assert loss(temperature) <= min(loss(t) for t in torch.logspace(-3, 4, 400).tolist()) + 1e-9
    before = ZeroShotClassification(root).predict(encoder)
    logits = before.scores * before.logit_scale / temperature
    expected = oracle.multiclass_calibration_error(logits.softmax(1), before.labels, 6)
    assert evaluation.metrics["ece_calibrated"] == pytest.approx(float(expected), abs=1e-5)
    assert evaluation.metrics["ece"] == ZeroShotClassification(root).run(encoder)["ece"]
    assert set(reliability_diagrams(evaluation.outcomes[0])) == {
        "confidence", "calibrated_confidence",
    }  # fmt: skip


def test_a_calibration_on_the_measured_images_is_refused(root, encoder, tmp_path):
    with pytest.raises(DataError, match="has files of the split that is measured"):
        ZeroShotClassification(root, calibration_split="test")
    leaky = ZeroShotClassification(root, calibration_split="leaky")
    with pytest.raises(DataError, match=r"4 images are in both.*s0000020 of test"):
        leaky.run(encoder)
    with pytest.raises(DataError, match="no split 'other'"):
        ZeroShotClassification(root, calibration_split="other")
    (tmp_path / "copy").symlink_to(root / "test")
    shards = write_layout(tmp_path, (2,), split="mine")
    with pytest.raises(DataError, match="2 images are in both"):
        ZeroShotClassification(shards, split="mine", calibration_split="copy").run(encoder)


def test_groups_are_held_out_and_drawn_completely(root, encoder):
    shared = ZeroShotClassification(root, calibration_split="train", hold_out_by="json:region")
    with pytest.raises(DataError, match="3 groups of json:region are in both splits calibration"):
        shared.run(encoder)
    evaluator = ZeroShotClassification(
        root, calibration_split="train", hold_out_by="json:year", group_field="json:region"
    )
    evaluation = evaluator.evaluate(encoder)
    for part in evaluation.outcomes:
        assert part.groups == tuple(str(i // 2) for i in range(24))
    plain = ZeroShotClassification(root, calibration_split="train", group_field="json:region")
    assert evaluation.metrics == plain.run(encoder)


def test_classes_of_the_calibration_split_are_matched_by_name(tmp_path, encoder):
    for split, names in (("test", ("a", "b", "c")), ("train", ("b", "c")), ("more", ("b", "d"))):
        for place, name in enumerate(names):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(3):
                number = {"test": 0, "train": 100, "more": 200}[split] + 10 * place + i
                (folder / f"{i}.png").write_bytes(picture(number))
    evaluator = ZeroShotClassification(tmp_path, calibration_split="train")
    evaluator.evaluate(encoder)
    labels = evaluator._predict(
        encoder, evaluator.calibration, evaluator._classifier(encoder)
    ).labels
    assert torch.bincount(labels).tolist() == [0, 3, 3]
    with pytest.raises(DataError, match="does not know 1 of the classes that occur: 'd'"):
        ZeroShotClassification(tmp_path, calibration_split="more").run(encoder)


def test_negative_prompts_are_refused(root):
    templates = {"positive": ["{}"], "negative": ["no {}"]}
    with pytest.raises(ConfigError, match="negative prompts are for images with several classes"):
        ZeroShotClassification(root, templates=templates)


def _on_rank(rank, world_size, root):
    evaluation = ZeroShotClassification(
        root,
        options=EmbedOptions(5, limit=23),
        group_field="json:region",
        calibration_split="train",
    ).evaluate(tiny_encoder())
    return evaluation.metrics, dict(evaluation.details), [part.keys for part in evaluation.outcomes]


def test_two_ranks_give_what_one_gives(root):
    metrics, details, keys = _on_rank(0, 1, root)
    for got in run_ranks(_on_rank, 2, root):
        assert got[0] == pytest.approx(metrics, abs=1e-5)
        assert got[1] == pytest.approx(details, rel=1e-4)
        assert got[2] == keys
