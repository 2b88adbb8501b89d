"""A joint encoder is trained by the same module, and a resumed run is the uninterrupted one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    DistillationLoss,
    FusedStateDistillationLoss,
    LinearSchedule,
    MaskedWordDistillationLoss,
    MaskedWordLoss,
    MatchingDistillationLoss,
    MatchingLoss,
    MomentumTeacher,
    WeightedTerm,
)
from clipkit.models import (
    CrossAttentionFusion,
    MergedFusion,
    TcnTower,
    WordHead,
    load_encoder,
    load_joint_encoder,
    with_fusion,
    with_towers,
)
from clipkit.models.towers.freezing import is_locked
from clipkit.optim import WarmupCosine
from clipkit.training import ContrastiveModule
from clipkit.training.callbacks import ExponentialMovingAverage, LockTower, SaveCheckpoint
from clipkit.training.module.unread_towers import lock_unread_towers, reads_captions
from tests.helpers import tiny, tiny_models

STEPS = 5
WORDS = 49405, [0, 49406, 49407]


def module(micro_batch_size=None):
    encoder = tiny.encoder()
    torch.manual_seed(1)
    fusion, head = CrossAttentionFusion(16, 1, 2), WordHead(16, encoder.text_tower.vocab_size)
    schedule = LinearSchedule(0.0, 1.0, length=3)
    terms = {
        "matching": WeightedTerm(MatchingLoss(micro_batch_size=micro_batch_size), schedule),
        "words": WeightedTerm(MaskedWordLoss(*WORDS, probability=0.5)),
        "matching_teacher": WeightedTerm(MatchingDistillationLoss(), schedule),
        "word_teacher": WeightedTerm(MaskedWordDistillationLoss(*WORDS, 0.5, micro_batch_size), 9),
        "state_teacher": WeightedTerm(FusedStateDistillationLoss((16, 16))),
        "similarities": WeightedTerm(DistillationLoss()),
    }
    return ContrastiveModule(
        with_fusion(encoder, fusion, head),
        CombinedLoss(ContrastiveLoss(), terms=terms, teacher=MomentumTeacher(decay=0.6)),
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
    resumed = again.state_dict()
    for name, value in complete.state_dict().items():
        assert torch.equal(resumed[name], value), name
    average = complete.loss.teacher.encoder.state_dict()
    for name in changed:
        assert not torch.equal(average[name], trained[name])
        assert not torch.equal(average[name], start[name])
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


def test_matching_logits_are_predicted():
    trained = module().eval()
    encoder, batch = trained.encoder, tiny.batch()
    with torch.no_grad():
        found, expected = trained.predict_step(batch, 0), encoder(batch)
        logits = encoder.match(encoder.fuse(expected.tokens).pooled)
        assert list(found) == ["keys", "image", "text", "matching"]
        torch.testing.assert_close(found["matching"], logits)
        without_captions = trained.predict_step(replace(batch, tokens=None), 0)
        assert "matching" not in without_captions
        some = torch.tensor([True, False, True, True])
        masked = trained.predict_step(replace(batch, text_present=some), 0)
    assert torch.equal(masked["matching_present"], some)
    torch.testing.assert_close(masked["matching"], logits * some)


FUSED = {
    "all three": (MatchingLoss, ["image", "text", "series"], set()),
    "not the image": (lambda: MaskedWordLoss(9, [1]), ["text", "series"], {"image"}),
    "text as the third": (
        lambda: MatchingLoss("image", "series"),
        ["image", "series", "text"],
        set(),
    ),
}


@pytest.mark.parametrize("case", FUSED)
def test_towers_whose_tokens_are_fused_are_trained(case):
    make, names, locked = FUSED[case]
    loss, fusion = make(), MergedFusion(16, 1, 2, names)
    series = TcnTower(24, input_shape=(4, 10), width=8, num_blocks=1, mean=0, std=1)
    encoder = with_fusion(with_towers(tiny_models.encoder(), {"series": series}), fusion)
    objective = CombinedLoss(terms={"term": WeightedTerm(loss)})
    assert reads_captions(encoder, objective)
    lock_unread_towers(encoder, objective)
    assert {name for name, tower in encoder.towers.items() if is_locked(tower)} == locked
    without = CombinedLoss(ContrastiveLoss(), terms={"term": WeightedTerm(loss, 0.0)})
    lock_unread_towers(encoder, without)
    assert is_locked(encoder.towers["series"])
