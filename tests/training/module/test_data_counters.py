"""What became of the data is in the logs: bad samples, dropped ones, samples of each source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lightning.pytorch.loggers.logger import DummyLogger

from clipkit.cli.main import main
from clipkit.data import Stage
from clipkit.errors import ConfigError
from clipkit.training import MixtureOptions, MixtureSource, PairDataModule
from clipkit.training.callbacks import KeyLog, SaveCheckpoint, Throughput
from tests.helpers import tiny
from tests.helpers.factories import pair, write_shard


class Record(DummyLogger):
    """Keeps what is logged, by step."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics, step=None):
        self.rows.setdefault(step, {}).update(metrics)

    def counters(self, name: str) -> list[float]:
        return [row[name] for _, row in sorted(self.rows.items()) if name in row]


def sources(shards: Path) -> list[MixtureSource]:
    return [
        MixtureSource("first", str(shards / "train" / "00000.tar"), weight=3),
        MixtureSource("second", str(shards / "train" / "00001.tar"), weight=1),
    ]


def fit(run: Path, data: PairDataModule, max_steps: int = 8, ckpt: Path | None = None) -> Record:
    record = Record()
    callbacks = [KeyLog(str(run / "keys.txt")), SaveCheckpoint(keep_every_n_steps=3)]
    trainer = tiny.trainer(run, *callbacks, logger=record, max_steps=max_steps)
    trainer.fit(tiny.module(), datamodule=data, ckpt_path=ckpt)
    return record


def of_first(run: Path) -> list[int]:
    """Samples of the first source that were trained on, up to and with each step."""
    lines = [line.split() for line in (run / "keys.txt").read_text().splitlines()]
    steps = int(lines[-1][0])
    return [
        sum(int(key) < 9 for step, _, key in lines if int(step) <= number)
        for number in range(1, steps + 1)
    ]


def test_samples_of_each_source_are_logged_and_go_on_after_a_resume(shards, tmp_path):
    record = fit(tmp_path, PairDataModule(mixture=MixtureOptions(sources(shards)), batch_size=4))
    first = record.counters("data/samples/first")
    assert first == of_first(tmp_path)
    second = record.counters("data/samples/second")
    assert [a + b for a, b in zip(first, second, strict=True)] == [4 * n for n in range(1, 9)]
    again = fit(
        tmp_path,
        PairDataModule(mixture=MixtureOptions(sources(shards)), batch_size=4),
        ckpt=tmp_path / "step=3.ckpt",
    )
    assert again.counters("data/samples/first") == first[3:]


def test_a_curriculum_in_a_run(shards, tmp_path):
    """Weights 3 to 1, from the fourth step on the second source alone."""
    data = PairDataModule(
        mixture=MixtureOptions(
            sources(shards), stages=[Stage(3, {"second": 1.0})], epoch_samples=40
        ),
        batch_size=4,
    )
    record = fit(tmp_path, data)
    assert record.counters("data/samples/first") == [3, 6, 9, 9, 9, 9, 9, 9]
    assert of_first(tmp_path) == [3, 6, 9, 9, 9, 9, 9, 9]


def test_a_curriculum_and_a_cache_in_a_configuration(shards, tmp_path):
    mixture = [{"name": s.name, "urls": s.urls, "weight": s.weight} for s in sources(shards)]
    words = [w for w in tiny.words(shards, tmp_path) if not w.startswith("--data.train")]
    words += [
        f"--data.mixture.sources={json.dumps(mixture)}",
        '--data.mixture.stages=[{"step": 2, "weights": {"second": 1.0}}]',
        f'--data.storage.cache={{"folder": "{tmp_path / "cache"}", "max_bytes": 1000000}}',
        '--trainer.callbacks+={"class_path":"clipkit.training.callbacks.KeyLog",'
        f'"init_args":{{"path":"{tmp_path / "keys.txt"}"}}}}',
    ]
    assert main(["fit", *words]) == 0
    assert of_first(tmp_path) == [3, 6, 6, 6]


def test_bad_and_dropped_samples_are_logged(tmp_path):
    samples = [(f"{i:06d}", pair(i)) for i in range(23)]
    samples[5] = ("000005", {**pair(5), "jpg": b"no picture"})
    write_shard(tmp_path / "train" / "0.tar", samples)
    data = PairDataModule(train=str(tmp_path / "train"), batch_size=4)
    record = fit(tmp_path, data, max_steps=10)
    assert record.counters("data/bad_samples")[-1] == 1
    assert record.counters("data/bad_shards") == [0] * 10
    # 23 samples are five batches of four and three too few for a batch; twice
    assert record.counters("data/dropped") == [0, 0, 0, 0, 3, 3, 3, 3, 3, 6]
    assert 0 <= record.counters("data/padded")[-1] <= 2


def test_a_run_that_logs_nothing(shards, tmp_path):
    trainer = tiny.trainer(tmp_path, Throughput(), max_steps=2, log_every_n_steps=0)
    trainer.fit(tiny.module(), datamodule=tiny.data(shards))
    assert trainer.global_step == 2


def test_stages_want_a_mixture(shards):
    data = PairDataModule(
        train=str(shards / "train"),
        mixture=MixtureOptions(stages=[Stage(3, {"second": 1.0})]),
        batch_size=4,
    )
    with pytest.raises(ConfigError, match=r"mixture.stages.*expected data.mixture.sources"):
        tiny.trainer(shards, max_steps=1).fit(tiny.module(), datamodule=data)
