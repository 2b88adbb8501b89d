"""Names of classes from the data into the head, its checkpoint, and what resumes from it."""

from __future__ import annotations

import shutil

import pytest
import torch

from clipkit.errors import CheckpointError, ConfigError, DataError
from clipkit.losses import CombinedLoss, ContrastiveLoss, LabelLoss
from clipkit.models import LinearLabelHead, PrototypeLabelHead, describe, load_encoder, with_towers
from clipkit.models.checkpoints.encoder import KEY
from clipkit.training import MixtureOptions, MixtureSource, PairDataModule, PairOptions
from clipkit.training.checks.classes import adopt_class_names, check_class_names
from tests.helpers import tiny
from tests.helpers.factories import image_bytes, write_shards

COLORS = ("blue", "green", "red")


@pytest.fixture
def photos(tmp_path):
    for color in COLORS:
        (tmp_path / "photos" / color).mkdir(parents=True)
        for number in range(4):
            data = image_bytes(color, seed=number)
            (tmp_path / "photos" / color / f"{number}.jpg").write_bytes(data)
    return tmp_path / "photos"


def fit(run, train, ckpt_path=None, steps=1, module=None, **options):
    module = module or tiny.module(labels=True)
    data = PairDataModule(train=str(train), batch_size=4, **options)
    trainer = tiny.trainer(run, max_steps=steps)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    trainer.save_checkpoint(run / "last.ckpt")
    return module, data


def test_names_go_from_the_data_into_the_checkpoint(photos, tmp_path, caplog):
    fit(tmp_path / "run", photos)
    head = load_encoder(tmp_path / "run" / "last.ckpt").label_head
    assert head.class_names == (*COLORS, "")  # the head has four classes
    fit(tmp_path / "run", photos, tmp_path / "run" / "last.ckpt", steps=2)
    assert not [record for record in caplog.records if record.name.startswith("clipkit")]


def test_a_run_does_not_go_on_with_other_classes(photos, tmp_path):
    fit(tmp_path / "run", photos)
    module = tiny.module(labels=True)
    module.encoder.label_head.class_names = ("blue", "grey", "red", "")
    stored = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    with pytest.raises(CheckpointError, match="class 1 is 'green' in the checkpoint and 'grey'"):
        check_class_names(module.encoder.label_head, stored)


def test_checkpoints_without_names_are_accepted_aloud(photos, tmp_path, caplog):
    path = tmp_path / "run" / "last.ckpt"
    fit(tmp_path / "run", photos)
    stored = torch.load(path, weights_only=True)
    del stored[KEY]["encoder"]["init_args"]["label_head"]["class_names"]
    torch.save(stored, path)
    assert load_encoder(path).label_head.class_names == ()
    module, _ = fit(tmp_path / "again", photos, path, steps=2)
    assert "the checkpoint has no class names" in caplog.text
    assert module.encoder.label_head.class_names[:3] == COLORS


def test_validation_has_the_numbers_of_training(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "val")
    shutil.rmtree(tmp_path / "val" / "green")
    _, data = fit(tmp_path / "run", photos, val=str(tmp_path / "val"))
    assert {n for batch in data.val_dataloader() for n in batch.labels.tolist()} == {0, 2}


def test_validation_shards_of_other_names_are_refused(photos, tmp_path):
    write_shards(tmp_path / "val", (8,))
    (tmp_path / "val" / "classnames.txt").write_text("blue\nred\n")
    with pytest.raises(DataError, match="class 1 is 'red', but 'green' in the training data"):
        fit(tmp_path / "run", photos, val=str(tmp_path / "val"))


def test_a_head_that_knows_names_numbers_the_data(photos, tmp_path):
    """Trained further on a folder that lacks a class, every class keeps its score."""
    module = tiny.module(labels=True)
    module.encoder.label_head.class_names = ("red", "yellow", "green", "blue")
    _, data = fit(tmp_path / "run", photos, module=module)
    assert data.class_names == ("red", "yellow", "green", "blue")
    labels = {n for batch in data.train_dataloader() for n in batch.labels.tolist()}
    assert labels == {0, 2, 3}
    module = tiny.module(labels=True)
    module.encoder.label_head.class_names = ("red", "yellow", "green", "violet")
    with pytest.raises(ConfigError, match="class 0 is 'red' for the label head and 'blue' in"):
        fit(tmp_path / "run", photos, module=module)


