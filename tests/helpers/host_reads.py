"""Where a fit reads a tensor's value, or sends a number to a tensor's device.

On a GPU both wait for all queued work. The fit runs on the CPU, where nothing waits, and the lines
are recorded; those that only run on a CPU, or read what gloo exchanged, are known.
"""

from __future__ import annotations

import collections
import importlib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from clipkit.training.callbacks import ExponentialMovingAverage, StopOnSignal
from tests.helpers import tiny

ROOT = Path(__file__).parents[2]
READS = ("_local_scalar_dense", "nonzero", "_unique", "masked_select", "is_nonzero", "aten.equal")
FIRST, LAST = 4, 8

ON_THE_CPU = {
    "clipkit/distributed/delayed_max.py:all_reduce": "an exchange over gloo",
    "clipkit/distributed/delayed_max.py:wait": "an exchange over gloo",
    "clipkit/losses/sizes.py:_receive": "an exchange over gloo",
    "clipkit/losses/global_contrastive.py:_check_range": "an assertion of the device on a GPU",
    "clipkit/losses/contrastive.py:_assert_number": "an assertion of the device on a GPU",
    "clipkit/types/batch.py:to": "counts on the CPU what is then copied",
    "clipkit/types/batch.py:count_joint": "counts on the CPU what is then copied",
    "clipkit/losses/kernels/labels.py:_refuse": "an assertion of the device on a GPU",
    "clipkit/training/callbacks/step_guard.py:values": "copied two steps before on a GPU",
}
"""Functions that read on a CPU and do not wait for a GPU, by file and name."""
_LOADER = ("/clipkit/data/", "/training/datamodule/")


class HostReads(Callback):
    """Counts the functions of clipkit and Lightning that read or send a number in some steps."""

    def __init__(self) -> None:
        self.places: collections.Counter[str] = collections.Counter()
        self._is_on = False

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Begin after the first steps, and end before the last."""
        self._is_on = FIRST <= trainer.global_step < LAST

    def begin(self) -> None:
        """Count from now on, outside of a fit."""
        self._is_on = True

    def note(self, what: str) -> None:
        """Count the innermost function outside of torch, unless it is known or of the loader."""
        if not self._is_on:
            return
        frames = [
            frame for frame in traceback.extract_stack()
            if "/clipkit/" in frame.filename or "/lightning/" in frame.filename
        ]  # fmt: skip
        if not frames or any(part in frame.filename for part in _LOADER for frame in frames):
            return
        path = frames[-1].filename
        root = "clipkit/" if "/clipkit/" in path else "lightning/"
        place = f"{root}{path.rsplit(f'/{root}', 1)[1]}:{frames[-1].name}"
        if place not in ON_THE_CPU:
            self.places[f"{what}: {place}"] += 1


class _Reads(TorchDispatchMode):
    def __init__(self, record: HostReads) -> None:
        super().__init__()
        self._record = record

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if any(word in name for word in READS):
            self._record.note(name)
        if name in ("aten.index.Tensor", "aten.index_put_.default"):
            masks = [t for t in args[1] if t is not None and t.dtype == torch.bool]
            if masks:
                self._record.note("mask")
        return func(*args, **(kwargs or {}))


class _Sends(TorchFunctionMode):
    def __init__(self, record: HostReads) -> None:
        super().__init__()
        self._record = record

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.tensor, torch.as_tensor) and (kwargs or {}).get("device") is not None:
            self._record.note("torch.tensor")
        return func(*args, **(kwargs or {}))


def gpu_callbacks() -> list[Callback]:
    """Return the callbacks of configs/trainer/gpu.yaml, which write to the trainer's folder."""
    content = yaml.safe_load((ROOT / "configs/trainer/gpu.yaml").read_text())
    made = []
    for entry in content["trainer"]["callbacks"]:
        module, _, name = entry["class_path"].rpartition(".")
        made.append(getattr(importlib.import_module(module), name)(**entry.get("init_args", {})))
    return made


def recorded_reads(call: Callable[[], object]) -> dict[str, int]:
    """Return what a call waits for, and how often."""
    record = HostReads()
    record.begin()
    with _Reads(record), _Sends(record):
        call()
    return dict(record.places)


def recorded_fit(run: Path, module: Any, data: Any, **options: Any) -> dict[str, int]:
    """Fit with the callbacks of configs/trainer/gpu.yaml and of every run, and an average.

    Returns:
        What the steps in between waited for, and how often.
    """
    record = HostReads()
    callbacks = [record, *gpu_callbacks(), ExponentialMovingAverage(), StopOnSignal()]
    options = {"log_every_n_steps": 50, "gradient_clip_val": 1.0, **options}
    trainer = tiny.trainer(run, *callbacks, max_steps=LAST + 1, enable_progress_bar=True, **options)
    module._build_optimizer = lambda groups: torch.optim.AdamW(groups, lr=1e-3, fused=True)
    with _Reads(record), _Sends(record):
        trainer.fit(module, datamodule=data)
    assert trainer.global_step == LAST + 1
    return dict(record.places)
