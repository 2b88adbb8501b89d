"""An objective of labels alone: the text tower neither runs over captions nor learns."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from clipkit.losses import CombinedLoss, ContrastiveLoss, LabelLoss
from clipkit.models import PrototypeLabelHead
from tests.helpers import tiny


def watched(module):
    """The number of sentences of each pass of the text tower."""
    passes = []
    module.encoder.text_tower.register_forward_hook(lambda *call: passes.append(len(call[1][0])))
    return passes


def labels_alone():
    return CombinedLoss(ContrastiveLoss(), LabelLoss(), contrastive_weight=0.0, label_weight=1.0)


def fit(module, folder, run, **options):
    trainer = tiny.trainer(run, **{"max_steps": 3, "limit_val_batches": 1, **options})
    trainer.fit(module, tiny.data(folder, val=True))
    return trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.shards(tmp_path_factory.mktemp("shards"))


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_the_text_tower_rests(folder, tmp_path, micro_batch_size):
    module = tiny.module(labels=True, micro_batch_size=micro_batch_size)
    module.loss = labels_alone()
    start, passes = copy.deepcopy(module.encoder.state_dict()), watched(module)
    trainer = fit(module, folder, tmp_path, val_check_interval=3)
    assert passes == []
    assert "train/label" in trainer.logged_metrics
    assert "val/loss" in trainer.logged_metrics
    assert not any("contrastive" in name for name in trainer.logged_metrics)
    changed = {
        name.split(".")[0]
        for name, value in module.encoder.state_dict().items()
        if not torch.equal(value, start[name])
    }
    assert changed == {"image_tower", "label_head"}


def test_a_head_that_reads_class_names_still_teaches_the_text_tower(folder, tmp_path):
    module = tiny.module()
    names = ["red", "green", "blue", "grey"]
    module.encoder.label_head = PrototypeLabelHead(16, names)
    module.loss, passes = labels_alone(), watched(module)
    start = copy.deepcopy(module.encoder.text_tower.state_dict())
    fit(module, folder, tmp_path, limit_val_batches=0)
    assert passes == [len(names)] * 3
    now = module.encoder.text_tower.state_dict()
    assert any(not torch.equal(now[name], start[name]) for name in start)


def test_embeddings_are_still_predicted_of_both(folder, tmp_path):
    module = tiny.module(labels=True)
    module.loss = labels_alone()
    outputs: Any = tiny.trainer(tmp_path).predict(module, tiny.data(folder, val=True))
    first = outputs[0]
    assert first["text"].shape == first["image"].shape
