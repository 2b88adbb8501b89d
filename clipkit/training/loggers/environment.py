"""The environment of a run: versions, ranks, precision, and the commit of the code."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import torch
from lightning.pytorch import Trainer

_PACKAGES: Final = (
    *("clipkit", "torch", "torchvision", "lightning", "transformers", "open_clip_torch", "timm"),
    *("numpy", "pillow", "simplejpeg", "webdataset"),
)
"""Packages whose version can change the result of a run."""
_GIT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Commit:
    """The git commit of a folder.

    Args:
        name: Hexadecimal name of the commit.
        is_modified: Whether tracked files differ from the commit.
    """

    name: str
    is_modified: bool


@dataclass(frozen=True, slots=True)
class Environment:
    """Facts on which a run depends, in addition to its configuration and data.

    Args:
        versions: Versions of Python and of the packages that can change the result.
        platform: Operating system and processor architecture.
        device: Name of the device of rank 0.
        hosts: Number of machines.
        world_size: Number of ranks.
        precision: Precision of the trainer, such as "bf16-mixed".
        float32_matmul_precision: torch's precision of float32 products: "highest", "high" (TF32) or
            "medium" (bfloat16).
        cudnn_benchmark: Whether cuDNN chooses its algorithms by measurement.
        commit: Commit of the folder in which the command was started; None outside of git.
    """

    versions: Mapping[str, str]
    platform: str
    device: str
    hosts: int
    world_size: int
    precision: str
    float32_matmul_precision: str
    cudnn_benchmark: bool
    commit: Commit | None


def environment_of(trainer: Trainer) -> Environment:
    """Return the environment of a run."""
    device = trainer.strategy.root_device
    return Environment(
        versions=package_versions(),
        platform=platform.platform(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        hosts=trainer.num_nodes,
        world_size=trainer.world_size,
        precision=str(trainer.precision),
        float32_matmul_precision=torch.get_float32_matmul_precision(),
        cudnn_benchmark=torch.backends.cudnn.benchmark,
        commit=commit_of(Path.cwd()),
    )


def package_versions() -> dict[str, str]:
    """Return the versions of Python, CUDA and the installed packages that a run uses."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    if torch.version.cuda is not None:
        versions["cuda"] = torch.version.cuda
    return versions


def commit_of(folder: Path) -> Commit | None:
    """Return the commit of a folder; None if it is not in a repository, or git is missing."""
    name = _git(folder, "rev-parse", "HEAD")
    if not name:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return Commit(name, is_modified=changes != "")


def _git(folder: Path, *words: str) -> str | None:
    """Return the output of a git command; None if it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
