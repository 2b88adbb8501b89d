"""ProfileSteps: files of the recorded steps, and nothing else of the run changes."""

import gzip
import json
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback

from clipkit.errors import ConfigError
from clipkit.training.callbacks import ProfileSteps
from clipkit.training.callbacks.performance import profile_steps
from tests.helpers import tiny


def fit(folder, *callbacks, max_steps=4):
    shards = tiny.shards(folder / "shards")
    trainer = tiny.trainer(folder / "run", *callbacks, max_steps=max_steps)
    module = tiny.module()
    trainer.fit(module, tiny.data(shards))
    return module


def num_steps_in(folder):
    trace = json.loads(gzip.decompress((folder / "run/profile/trace.json.gz").read_bytes()))
    events = [event.get("name", "") for event in trace["traceEvents"]]
    return sum(name.startswith("Optimizer.step") for name in events)


def test_the_recorded_steps_are_written(tmp_path):
    fit(tmp_path, ProfileSteps(first_batch=1, num_batches=2))
    assert num_steps_in(tmp_path) == 2
    assert "aten::" in (tmp_path / "run/profile/operators.txt").read_text()
    names = {path.name for path in (tmp_path / "run/profile").iterdir()}
    assert names == {"trace.json.gz", "operators.txt"}


def test_a_run_that_ends_or_fails_meanwhile_writes_what_there_is(tmp_path):
    fit(tmp_path / "ends", ProfileSteps(first_batch=1, num_batches=10), max_steps=2)
    assert num_steps_in(tmp_path / "ends") == 1

    class Fail(Callback):
        def on_train_batch_end(self, trainer, *_):
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        fit(tmp_path / "fails", ProfileSteps(first_batch=0, num_batches=10), Fail())
    assert num_steps_in(tmp_path / "fails") == 1


def test_a_recording_that_never_begins_writes_nothing(tmp_path):
    fit(tmp_path, ProfileSteps(first_batch=50))
    assert not (tmp_path / "run/profile").exists()


def test_a_run_out_of_memory_writes_its_allocations(tmp_path, monkeypatch):
    """With a record that a CPU does not have; other errors write nothing."""
    calls = []
    for name in ("start", "stop"):
        monkeypatch.setattr(
            profile_steps, f"{name}_memory_record", lambda *_, n=name: calls.append(n)
        )
    monkeypatch.setattr(
        profile_steps, "write_memory_record",
        lambda path: (calls.append("write"), path.write_text("allocations")),
    )  # fmt: skip
    errors = {"full": torch.OutOfMemoryError("CUDA out of memory"), "other": ValueError("no")}
    for name, error in errors.items():
        calls.clear()
        callback = ProfileSteps(out_of_memory=True)
        module = SimpleNamespace(device=torch.device("cuda"))
        trainer = SimpleNamespace(default_root_dir=str(tmp_path / name), global_rank=3)
        callback.on_train_start(trainer, module)
        callback.on_exception(trainer, module, error)
        callback.teardown(trainer, module, "fit")
        written = [path.name for path in tmp_path.joinpath(name).rglob("*.pickle")]
        assert written == ["out_of_memory-3.pickle"][: name == "full"]
        assert calls == ["start", *(["write"] if name == "full" else []), "stop"]


def test_wrong_options_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="num_batches"):
        ProfileSteps(num_batches=0)
    for name in ("memory", "out_of_memory"):
        with pytest.raises(ConfigError, match=rf"ProfileSteps\.{name}: .*a GPU, got cpu"):
            fit(tmp_path, ProfileSteps(**{name: True}))
