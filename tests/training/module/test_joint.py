"""A joint encoder is trained by the same module, and a resumed run is the uninterrupted one."""

from __future__ import annotations

import torch

from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    LinearSchedule,
    MaskedWordLoss,
    MatchingLoss,
    WeightedTerm,
)
from clipkit.models import (
    CrossAttentionFusion,
    WordHead,
    load_encoder,
    load_joint_encoder,
    with_fusion,
)
from clipkit.optim import WarmupCosine
from clipkit.training import ContrastiveModule
from clipkit.training.callbacks import ExponentialMovingAverage, LockTower, SaveCheckpoint
from tests.helpers import tiny

STEPS = 5


def module(micro_batch_size=None):
    encoder = tiny.encoder()
    torch.manual_seed(1)
    fusion, head = CrossAttentionFusion(16, 1, 2), WordHead(16, encoder.text_tower.vocab_size)
    schedule = LinearSchedule(0.0, 1.0, length=3)
    terms = {
        "matching": WeightedTerm(MatchingLoss(micro_batch_size=micro_batch_size), schedule),
        "words": WeightedTerm(MaskedWordLoss(49405, [0, 49406, 49407], probability=0.5)),
    }
    return ContrastiveModule(
        with_fusion(encoder, fusion, head),
        CombinedLoss(ContrastiveLoss(), terms=terms),
        lambda groups: torch.optim.AdamW(groups, lr=1e-3),
        WarmupCosine(warmup=0.1),
        micro_batch_size=micro_batch_size,
    )


def fit(shards, run, *callbacks, ckpt=None, micro_batch_size=None):
    trained = module(micro_batch_size)
    trainer = tiny.trainer(run, *callbacks, max_steps=STEPS)
    trainer.fit(trained, datamodule=tiny.data(shards, val=True), ckpt_path=ckpt)
    return trained, trainer


def test_a_resumed_run_has_the_same_weights(tmp_path):
    shards = tiny.shards(tmp_path / "data")
    save, average = SaveCheckpoint(keep_every_n_steps=2), ExponentialMovingAverage()
    complete, trainer = fit(shards, tmp_path / "run", save, average)
    assert trainer.callback_metrics["val/matching_num_samples"] > 0
    assert trainer.callback_metrics["train/words_num_samples"] > 0
    start = module().encoder.state_dict()
    trained = complete.encoder.state_dict()
    changed = [name for name, value in trained.items() if not torch.equal(value, start[name])]
    parts = ("image_tower", "text_tower", "fusion", "matching", "word_head", "token_inputs")
    assert all(any(name.startswith(part) for name in changed) for part in parts)
    again, _ = fit(
        shards, tmp_path / "again", ExponentialMovingAverage(), ckpt=tmp_path / "run/step=2.ckpt"
    )
    for name, value in complete.encoder.state_dict().items():
        assert torch.equal(again.encoder.state_dict()[name], value), name
    checkpoint = tmp_path / "run/last.ckpt"
    loaded = load_joint_encoder(checkpoint, prefix="encoder.")
    assert torch.equal(loaded.matching.weight, complete.encoder.matching.weight)
    assert load_encoder(checkpoint).embedding_dim == 16


def test_micro_batches_and_locked_towers_give_the_same_run(tmp_path):
    shards = tiny.shards(tmp_path / "data")
    locks = [LockTower("image_tower"), LockTower("text_tower", unlocked_groups=1)]
    first, _ = fit(shards, tmp_path / "run", *locks)
    second, _ = fit(shards, tmp_path / "micro", *locks, micro_batch_size=3)
    expected = tiny.comparable(first.state_dict())
    for name, value in tiny.comparable(second.state_dict()).items():
        if "key_value.bias" not in name:  # a softmax ignores the bias of keys
            torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=0, msg=name)
    start = module().state_dict()
    for name, value in first.state_dict().items():
        if name.startswith("encoder.image_tower"):
            assert torch.equal(value, start[name])
