"""Metrics of every class against torchmetrics, on the scores that the evaluators give."""

from __future__ import annotations

import io
import json

import pytest
import torch
from PIL import Image
from torchmetrics.functional import classification as oracle

from clipkit.errors import DataError
from clipkit.evaluation import (
    EmbedOptions,
    MultiLabelClassification,
    PerClass,
    ZeroShotClassification,
)
from clipkit.evaluation.report import Confusion, confusion_png
from clipkit.models import LinearLabelHead
from clipkit.types import IGNORE_LABEL
from tests.helpers.evaluation_data import CLASSES, picture, tiny_encoder, write_layout
from tests.helpers.factories import write_shard


def test_every_class_is_measured(tmp_path):
    root = write_layout(tmp_path / "set", (7, 5))
    encoder, classifier = tiny_encoder(), ZeroShotClassification(root)
    predictions = classifier.predict(encoder)

    metrics = PerClass(classifier).run(encoder)

    num = len(CLASSES)
    for ours, function in (
        ("recall", oracle.multiclass_recall),
        ("f1", oracle.multiclass_f1_score),
    ):
        expected = function(predictions.scores, predictions.labels, num_classes=num, average="none")
        values = [metrics[f"{ours}/{name}"] for name in CLASSES]
        assert values == pytest.approx(expected.tolist(), abs=1e-6)
    average = oracle.multiclass_average_precision(
        predictions.scores.sigmoid(), predictions.labels, num_classes=num
    )
    assert metrics["mean_average_precision"] == pytest.approx(float(average), abs=1e-6)
    assert metrics["macro_recall"] == pytest.approx(metrics["mean_per_class_recall"])
    assert metrics["top1"] == classifier.run(encoder)["top1"]


def test_the_picture_of_confusions_is_darker_where_more_is_right():
    confusion = Confusion(
        ["cat", "a very long name of a class, longer than that"], [[9, 1], [5, 5]]
    )
    image = Image.open(io.BytesIO(confusion_png(confusion))).convert("RGB")
    right, bottom = image.width - 16 - 8, image.height - 16 - 44 - 8

    def corner(x: int, y: int) -> int:
        return sum(image.getpixel((x, y)))

    assert corner(right - 44, bottom) < corner(right, bottom)  # 9 of 10 right, 1 of 10 wrong


def test_several_classes_a_picture(tmp_path):
    samples = []
    for number in range(9):
        facts = {"labels": [number % 3, 3]} if number % 4 else {}
        members = {"png": picture(number), "json": json.dumps(facts).encode()}
        samples.append((f"s{number}", members))
    write_shard(tmp_path / "set" / "0.tar", samples)
    encoder = tiny_encoder()
    encoder.label_head = LinearLabelHead(encoder.embedding_dim, 5)
    torch.nn.init.normal_(encoder.label_head.linear.weight)
    evaluator = MultiLabelClassification(tmp_path / "set", options=EmbedOptions(4))

    scores, targets = evaluator.predict(encoder)
    metrics = evaluator.run(encoder)

    known = [number for number in range(9) if number % 4]
    assert (targets[[0, 4, 8]] == IGNORE_LABEL).all()
    assert targets[known].argmax(1).tolist() == [number % 3 for number in known]
    expected = oracle.multilabel_average_precision(
        scores[known].sigmoid(), targets[known], num_labels=5, average="none"
    )
    of_class = {name for name in metrics if name.startswith("average_precision/")}
    assert of_class == {f"average_precision/{n}" for n in range(4)}
    for number in range(4):
        value = metrics[f"average_precision/{number}"]
        assert value == pytest.approx(float(expected[number]), abs=1e-6)
    encoder.label_head = LinearLabelHead(encoder.embedding_dim, 3)
    with pytest.raises(DataError, match="has class 3; expected 0 to 2"):
        evaluator.run(encoder)
