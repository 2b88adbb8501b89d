"""Check that the outputs of a command can be written, before the work starts."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from clipkit.errors import ConfigError

_PROBE: Final = bytes(64 * 1024)
"""Content of the test file: an empty file can be created even on a full disk."""
_TRIES: Final = 20


def check_output_file(option: str, path: Path | None, num_bytes: int = 0) -> None:
    """Check that a file can be written, by writing another one next to it.

    Its folder need not exist, and is left unchanged.

    Raises:
        ConfigError: If a folder or device has that name, the disk is full or read-only, the folder
            may not be written to, or the name is too long.
    """
    if path is None:
        return
    if kind := _other_kind(option, path, wanted="file"):
        raise ConfigError(f"{option}: expected a file, got the {kind} {path}")
    _probe(option, path, path.parent, num_bytes)


def check_output_folder(option: str, path: Path | None, files: Sequence[str] = ()) -> None:
    """Check that files can be written into a folder, by writing another one there.

    The folder need not exist, and is left unchanged.

    Raises:
        ConfigError: As ``check_output_file``, or if a file has the folder's name.
    """
    if path is None:
        return
    if kind := _other_kind(option, path, wanted="folder"):
        raise ConfigError(f"{option}: expected a folder, got the {kind} {path}")
    _probe(option, path, path)
    for name in files:
        check_output_file(option, path / name)


def check_new_folder(option: str, path: Path, num_bytes: int = 0) -> None:
    """Check that a new folder can be created, or that the existing one is empty.

    Raises:
        ConfigError: As ``check_output_folder``, or if the folder is not empty.
    """
    kind = _other_kind(option, path, wanted="folder")
    if kind or (path.is_dir() and any(path.iterdir())):
        problem = f"{path} is a {kind}" if kind else f"{path} is not empty"
        raise ConfigError(f"{option}: expected a new or empty folder, {problem}")
    _probe(option, path, path.parent, num_bytes)


def _other_kind(option: str, path: Path, wanted: str) -> str | None:
    """Return what exists at a path if it is not the wanted kind, else None."""
    try:
        is_there, is_folder, is_file = path.exists(), path.is_dir(), path.is_file()
        is_link = path.is_symlink()
    except (OSError, ValueError) as error:
        raise _refusal(option, path, error) from error
    if not is_there:
        return "broken link" if is_link else None
    if is_folder if wanted == "folder" else is_file:
        return None
    return "folder" if is_folder else "file" if is_file else "device or pipe"


def _probe(option: str, path: Path, folder: Path, num_bytes: int = 0) -> None:
    """Write a file into ``folder`` under a name as long as the temporary one of ``path``."""
    try:
        free = _free_after_writing(folder, f".{path.name}.")
    except (OSError, ValueError) as error:
        raise _refusal(option, path, error) from error
    if free < num_bytes:
        raise ConfigError(
            f"{option}: {path} needs {num_bytes / 1e6:,.0f} MB, the disk has {free / 1e6:,.0f} MB; "
            f"free some space, or choose another path"
        )


def _free_after_writing(folder: Path, prefix: str) -> int:
    """Write a test file, remove it and the folders made for it, and return the free bytes."""
    for tries_left in reversed(range(_TRIES)):
        made: list[Path] = []
        try:
            for missing in _missing(folder):
                missing.mkdir(exist_ok=True)
                made.append(missing)
            with tempfile.NamedTemporaryFile(dir=folder, prefix=prefix, suffix=".tmp") as file:
                file.write(_PROBE)
                file.flush()
                os.fsync(file.fileno())
            return shutil.disk_usage(folder).free
        # another process checked the same path, and removed a folder that it had made
        except (FileNotFoundError, FileExistsError):
            if not tries_left:
                raise
        finally:
            for empty in reversed(made):
                with contextlib.suppress(OSError):  # in use by another process
                    empty.rmdir()
    raise AssertionError("unreachable")


def _missing(folder: Path) -> list[Path]:
    """Return the folders that do not exist yet, the outermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    return missing[::-1]


def _refusal(option: str, path: Path, error: Exception) -> ConfigError:
    reason = getattr(error, "strerror", None) or error
    return ConfigError(f"{option}: {str(path)!r} cannot be written: {reason}; choose another path")
