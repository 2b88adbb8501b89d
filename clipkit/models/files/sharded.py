"""Sharded checkpoints: a folder with one file of tensors per rank, and one for the rest.

The parts are safetensors files as ``torch.distributed.checkpoint`` writes and reads them; the rest
is ``meta.pt``, with the sizes and checksums of the parts. Nothing is unpickled but plain types and
tensors, and nothing here needs a process group to read.

Modules of ``torch.distributed`` are imported in the functions that use them: the import takes
seconds, and most programs read and write no such folder.
"""

from __future__ import annotations

import json
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from clipkit.atomic_files import new_file
from clipkit.distributed.agreement import on_all_ranks
from clipkit.distributed.collectives import rank
from clipkit.errors import CheckpointError, ConfigError
from clipkit.models.files.state_dicts import read_file, save_plain

META: Final = "meta.pt"
"""Written last, so that a folder without it is no checkpoint."""
_PARTS: Final = "parts"
_CHUNK_BYTES: Final = 1 << 24

Place = tuple[Any, ...]
"""Position of a tensor in a checkpoint: the keys and indices that lead to it."""


def is_sharded(path: Path | str) -> bool:
    """Return whether ``path`` is a folder that ``write_sharded`` wrote."""
    return (Path(path) / META).is_file()


def storage() -> Any:
    """Return torch's module of readers and writers for sharded safetensors."""
    try:
        return import_module("torch.distributed.checkpoint.hf_storage")
    except ImportError as error:
        raise ConfigError(
            f"ShardedStrategy.checkpoint: sharded needs torch 2.9 or later, this is "
            f"{torch.__version__}"
        ) from error


def write_sharded(checkpoint: Mapping[str, Any], folder: Path) -> None:
    """Write a checkpoint whose tensors are sharded over the ranks; each rank writes its part.

    All ranks call it. The folder is complete when this returns; write it under a temporary
    name.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_saver import save

    sharded: dict[str, Any] = {}
    rest = _split(checkpoint, (), sharded)
    writer = storage().HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(sharded, storage_writer=writer)
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values() if isinstance(cause, OSError)]
        raise causes[0] if causes else error from error
    pattern = f"shard-{rank() + 1:05d}-*"
    digests = on_all_ranks(lambda: {path.name: _digest(path) for path in folder.glob(pattern)})
    parts = {name: digest for files in digests for name, digest in sorted(files.items())}

    def write_rest() -> None:
        if rank() == 0:
            with new_file(folder / META) as temporary:
                save_plain({**rest, _PARTS: parts}, temporary)

    on_all_ranks(write_rest)


def read_sharded(
    folder: Path | str,
    like: Callable[[Place], Tensor | None] = lambda _: None,
    wanted: Callable[[Place], bool] = lambda _: True,
) -> dict[str, Any]:
    """Read a sharded checkpoint, as the same run would have written it to one file."""
    from torch.distributed.checkpoint.state_dict_loader import load

    folder = Path(folder)
    checkpoint: dict[str, Any] = read_file(folder / META)
    if problem := _missing(folder, checkpoint.pop(_PARTS, None)):
        raise CheckpointError(f"{folder}: {problem}")
    reader = storage().HuggingFaceStorageReader(str(folder))
    targets: dict[str, Tensor] = {}
    for key, stored in reader.read_metadata().state_dict_metadata.items():
        place = tuple(json.loads(key))
        if wanted(place):
            targets[key] = _empty(stored.size, stored.properties.dtype, like(place))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*assuming the intent is to load")
        load(targets, storage_reader=reader, no_dist=True)
    for key, tensor in targets.items():
        *path, name = json.loads(key)
        container = checkpoint
        for step in path:
            container = container[step]
        container[name] = tensor
    return checkpoint


def read_checkpoint(path: Path | str) -> Any:
    """Return the contents of a checkpoint, a file or a folder of parts."""
    return read_sharded(path) if is_sharded(path) else read_file(path)


def why_incomplete(folder: Path, share: int = 0, num_shares: int = 1) -> str:
    """Read a folder of parts and return what is wrong with it; empty if it is complete.

    Args:
        folder: The folder.
        share: Number of the share of the parts whose checksums are compared.
        num_shares: Number of shares; every rank reads one.
    """
    try:
        with zipfile.ZipFile(folder / META) as archive:
            if damaged_member := archive.testzip():
                return f"{META} is damaged at {damaged_member}"
        parts = read_file(folder / META).get(_PARTS)
    except FileNotFoundError:
        return f"incomplete, {META} missing"
    except (zipfile.BadZipFile, OSError, EOFError, CheckpointError) as error:
        return f"{META} is incomplete or damaged ({str(error).lower()})"
    if problem := _missing(folder, parts):
        return problem
    own = sorted(parts)[share::num_shares]
    damaged = [name for name in own if _digest(folder / name) != parts[name]]
    return f"damaged: {', '.join(damaged)}" if damaged else ""


def _split(value: Any, place: Place, sharded: dict[str, Any]) -> Any:
    """Copy nested containers without sharded tensors, which are added to ``sharded``."""
    from torch.distributed.tensor import DTensor

    if not isinstance(value, dict | list):
        return value
    kept: dict[Any, Any] = {}
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        inside = (*place, key)
        if isinstance(child, DTensor):
            sharded[json.dumps(inside)] = child.detach()
        else:
            kept[key] = _split(child, inside, sharded)
    return kept if isinstance(value, dict) else list(kept.values())


def _empty(size: torch.Size, dtype: torch.dtype, model: Tensor | None) -> Tensor:
    from torch.distributed.tensor import DTensor

    if isinstance(model, DTensor) and model.shape == size:
        return torch.empty_like(model, dtype=dtype)
    return torch.empty(size, dtype=dtype)


def _missing(folder: Path, parts: Any) -> str:
    """Name the parts that are missing or of another length; empty if there are none."""
    if not isinstance(parts, Mapping):
        return f"{META} does not list the parts"
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    wrong = [name for name, (size, _) in parts.items() if sizes.get(name) != size]
    return f"incomplete, {', '.join(wrong)} missing or incomplete" if wrong else ""


def _digest(path: Path) -> tuple[int, int]:
    """Return length and CRC-32 of a file."""
    length, checksum = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            length, checksum = length + len(chunk), zlib.crc32(chunk, checksum)
    return length, checksum
