"""Record of a run: the file ``run.json`` in its folder."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import yaml

from clipkit.addresses import has_scheme
from clipkit.atomic_files import new_file
from clipkit.errors import DataError

RECORD: Final = "run.json"
"""Name of the record in the folder of a run."""
HEARTBEAT_SECONDS: Final = 10.0
"""Time between two writes of the record of a running run."""
_SILENT_SECONDS: Final = 60.0
"""A running run whose record is older was killed, or its disk or machine is gone."""
_FORMAT: Final = "clipkit-run-1"
_OWN_OPTIONS: Final = (("trainer", "default_root_dir"), ("ckpt_path",), ("config",))
"""Options that do not describe what a run does."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best checkpoint of a run.

    Args:
        metric: Name of the metric that selected it.
        value: Value of the metric.
        checkpoint: Path or URL of the checkpoint; a path is relative to the folder of the run.
    """

    metric: str
    value: float
    checkpoint: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What is known about a run without reading its logs.

    Args:
        folder: Folder of the run.
        state: "running", "finished", "stopped" (by a signal or Ctrl-C: it can be resumed),
            "failed" (by an error), or "killed" (recorded as running, but without a heartbeat);
            "unknown" for a run of a version without records.
        started: Start of the last launch, in seconds since 1970; 0 if it is not known.
        updated: Last heartbeat, in seconds since 1970.
        host: Name of the machine of rank 0.
        pid: Process of rank 0.
        world_size: Number of ranks.
        step: Number of completed optimizer steps.
        metrics: Last finite value of each logged metric.
        best: The best checkpoint, if one metric is monitored; None if there is none.
        checkpoint: Path or URL where the last checkpoint is written, as in ``best``; empty if the
            run writes none.
        config: Options by dotted name, such as "data.batch_size".
        config_hash: Hash of the configuration without folders; empty if it is not known.
        data_fingerprint: Hash of names and sizes of the training shards; empty if not known.
        masks: Fingerprint of each mask of training samples by its file; empty without masks.
        versions: Versions of packages by name.
        error: Why the run failed, on one line.
    """

    folder: Path
    state: str
    started: float = 0.0
    updated: float = 0.0
    host: str = ""
    pid: int = 0
    world_size: int = 1
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    best: Best | None = None
    checkpoint: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    config_hash: str = ""
    data_fingerprint: str = ""
    masks: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    error: str = ""

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name or str(self.folder)

    @property
    def mask_fingerprint(self) -> str:
        """Fingerprints of all masks of training samples; empty without masks."""
        return ", ".join(self.masks.values())

    @property
    def seconds(self) -> float:
        """Duration of the last launch until its last heartbeat."""
        return max(0.0, self.updated - self.started)

    def place_of(self, checkpoint: str) -> str:
        """Return the path or URL of a checkpoint of the record, which the run may have moved with.

        Examples:
            >>> RunRecord(Path("runs/first"), "finished").place_of("last.ckpt")
            'runs/first/last.ckpt'
        """
        return checkpoint if has_scheme(checkpoint) else str(self.folder / checkpoint)

    def checked(self, now: float | None = None) -> RunRecord:
        """Return the record with the state "killed" if it is running without a heartbeat.

        Args:
            now: Time of the question, in seconds since 1970; None for the present.
        """
        if self.state != "running" or _is_alive(self, time.time() if now is None else now):
            return self
        return replace(self, state="killed")


def _is_alive(record: RunRecord, now: float) -> bool:
    if now - record.updated > _SILENT_SECONDS:
        return False
    if record.host != socket.gethostname() or record.pid <= 0:
        return True
    try:
        os.kill(record.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        return True
    return True


def write_run(record: RunRecord) -> None:
    """Write ``run.json`` atomically; the configuration is in ``config.yaml`` and left out."""
    content = {"format": _FORMAT} | asdict(record)
    for name in ("folder", "config"):
        del content[name]
    # Synchronising with a busy disk each time would delay the steps.
    with new_file(record.folder / RECORD, sync=record.state != "running") as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_run(folder: Path | str) -> RunRecord:
    """Read the record and the configuration of a run.

    A run of a version without records, or whose record is damaged, is described by its
    configuration and the age of ``metrics.csv``; its state is "unknown".

    Args:
        folder: Folder of the run.

    Raises:
        DataError: If the folder contains no run.

    Examples:
        >>> Path("first").mkdir()
        >>> write_run(RunRecord(Path("first"), "finished", step=100, metrics={"val/loss": 2.5}))
        >>> read_run("first").metrics
        {'val/loss': 2.5}
    """
    folder = Path(folder)
    config = _read_config(folder / "config.yaml")
    try:
        content = json.loads((folder / RECORD).read_bytes())
        return _from_json(folder, content, config)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        log = folder / "metrics.csv"
        if not (folder / RECORD).is_file() and not (config and log.is_file()):
            raise DataError(
                f"{folder}: expected the folder of a run with {RECORD}, or config.yaml and "
                f"metrics.csv, found none"
            ) from error
    return RunRecord(
        folder,
        "unknown",
        updated=log.stat().st_mtime if log.is_file() else 0.0,
        checkpoint="last.ckpt",
        config=flat_options(config),
        config_hash=config_hash(config),
    )


def _from_json(folder: Path, content: Any, config: Mapping[str, Any]) -> RunRecord:
    if content["format"] != _FORMAT:
        raise ValueError(f"format {content['format']!r}")
    best = content["best"]
    if best is not None:
        best = Best(str(best["metric"]), float(best["value"]), str(best["checkpoint"]))
    return RunRecord(
        folder=folder,
        state=str(content["state"]),
        started=float(content["started"]),
        updated=float(content["updated"]),
        host=str(content["host"]),
        pid=int(content["pid"]),
        world_size=int(content["world_size"]),
        step=int(content["step"]),
        metrics={str(name): float(value) for name, value in content["metrics"].items()},
        best=best,
        checkpoint=str(content["checkpoint"]),
        config=flat_options(config),
        config_hash=str(content["config_hash"]),
        data_fingerprint=str(content["data_fingerprint"]),
        # Records of versions without masks have none.
        masks={str(name): str(value) for name, value in content.get("masks", {}).items()},
        versions={str(name): str(value) for name, value in content["versions"].items()},
        error=str(content["error"]),
    )


def _read_config(path: Path) -> dict[str, Any]:
    """Return the configuration of a run; empty if it is missing or damaged."""
    try:
        content = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def flat_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a configuration by dotted name; lists stay values.

    Examples:
        >>> flat_options({"data": {"batch_size": 64}, "seed_everything": 0})
        {'data.batch_size': 64, 'seed_everything': 0}
    """
    options: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            options |= {f"{name}.{key}": inner for key, inner in flat_options(value).items()}
        else:
            options[str(name)] = value
    return options


def config_hash(config: Mapping[str, Any]) -> str:
    """Return a hash of a configuration, the same for the same run in another folder.

    Args:
        config: Sections of the configuration, in plain types.

    Returns:
        12 hexadecimal digits; empty for an empty configuration.

    Examples:
        >>> first, second = ({"trainer": {"default_root_dir": f, "max_steps": 5}} for f in "ab")
        >>> config_hash(first) == config_hash(second)
        True
    """
    if not config:
        return ""
    left_out = {".".join(path) for path in _OWN_OPTIONS}
    options = {name: v for name, v in flat_options(config).items() if name not in left_out}
    text = json.dumps(options, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
