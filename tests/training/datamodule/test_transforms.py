"""The transform follows from the image tower, and one that does not fit it is refused."""

from __future__ import annotations

import pytest

from clipkit.data import (
    EvalTransform,
    NaFlexEvalTransform,
    NaFlexTrainTransform,
    TrainTransform,
)
from clipkit.errors import ConfigError
from clipkit.losses import EncoderTeacher
from clipkit.models.inputs import transform_of
from clipkit.patches import TokenBudget
from clipkit.training import PairDataModule
from clipkit.training.callbacks import KeyLog, SaveCheckpoint, TokenSchedule, TokenStage
from clipkit.training.datamodule.options import PairOptions
from clipkit.training.datamodule.transforms import check_transform, train_transform_of
from tests.helpers import naflex, tiny
from tests.training.module.test_data_counters import Record


def test_transforms_of_a_tower():
    square, flexible = tiny.encoder().image_tower, naflex.encoder(enlarge=False).image_tower
    budget = TokenBudget(naflex.PATCH_SIZE, naflex.MAX_TOKENS, enlarge=False)
    for tower, train, val in (
        (square, TrainTransform, EvalTransform),
        (flexible, NaFlexTrainTransform, NaFlexEvalTransform),
    ):
        for transform, kind in ((train_transform_of(tower), train), (transform_of(tower), val)):
            assert type(transform) is kind
            assert transform.image_size == tower.image_size
            assert transform.budget == (None if tower is square else budget)
            check_transform(transform, tower)
    check_transform(NaFlexTrainTransform(naflex.PATCH_SIZE, 3), flexible)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (TrainTransform(24), "TrainTransform returns images of one shape, TimmNaFlexTower reads"),
        (NaFlexTrainTransform(16, 12), "patch_size=16, the image tower 8"),
        (NaFlexTrainTransform(8, 13), "up to max_tokens=13 patches, the image tower reads 12"),
    ],
)
def test_transforms_that_do_not_fit(transform, message):
    with pytest.raises(ConfigError, match=message):
        check_transform(transform, naflex.encoder().image_tower)


def test_patches_for_a_tower_of_squares():
    tower = tiny.encoder().image_tower
    with pytest.raises(ConfigError, match=r"NaFlexTrainTransform returns images of any shape"):
        check_transform(NaFlexTrainTransform(8, 4), tower)
    with pytest.raises(ConfigError, match=r"returns images of 24 pixels, the image tower expects"):
        check_transform(TrainTransform(24), tower)


def data(folder, **options):
    return PairDataModule(train=f"{folder}/*.tar", val=f"{folder}/*.tar", batch_size=4, **options)


def fit(run, folder, max_steps, ckpt=None, **options):
    record = Record()
    callbacks = [KeyLog(str(run / "keys.txt")), SaveCheckpoint(keep_every_n_steps=3)]
    trainer = tiny.trainer(run, *callbacks, logger=record, max_steps=max_steps)
    trainer.fit(naflex.module(**options), datamodule=data(folder), ckpt_path=ckpt)
    return record


def test_a_run_logs_its_padding_and_resumes_exactly(tmp_path):
    folder = naflex.shards(tmp_path / "shards")
    whole = fit(tmp_path / "whole", folder, 6)
    shares = whole.counters("data/padding")
    assert len(shares) == 6
    assert all(0 <= share < 1 for share in shares)
    assert max(shares) > 0
    (kept,) = (tmp_path / "whole").glob("*3.ckpt")
    rest = fit(tmp_path / "rest", folder, 6, kept)
    keys = [(tmp_path / name / "keys.txt").read_text().splitlines() for name in ("whole", "rest")]
    assert keys[0][3 * 4 :] == keys[1]
    assert rest.counters("train/loss") == pytest.approx(whole.counters("train/loss")[3:])
    micro = fit(tmp_path / "micro", folder, 6, micro_batch_size=3)
    wanted = whole.counters("train/loss")
    assert micro.counters("train/loss") == pytest.approx(wanted, rel=1e-3)


def test_what_needs_images_of_one_shape_is_refused(tmp_path):
    folder = naflex.shards(tmp_path / "shards")
    schedule = TokenSchedule([TokenStage(0.5, image_size=16)])
    trainer = tiny.trainer(tmp_path, schedule, max_steps=2)
    with pytest.raises(ConfigError, match=r"TokenSchedule\.image_size: .* images of any shape"):
        trainer.fit(naflex.module(), datamodule=data(folder))
    with pytest.raises(ConfigError, match=r"EncoderTeacher\.image_size"):
        EncoderTeacher(tiny.encoder(), image_size=16)(naflex.batch())
    options = PairOptions(transform=TrainTransform(24))
    with pytest.raises(ConfigError, match=r"data: TrainTransform returns images of one shape"):
        tiny.trainer(tmp_path, max_steps=2).fit(
            naflex.module(), datamodule=data(folder, samples=options)
        )
