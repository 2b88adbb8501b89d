"""Several classes per image: zero-shot and by the head, npy members, thresholds, ranks."""

from __future__ import annotations

import io
import json
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchmetrics.functional import classification as oracle

from clipkit.errors import ConfigError, DataError, SampleError
from clipkit.evaluation import (
    EmbedOptions,
    MultiLabelClassification,
    ZeroShotMultiLabel,
    embed_pairs,
    evaluating,
    make_evaluator,
    open_dataset,
    tokenizer_of,
)
from clipkit.models import LinearLabelHead
from tests.helpers.evaluation_data import CLASSES, picture, tiny_encoder, write_layout
from tests.helpers.factories import write_shard
from tests.helpers.ranks import run_ranks

PAIRS = {"positive": ["a {} picture", "{}"], "negative": ["no {}"]}


def classes_of(i):
    rng = random.Random(i)
    return [c for c in range(6) if rng.random() < 0.4]


def vector(classes, num_classes=6):
    file = io.BytesIO()
    np.save(file, np.array([c in classes for c in range(num_classes)], np.int64))
    return file.getvalue()


def write_split(root, split, numbers, classes=classes_of):
    samples = [
        (f"s{i:07d}", {
            "png": picture(i),
            "npy": vector(classes(i)),
            "json": json.dumps({"labels": classes(i), "patient": i // 10, "twin": i % 5}).encode(),
        })
        for i in numbers
    ]  # fmt: skip
    write_shard(root / split / "0.tar", samples)
    (root / split / "nshards.txt").write_text("1\n")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "set"
    root = write_layout(folder, (2,), task="multilabel")
    write_split(root, "test", range(24))
    write_split(root, "train", range(100, 130))
    write_split(root, "leaky", range(20, 30))
    write_split(root, "rare", range(200, 220), lambda i: [c for c in classes_of(i) if c != 2])
    return root


def with_head():
    encoder = tiny_encoder()
    encoder.label_head = LinearLabelHead(encoder.embedding_dim, len(CLASSES))
    torch.manual_seed(1)
    torch.nn.init.normal_(encoder.label_head.linear.weight)
    return encoder


def class_rows(encoder, prompts):
    tokenizer = tokenizer_of(encoder)
    with evaluating(encoder):
        rows = [
            F.normalize(torch.cat([encoder.encode_text(tokenizer([p])) for p in ps]).mean(0), dim=0)
            for ps in prompts
        ]
    return torch.stack(rows)


def test_the_type_of_the_data_selects_task_and_member(root):
    assert open_dataset(root).task == "zero-shot-multi-label"
    assert open_dataset(root).classes(3, "npy") == tuple(classes_of(3))
    evaluator = make_evaluator("zero-shot-multi-label", root)
    assert isinstance(evaluator, ZeroShotMultiLabel)
    assert evaluator.fields.positives == "npy"
    for field, expected in {"cls": "npy", "json:has": "json:has"}.items():
        by_head = make_evaluator("multi-label", root, label_field=field)
        assert isinstance(by_head, MultiLabelClassification)
        assert by_head.fields.positives == expected


def test_pairs_of_prompts_score_as_a_loop_does(root):
    encoder = tiny_encoder()
    images = embed_pairs(encoder, open_dataset(root), EmbedOptions(), captions=False).images
    positive = class_rows(encoder, [[f"a {c} picture", c] for c in CLASSES])
    negative = class_rows(encoder, [[f"no {c}"] for c in CLASSES])
    scale = float(encoder.logit_scale.detach())
    expected = scale * (images @ positive.T - images @ negative.T)
    evaluator = ZeroShotMultiLabel(root, templates=PAIRS)
    scores, targets = evaluator.predict(encoder)
    torch.testing.assert_close(scores, expected, atol=1e-3, rtol=0)
    assert targets.tolist() == [[int(c in classes_of(i)) for c in range(6)] for i in range(24)]
    metrics = evaluator.run(encoder)
    probabilities = scores.double().sigmoid()
    for name, value in {
        "mean_average_precision": oracle.multilabel_average_precision(probabilities, targets, 6),
        "macro_auroc": oracle.multilabel_auroc(probabilities, targets, 6),
        "micro_f1": oracle.multilabel_f1_score(probabilities, targets, 6, average="micro"),
        "macro_f1": oracle.multilabel_f1_score(probabilities, targets, 6, average="macro"),
    }.items():
        assert metrics[name] == pytest.approx(float(value), abs=1e-5), name
    assert evaluator.primary_metric in metrics


def test_only_positive_prompts_have_no_threshold_unless_the_encoder_has_a_bias(root):
    encoder = tiny_encoder()
    evaluator = ZeroShotMultiLabel(root)
    metrics = evaluator.run(encoder)
    assert "micro_f1" not in metrics
    assert "macro_auroc" in metrics
    encoder.logit_bias = torch.nn.Parameter(torch.tensor(-10.0))
    biased, (scores, _) = evaluator.run(encoder), evaluator.predict(encoder)
    assert biased["mean_average_precision"] == pytest.approx(metrics["mean_average_precision"])
    assert "micro_f1" in biased
    assert scores.mean() < -9


def test_prompts_with_the_same_embedding_predict_nothing(root):
    encoder = tiny_encoder()
    encode = encoder.encode_text
    encoder.encode_text = lambda tokens: encode(tokens[:1] * 0 + 7).expand(len(tokens), -1)
    metrics = ZeroShotMultiLabel(root, templates=PAIRS).run(encoder)
    assert metrics["micro_f1"] == 0
    assert metrics["macro_auroc"] == 0.5


@pytest.mark.parametrize("kind", ["global", "per-class"])
@pytest.mark.parametrize("by_head", [False, True])
def test_thresholds_are_those_that_are_best_on_the_other_split(root, kind, by_head):
    encoder = with_head()
    make = MultiLabelClassification if by_head else ZeroShotMultiLabel
    evaluation = make(root, calibration_split="train", thresholds=kind).evaluate(encoder)
    scores, targets = make(root, split="train").predict(encoder)
    values = torch.tensor([evaluation.details[f"threshold/{name}"] for name in CLASSES])
    columns = [slice(None)] if kind == "global" else [slice(c, c + 1) for c in range(6)]
    for column in columns:
        s, t = scores[:, column], targets[:, column]

        def f1(threshold, s=s, t=t):
            return float(oracle.binary_f1_score((s >= threshold).long().flatten(), t.flatten()))

        best = max(f1(threshold) for threshold in s.unique().tolist())
        assert f1(values[column]) == pytest.approx(best)
    scores, targets = make(root).predict(encoder)
    expected = oracle.multilabel_f1_score((scores >= values).long(), targets, 6, average="micro")
    assert evaluation.metrics["micro_f1"] == pytest.approx(float(expected), abs=1e-6)


def test_a_class_that_is_missing_in_the_calibration_split_is_reported(root, caplog):
    encoder = tiny_encoder()
    evaluator = ZeroShotMultiLabel(root, calibration_split="rare", thresholds="per-class")
    details = evaluator.evaluate(encoder).details
    whole = ZeroShotMultiLabel(root, calibration_split="rare").evaluate(encoder).details
    assert details[f"threshold/{CLASSES[2]}"] == whole[f"threshold/{CLASSES[2]}"]
    assert f"none or all of the calibration images ({CLASSES[2]})" in caplog.text


def test_calibration_on_the_measured_images_is_refused(root):
    with pytest.raises(DataError, match="has files of the split that is measured"):
        ZeroShotMultiLabel(root, calibration_split="test")
    for make in (ZeroShotMultiLabel, MultiLabelClassification):
        with pytest.raises(DataError, match="4 images are in both"):
            make(root, calibration_split="leaky").run(with_head())
        with pytest.raises(ConfigError, match="expected a calibration split"):
            make(root, thresholds="per-class")
        with pytest.raises(ConfigError, match="expected one of global, per-class"):
            make(root, calibration_split="train", thresholds="own")


@pytest.mark.parametrize("make", [ZeroShotMultiLabel, MultiLabelClassification])
def test_patients_are_held_out_and_drawn_completely(root, make):
    encoder, given = with_head(), {"calibration_split": "train"}
    with pytest.raises(DataError, match="5 groups of json:twin are in both splits calibration"):
        make(root, hold_out_by="json:twin", **given).run(encoder)
    evaluation = make(root, hold_out_by="json:patient", **given).evaluate(encoder)
    assert evaluation.outcomes[0].groups == tuple(str(i // 10) for i in range(24))
    assert evaluation.metrics == make(root, **given).run(encoder)


def test_the_head_measures_npy_members_and_keeps_its_keys(root):
    encoder = with_head()
    evaluation = MultiLabelClassification(root).evaluate(encoder)
    same = MultiLabelClassification(root, positives="json:labels").run(encoder)
    assert evaluation.metrics == same
    scores, targets = MultiLabelClassification(root).predict(encoder)
    expected = oracle.multilabel_f1_score(scores.sigmoid(), targets, 6, average="macro")
    assert same["macro_f1"] == pytest.approx(float(expected), abs=1e-6)
    assert f"average_precision/{CLASSES[0]}" in same
    (outcomes,) = evaluation.outcomes
    assert outcomes.keys == tuple(f"s{i:07d}" for i in range(24))


def test_vectors_of_another_length_and_pickles_are_refused(tmp_path):
    root = write_layout(tmp_path, (1,), task="multilabel")
    evaluator = ZeroShotMultiLabel(root)
    write_shard(root / "test/0.tar", [("odd", {"png": picture(0), "npy": vector([0], 5)})])
    with pytest.raises(SampleError, match=r"odd: .*expected 6 values, one for each class.*got 5"):
        ZeroShotMultiLabel(root).run(tiny_encoder())
    file = io.BytesIO()
    np.save(file, np.array([print], dtype=object), allow_pickle=True)
    write_shard(root / "test/0.tar", [("odd", {"png": picture(0), "npy": file.getvalue()})])
    with pytest.raises(SampleError, match=r"odd: .*got object"):
        ZeroShotMultiLabel(root).run(tiny_encoder())
    assert evaluator.class_names == CLASSES


def test_images_without_a_vector_are_reported(tmp_path, caplog):
    root = write_layout(tmp_path, (1,), task="multilabel")
    samples = [(f"s{i}", {"png": picture(i), "npy": vector([i % 6])}) for i in range(8)]
    samples.append(("bare", {"png": picture(9)}))
    write_shard(root / "test/0.tar", samples)
    (outcomes,) = ZeroShotMultiLabel(root).evaluate(tiny_encoder()).outcomes
    assert len(outcomes) == 8
    assert "1 of 9 images have no list of classes and are left out (first: bare)" in caplog.text


def test_classes_without_a_name_are_not_scored(tmp_path):
    names = ("red", "", "blue", "green", "dotted", "striped")
    root = write_layout(tmp_path, (1,), task="multilabel", classes=names)
    write_split(root, "test", range(12), lambda i: [c for c in classes_of(i) if c != 1])
    scores, targets = ZeroShotMultiLabel(root).predict(tiny_encoder())
    assert scores.shape == targets.shape == (12, 5)
    assert targets[:, 1].tolist() == [int(2 in classes_of(i)) for i in range(12)]
    write_split(root, "test", range(12))
    with pytest.raises(DataError, match="has class 1, which has no name"):
        ZeroShotMultiLabel(root).run(tiny_encoder())


def _on_rank(rank, world_size, root):
    options = EmbedOptions(4, limit=23)
    given = {"options": options, "calibration_split": "train", "thresholds": "per-class"}
    evaluations = [
        ZeroShotMultiLabel(root, templates=PAIRS, **given).evaluate(tiny_encoder()),
        MultiLabelClassification(root, **given).evaluate(with_head()),
    ]
    return [(e.metrics, dict(e.details), e.outcomes[0].keys) for e in evaluations]


def test_two_ranks_give_what_one_gives(root):
    alone = _on_rank(0, 1, root)
    for got in run_ranks(_on_rank, 2, root):
        for (metrics, details, keys), expected in zip(got, alone, strict=True):
            assert metrics == pytest.approx(expected[0], abs=1e-5)
            assert details == pytest.approx(expected[1], abs=1e-4)
            assert keys == expected[2]
