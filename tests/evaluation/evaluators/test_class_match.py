"""Classes of data against those of a model: matched by name, or refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from clipkit.errors import DataError
from clipkit.evaluation import (
    EmbedOptions,
    LabelHeadClassification,
    LinearProbe,
    MultiLabelClassification,
    PerClass,
    ZeroShotClassification,
    open_dataset,
)
from clipkit.evaluation.evaluators.class_match import ClassMatch
from clipkit.models import LinearLabelHead
from clipkit.models.inputs import transform_of
from tests.helpers.evaluation_data import picture, tiny_encoder, write_layout
from tests.helpers.factories import write_shard

NAMES = ("ant", "bee", "cat", "dog")


@pytest.fixture
def encoder():
    """An encoder whose head was trained on four classes, by their names."""
    encoder = tiny_encoder()
    encoder.label_head = LinearLabelHead(encoder.embedding_dim, len(NAMES))
    torch.manual_seed(1)
    torch.nn.init.normal_(encoder.label_head.linear.weight)
    encoder.label_head.class_names = NAMES
    return encoder


def folder_of(root, names, per_class=3, start=0):
    """Class folders; the images of a class are the same whichever other classes there are."""
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            data = picture(100 * NAMES.index(name) + number + start if name in NAMES else number)
            (root / name / f"{number}.png").write_bytes(data)
    return root


def test_data_that_lack_classes_are_measured_as_those_that_have_all(tmp_path, encoder, caplog):
    full = LabelHeadClassification(folder_of(tmp_path / "full", NAMES)).predict(encoder)
    part = LabelHeadClassification(folder_of(tmp_path / "part", ("bee", "dog"))).predict(encoder)
    rows = (full.labels == 1) | (full.labels == 3)
    assert part.labels.tolist() == full.labels[rows].tolist() == [1, 1, 1, 3, 3, 3]
    torch.testing.assert_close(part.scores, full.scores[rows], atol=1e-5, rtol=0)
    assert part.class_names == NAMES
    metrics = PerClass(LabelHeadClassification(tmp_path / "part")).run(encoder)
    assert {key for key in metrics if key.startswith("recall/")} == {"recall/bee", "recall/dog"}
    assert not caplog.text


def test_a_perfect_head_is_perfect_on_a_table_that_lacks_a_class(tmp_path, encoder):
    data = open_dataset(folder_of(tmp_path / "p", NAMES))
    make_perfect(encoder, data)
    assert LabelHeadClassification(data).run(encoder)["top1"] == 1.0
    rows = [f"p/{name}/{n}.png,{name}" for name in ("bee", "cat", "dog") for n in range(3)]
    (tmp_path / "t.csv").write_text("\n".join(["image,label", *rows]))
    assert LabelHeadClassification(tmp_path / "t.csv").run(encoder)["top1"] == 1.0
    rows = [f"p/{name}/{n}.png,{NAMES.index(name)}" for name in ("bee", "dog") for n in range(3)]
    (tmp_path / "n.csv").write_text("\n".join(["image,label", *rows]))
    assert LabelHeadClassification(tmp_path / "n.csv").run(encoder)["top1"] == 1.0


@torch.no_grad()
def make_perfect(encoder, data):
    """Solve for a head that scores every sample right."""
    transform, rng = transform_of(encoder.image_tower), np.random.default_rng(0)
    samples = [data.sample(number) for number in range(len(data))]
    pixels = torch.stack([transform(sample.image, rng) for sample in samples])
    features = encoder.eval().image_tower(encoder.normalize(pixels)).double()
    targets = torch.nn.functional.one_hot(torch.tensor([s.label for s in samples])).double()
    weight = torch.linalg.pinv(features) @ targets
    encoder.label_head.linear.weight.copy_(weight.T)
    encoder.label_head.linear.bias.zero_()


def test_a_class_that_the_head_does_not_know_is_named(tmp_path, encoder):
    data = folder_of(tmp_path / "more", ("bee", "emu"))
    with pytest.raises(DataError, match=r"more: the model's label head does not know 1 .*: 'emu'"):
        LabelHeadClassification(data).run(encoder)
    (data / "emu").rename(data / "fly")
    for file in (data / "fly").iterdir():
        file.unlink()
    LabelHeadClassification(data).run(encoder)  # unknown, but it does not occur


@pytest.mark.parametrize("nameless", ["data", "model"])
def test_numbers_without_names_are_believed_aloud(tmp_path, encoder, caplog, nameless):
    """Checkpoints from before names were stored, and shards without classnames.txt."""
    root = write_layout(tmp_path / "set", (4,), classes=NAMES if nameless == "model" else ())
    if nameless == "model":
        encoder.label_head = LinearLabelHead(encoder.embedding_dim, 6)
    else:
        encoder.label_head.class_names = NAMES
    predictions = LabelHeadClassification(root).predict(encoder)
    assert predictions.labels.tolist() == [0, 1, 2, 3]
    assert predictions.class_names[:4] == NAMES
    assert "no class names; its class numbers are used" in caplog.text


def test_several_classes_are_matched_too(tmp_path, encoder):
    samples = [
        (f"s{n}", {"png": picture(n), "json": json.dumps({"labels": [n % 2]}).encode()})
        for n in range(4)
    ]
    write_shard(tmp_path / "set" / "0.tar", samples)
    (tmp_path / "set" / "classnames.txt").write_text("dog\nant\n")
    evaluator = MultiLabelClassification(tmp_path / "set")
    _, targets = evaluator.predict(encoder)
    assert targets.argmax(1).tolist() == [3, 0, 3, 0]
    of_class = {name for name in evaluator.run(encoder) if name.startswith("average_precision/")}
    assert of_class == {"average_precision/ant", "average_precision/dog"}
    (tmp_path / "set" / "classnames.txt").write_text("dog\nemu\n")
    with pytest.raises(DataError, match="does not know 1 of the classes that occur: 'emu'"):
        MultiLabelClassification(tmp_path / "set").run(encoder)


def test_the_splits_of_a_probe_are_matched_by_name(tmp_path, encoder):
    folder_of(tmp_path / "set" / "train", ("ant", "cat", "dog"), 6)
    folder_of(tmp_path / "set" / "test", NAMES, 2, start=50)
    probe = LinearProbe(tmp_path / "set")
    assert probe.class_names == ("ant", "cat", "dog", "bee")
    parts = probe.splits.embed(encoder, EmbedOptions())
    assert parts["test"].labels.tolist() == [0, 0, 3, 3, 1, 1, 2, 2]
    assert parts["train"].labels.unique().tolist() == [0, 1, 2]
    assert 0 <= probe.run(encoder)["top1"] <= 0.75  # bees were never seen


def test_zero_shot_leaves_out_numbers_without_a_name(tmp_path, encoder):
    root = write_layout(tmp_path / "set", (5,), classes=("ant", "", "cat", "dog", "emu"))
    with pytest.raises(DataError, match=r"1 of 5 images have a class without a name .*class 1"):
        ZeroShotClassification(root).predict(encoder)
    samples = [(f"s{n}", {"png": picture(n), "cls": str(2 * n).encode()}) for n in range(3)]
    write_shard(tmp_path / "gaps" / "0.tar", samples)
    (tmp_path / "gaps" / "classnames.txt").write_text("ant\n\ncat\n\nemu\n")
    predictions = ZeroShotClassification(tmp_path / "gaps").predict(encoder)
    assert predictions.scores.shape == (3, 3)
    assert predictions.labels.tolist() == [0, 1, 2]
    assert predictions.class_names == ("ant", "cat", "emu")


def test_numbers_beyond_the_names():
    match = ClassMatch(["b", "a"], ["a", "b", "c"], "val")
    labels = torch.tensor([1, 0, -100])
    assert match.labels(labels).tolist() == [0, 1, -100]
    assert labels.tolist() == [1, 0, -100]
    match = ClassMatch(["a", "b"], ["a", "b", "c"], "val")
    assert match.labels(torch.tensor([1, 2, -100])).tolist() == [1, 2, -100]
    with pytest.raises(DataError, match="class 7"):
        ClassMatch(["b"], ["a", "b"], "val").labels(torch.tensor([7]))
    assert ClassMatch([], [], "val").labels(torch.tensor([7])).tolist() == [7]


def table_of(path, names, per_class=2):
    """A table whose images are in folders next to it, as ``folder_of`` writes them."""
    rows = [f"p/{name}/{n}.png,{name}" for name in names for n in range(per_class)]
    path.write_text("\n".join(["image,label", *rows]))
    return path


def test_a_table_that_lacks_classes_takes_their_numbers_from_classnames(tmp_path, encoder):
    folder_of(tmp_path / "p", NAMES)
    full = ZeroShotClassification(table_of(tmp_path / "full.csv", NAMES)).predict(encoder)
    part = table_of(tmp_path / "part.csv", ("dog", "bee"))
    alone = ZeroShotClassification(part).predict(encoder)
    assert (alone.class_names, alone.labels.tolist()) == (("bee", "dog"), [1, 1, 0, 0])

    (tmp_path / "classnames.txt").write_text("dog\ncat\nbee\nant\n")
    named = ZeroShotClassification(part).predict(encoder)

    assert named.class_names == ("dog", "cat", "bee", "ant")
    assert named.labels.tolist() == [0, 0, 2, 2]
    order = [NAMES.index(name) for name in named.class_names]
    rows = [6, 7, 2, 3]  # dogs and bees of the complete table
    torch.testing.assert_close(named.scores, full.scores[rows][:, order], atol=1e-5, rtol=0)
    head = LabelHeadClassification(part).predict(encoder)
    assert head.labels.tolist() == [3, 3, 1, 1]  # the head's own numbers, by name


def test_numbers_of_a_table_are_named_by_classnames(tmp_path, encoder):
    folder_of(tmp_path / "p", NAMES, 1)
    rows = [f"p/{name}/0.png,{number}" for number, name in enumerate(NAMES)]
    (tmp_path / "t.csv").write_text("\n".join(["image,label", *rows[1:3]]))
    (tmp_path / "classnames.txt").write_text("\n".join(NAMES))
    (tmp_path / "zeroshot_classification_templates.txt").write_text("one {c}\n")
    evaluator = ZeroShotClassification(tmp_path / "t.csv")
    assert evaluator.class_names == NAMES
    assert evaluator.templates == ("one {c}",)
    assert evaluator.predict(encoder).labels.tolist() == [1, 2]
    (tmp_path / "classnames.txt").write_text("ant\nbee\n")
    with pytest.raises(DataError, match="class 2: expected 0 to 1"):
        ZeroShotClassification(tmp_path / "t.csv")


def test_a_split_in_folders_takes_the_classes_of_the_data_set(tmp_path, encoder, caplog):
    folder_of(tmp_path / "set" / "train", NAMES, 6)
    folder_of(tmp_path / "set" / "test", ("cat",), 2, start=50)
    (tmp_path / "set" / "classnames.txt").write_text("\n".join(NAMES))
    assert ZeroShotClassification(tmp_path / "set").predict(encoder).labels.tolist() == [2, 2]
    probe = LinearProbe(tmp_path / "set")
    assert probe.class_names == NAMES
    assert probe.splits.embed(encoder, EmbedOptions())["test"].labels.tolist() == [2, 2]
    assert not caplog.text
    (tmp_path / "set" / "classnames.txt").write_text("ant\nbee\n")
    with pytest.raises(DataError, match="'cat' is not among the 2 known classes"):
        ZeroShotClassification(tmp_path / "set")