def test_a_mixture_numbers_its_sources_alike(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "more")
    shutil.rmtree(tmp_path / "more" / "blue")
    sources = [tiny_source("a", photos), tiny_source("b", tmp_path / "more")]
    data = PairDataModule(mixture=MixtureOptions(sources), batch_size=20)
    trainer = tiny.trainer(tmp_path / "run", max_steps=1)
    trainer.fit(tiny.module(labels=True), data)
    data.begin_epoch(5)
    (batch,) = data.train_dataloader()
    for caption, label in zip(batch.captions, batch.labels.tolist(), strict=True):
        assert COLORS[label] == caption


def tiny_source(name, urls):
    return MixtureSource(name, str(urls), weight=1.0)


def test_names_belong_to_the_numbers_in_cls(photos, tmp_path):
    _, data = fit(tmp_path / "run", photos, samples=PairOptions(label_field="json:category"))
    assert data.class_names == ()


def test_a_head_that_is_too_narrow_is_refused():
    with pytest.raises(ConfigError, match=r"num_classes of at least 3.*\(a, b, c\), got 2"):
        adopt_class_names(LinearLabelHead(4, 2), ["a", "b", "c"])


def test_names_are_checked_once_they_are_known(caplog):
    head = LinearLabelHead(4, 3)
    adopt_class_names(head, ["a", "", "c"])
    adopt_class_names(head, ["", "b"])
    assert head.class_names == ("a", "b", "c")
    with pytest.raises(ConfigError, match="class 0 is 'a' for the label head and 'b' in the data"):
        adopt_class_names(head, ["b", "a", "c"])
    assert not caplog.text
    adopt_class_names(head, [])
    assert "the label head has class names (a, b, c), the data have none" in caplog.text


def test_sentences_may_call_a_class_as_they_like_but_not_in_another_order(caplog):
    head = PrototypeLabelHead(4, ["rose flower", "tulip"])
    adopt_class_names(head, ["rose", "tulip"])
    assert "class 0 is 'rose flower' in its texts and 'rose' in the data" in caplog.text
    assert head.class_names == ("rose", "tulip")  # what evaluation looks for
    assert head.sentences == ["rose flower", "tulip"]
    assert describe(head)["class_names"] == ["rose", "tulip"]
    assert describe(head)["init_args"]["class_names"] == ["rose flower", "tulip"]
    caplog.clear()
    adopt_class_names(head, ["rose", "tulip"])
    assert not caplog.text
    head = PrototypeLabelHead(4, ["rose", "tulip"])
    assert "class_names" not in describe(head)
    with pytest.raises(ConfigError, match="class 0 is 'rose' for the label head and 'tulip' in"):
        adopt_class_names(head, ["tulip", "rose"])


def test_only_heads_that_are_read_need_the_classes_of_the_data(photos, tmp_path):
    """Each is compared with its own names in a checkpoint."""
    heads = {"image": LinearLabelHead(16, 3), "text": LinearLabelHead(16, 2)}
    heads["text"].class_names = ("cat", "dog")
    module = tiny.module()
    module.encoder = with_towers(tiny.encoder(), {}, heads)
    module.loss = CombinedLoss(ContrastiveLoss(), LabelLoss(), 1.0, 1.0)
    fit(tmp_path / "run", photos, module=module)
    assert heads["image"].class_names == COLORS
    assert heads["text"].class_names == ("cat", "dog")
    path = tmp_path / "run" / "last.ckpt"
    fit(tmp_path / "run", photos, path, steps=2, module=module)
    heads["text"].class_names = ("dog", "cat")
    with pytest.raises(CheckpointError, match="class 0 is 'cat' in the checkpoint and 'dog'"):
        fit(tmp_path / "run", photos, path, steps=2, module=module)
