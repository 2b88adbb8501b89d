"""Check that a folder belongs to one run, and remove the files of an earlier one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import fsspec
from lightning.pytorch import Trainer

from clipkit.addresses import is_local, local_path
from clipkit.atomic_files import FORMER_SUFFIX
from clipkit.errors import ConfigError
from clipkit.training.callbacks.key_log import KeyLog
from clipkit.training.callbacks.save_checkpoint import checkpoint_folders
from clipkit.training.checkpoints.files import join, remove
from clipkit.training.lightning_compat import callbacks_of
from clipkit.training.loggers.metrics_csv import MetricsCsv

_CHECKPOINT: Final = re.compile(
    rf"(last|best|step=\d+)\.ckpt|\..*\.ckpt\..*{re.escape(FORMER_SUFFIX)}"
)
_LOGS: Final = ("metrics.csv", "bad_steps.jsonl")


def traces_of_a_run(folder: str) -> list[str]:
    """List the files of an earlier run that a new one would replace.

    The configuration is not listed: a run that was refused before its first step leaves one.
    """
    system, root = fsspec.url_to_fs(folder)
    if not system.exists(root):
        return []
    if not system.isdir(root):
        raise ConfigError(f"trainer.default_root_dir: expected a folder, got the file {folder}")
    names = [str(path).rstrip("/").rsplit("/", 1)[-1] for path in system.ls(root, detail=False)]
    return sorted(name for name in names if _CHECKPOINT.fullmatch(name) or name in _LOGS)


def refusal(option: str, folder: str, traces: Iterable[str], resume: str, option_of: str) -> str:
    """Return the error for a folder of another run, with the three solutions."""
    return (
        f"{option}: {folder} contains a run ({', '.join(traces)}), and a new one would replace it; "
        f"continue that run with {resume}, choose another folder with {option_of}, or replace it "
        f"with --overwrite"
    )


def check_folder_is_free(trainer: Trainer, ckpt_path: str | None, overwrite: bool) -> None:
    """Refuse to write into another run's folder, before anything in it changes.

    Args:
        trainer: The trainer of the run.
        ckpt_path: Checkpoint from which the run starts: a path or URL, "last" or "best" for one of
            the run's folder, None for none.
        overwrite: Whether the run replaces the other one.
    """
    folders = checkpoint_folders(trainer)
    root = str(trainer.default_root_dir)
    is_named = ckpt_path in ("last", "best")
    continues = is_named or (ckpt_path is not None and _lies_in(ckpt_path, folders))
    if overwrite and continues:
        raise ConfigError(
            f"--overwrite: not possible with --ckpt_path {ckpt_path}, which continues the run in "
            f"{root}; use one of them"
        )
    if overwrite or continues:
        return
    found = {folder: traces_of_a_run(folder) for folder in folders}
    traces = found.pop(root) + [join(folder, name) for folder in found for name in found[folder]]
    # Logs that the run would truncate and that are not empty.
    logs = [log.path for log in callbacks_of(trainer, KeyLog)]
    logs += [logger.path for logger in trainer.loggers if isinstance(logger, MetricsCsv)]
    filled = (path for path in logs if path.is_file() and path.stat().st_size > 0)
    traces += [str(path) for path in filled if path.parent != Path(root)]
    if traces:
        option = "trainer.default_root_dir"
        message = refusal(option, root, dict.fromkeys(traces), "--ckpt_path last", f"--{option}")
        raise ConfigError(message)


def remove_run(folders: Sequence[str]) -> None:
    """Remove the files of an earlier run, whose checkpoints could be confused with new ones."""
    for folder in folders:
        for name in traces_of_a_run(folder):
            remove(join(folder, name))


def _lies_in(ckpt_path: str, folders: Sequence[str]) -> bool:
    """Return whether a checkpoint belongs to the run."""
    if not is_local(ckpt_path):
        return ckpt_path.rpartition("/")[0] in [folder.rstrip("/") for folder in folders]
    parent = local_path(ckpt_path).resolve().parent
    return parent in [local_path(folder).resolve() for folder in folders if is_local(folder)]
