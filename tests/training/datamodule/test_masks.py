"""Masks of training data: in a configuration, in a run and its record, and when a run resumes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers.logger import DummyLogger

from clipkit.cli.main import main
from clipkit.data import Mixture, SampleMask
from clipkit.errors import CheckpointError, ConfigError, DataError
from clipkit.runs import read_run
from clipkit.runs.differences import compare_runs
from clipkit.training import MixtureOptions, PairDataModule, PairOptions, StorageOptions
from clipkit.training.callbacks import KeyLog, RunRecorder, SaveCheckpoint
from clipkit.training.datamodule.options import MixtureSource, WebDatasetOptions
from clipkit.training.datamodule.sources import open_data, open_index, webdataset_shards
from tests.helpers import tiny
from tests.helpers.masks import save_mask

REMOVED = {1, 2, 8, 9, 20}  # of 23 samples; steps of 4: four steps an epoch
KEPT = {f"{number:06d}" for number in set(range(23)) - REMOVED}


class Crash(Callback):
    def __init__(self, step):
        self.step = step

    def on_before_backward(self, trainer, *_):
        if trainer.global_step == self.step:
            raise RuntimeError("crash")


@pytest.fixture
def mask(shards, tmp_path):
    return save_mask(shards, tmp_path / "m.npz", REMOVED)


def fit(shards, run, *callbacks, mask=None, ckpt=None, **options):
    callbacks = (KeyLog(str(run / "keys.txt")), RunRecorder(), *callbacks)
    trainer = tiny.trainer(run, *callbacks, **{"max_steps": 8, **options})
    trainer.fit(
        tiny.module(), datamodule=tiny.data(shards, samples=PairOptions(mask=mask)), ckpt_path=ckpt
    )


def keys_of(run):
    return [line.split()[-1] for line in (run / "keys.txt").read_text().splitlines()]


def test_a_run_trains_on_kept_samples_and_resumes_exactly(shards, mask, tmp_path):
    fit(shards, tmp_path / "all", mask=mask)
    keys = keys_of(tmp_path / "all")
    assert len(keys) == 32
    for epoch in (keys[:16], keys[16:]):
        assert len(set(epoch)) == 16
        assert set(epoch) <= KEPT
    with pytest.raises(RuntimeError, match="crash"):
        fit(shards, tmp_path / "cut", Crash(6), SaveCheckpoint(every_n_steps=3), mask=mask)
    fit(shards, tmp_path / "cut", mask=mask, ckpt=str(tmp_path / "cut" / "last.ckpt"))
    assert keys_of(tmp_path / "cut") == keys


def test_another_mask_is_refused_by_a_resume(shards, mask, tmp_path):
    other = save_mask(shards, tmp_path / "other.npz", {0, 1})
    fit(shards, tmp_path, SaveCheckpoint(), mask=mask, max_steps=2)
    last = str(tmp_path / "last.ckpt")
    for changed, found in ((None, "got none"), (other, r"got .*other\.npz with ")):
        with pytest.raises(CheckpointError, match=f"expected a mask with fingerprint.*{found}"):
            fit(shards, tmp_path, mask=changed, ckpt=last)
    fit(shards, tmp_path, mask=mask, ckpt=last, max_steps=3)


def test_a_mask_cannot_be_added_by_a_resume(shards, mask, tmp_path):
    fit(shards, tmp_path, SaveCheckpoint(), max_steps=2)
    with pytest.raises(CheckpointError, match="expected no mask, as at the first launch"):
        fit(shards, tmp_path, mask=mask, ckpt=str(tmp_path / "last.ckpt"))


def test_the_record_of_a_run_names_its_mask(shards, mask, tmp_path):
    fit(shards, tmp_path / "a", mask=mask, max_steps=1)
    fit(shards, tmp_path / "b", max_steps=1)
    first, second = (read_run(tmp_path / name) for name in "ab")
    assert list(first.masks) == [mask]
    assert len(first.mask_fingerprint) == 32
    assert (dict(second.masks), second.mask_fingerprint) == ({}, "")
    assert first.data_fingerprint == second.data_fingerprint
    [row] = [row for row in compare_runs([first, second])[0] if row.name == "mask"]
    assert row.values == (first.mask_fingerprint, "–")


def test_loggers_receive_the_fingerprint(shards, mask, tmp_path):
    class Record(DummyLogger):
        def log_hyperparams(self, params):
            received.append(params)

    received = []
    fit(shards, tmp_path, mask=mask, max_steps=1, logger=Record())
    fit(shards, tmp_path, max_steps=1, logger=Record())
    masked, plain = (params for params in received if "environment" in params)
    assert masked["masks"] == read_mask(mask)
    assert "masks" not in plain


def read_mask(path):
    return {path: SampleMask.load(path).fingerprint}


def test_the_command_takes_a_mask_and_shows_it(shards, mask, tmp_path, capsys):
    words = [*tiny.words(shards, tmp_path / "run"), f"--data.samples.mask={mask}"]
    assert main(["fit", *words]) == 0
    shown = "".join(capsys.readouterr().err.replace("│", "").split())
    assert "keeps18of23samples(filters:test),by" in shown
    assert "18samplesin2shards" in shown
    record = read_run(tmp_path / "run")
    assert list(record.masks) == [mask]
    assert record.config["data.samples.mask"] == mask


def test_several_masks_keep_what_all_keep(shards, mask, tmp_path):
    other = save_mask(shards, tmp_path / "other.npz", {0, 1})
    index = open_index(f"{shards}/train", mask=[mask, other])
    assert index.kept.num_kept == 23 - len(REMOVED | {0})
    assert index.mask.name == f"{mask}, {other}"


def test_sources_of_a_mixture_have_their_own_masks(shards, mask):
    sources = [
        MixtureSource("a", f"{shards}/train", weight=1.0, mask=mask),
        MixtureSource("b", f"{shards}/val", weight=1.0),
    ]
    mixture = open_data(None, MixtureOptions(sources))
    assert isinstance(mixture, Mixture)
    assert [source.index.kept.num_kept for source in mixture.sources] == [18, 8]


def test_a_mask_of_other_data_is_refused(shards, mask):
    with pytest.raises(DataError, match=r"m\.npz: expected a mask of these data \(8 samples"):
        open_index(f"{shards}/val", mask=mask)


@pytest.mark.parametrize(
    "options",
    [
        {"samples": {"per_class": 2}},
        {"mixture": MixtureOptions([MixtureSource("a", "shards", weight=1.0)]), "train": None},
    ],
)
def test_masks_need_the_shards_that_were_filtered(shards, mask, options):
    samples = PairOptions(mask=mask, **options.pop("samples", {}))
    with pytest.raises(ConfigError, match=r"samples\.mask: is a mask of the shards of data\.train"):
        open_data(**{"train": f"{shards}/train", "samples": samples, **options})


def test_a_missing_mask_is_one_line_for_the_command(shards, mask, tmp_path, capsys):
    words = tiny.words(shards, tmp_path / "run", f"--data.samples.mask={tmp_path}/none.npz")
    assert main(["fit", *words]) == 2
    assert (
        "none.npz: expected the file of a mask, got none: no such file" in capsys.readouterr().err
    )


def test_webdataset_takes_no_mask(shards, mask):
    storage = StorageOptions(webdataset=WebDatasetOptions(num_samples=10))
    with pytest.raises(
        ConfigError, match=r"samples\.mask: webdataset reads shards without an index"
    ):
        webdataset_shards(f"{shards}/train", MixtureOptions(), PairOptions(mask=mask), storage)
    data = PairDataModule(
        f"{shards}/train", storage=replace(storage), samples=PairOptions(mask=mask)
    )
    with pytest.raises(ConfigError, match=r"data\.samples\.mask"):
        data._open_train()
