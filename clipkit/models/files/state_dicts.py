"""Files of weights: read safely, write atomically, and name what does not fit."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from clipkit.atomic_files import new_file
from clipkit.errors import CheckpointError, first_line

_SHOWN = 3
_OF_NUMPY: Final = (
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core")
      for name in ("scalar", "_reconstruct")),
)  # fmt: skip
"""What numbers and arrays of numpy consist of in a file; ``core`` before numpy 2."""
_ALLOWING: Final = threading.Lock()
"""Held while ``_LeftOut`` is allowed, which is a setting of the process."""


@final
class _LeftOut:
    """Stands for a number or an array of numpy in a file of weights, and ignores its content."""

    def __init__(self, *content: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_file(path: Path | str, *, mapped: bool = False) -> Any:
    """Return the contents of a ``.safetensors`` file or of a file that ``torch.save`` wrote.

    Only tensors and plain types are unpickled.

    Args:
        path: The file.
        mapped: Whether tensors stay in the file until they are used: the processes of a machine
            then share its pages. Such a file may be replaced, but not changed; on a network disk
            that does not keep replaced files (NFS), not by another machine either.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        mapped = mapped and zipfile.is_zipfile(path)  # files of torch 1.5 and earlier are not
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # unpicklers raise errors without a common base
        raise CheckpointError(
            f"{path}: expected a complete checkpoint of tensors and plain types: "
            f"{first_line(error)}"
        ) from error


def read_state_dict(path: Path | str) -> dict[str, Tensor]:
    """Return the tensors of a file by name, at its top level or under ``state_dict``.

    Numbers and arrays of numpy, such as the best metric of a training run, are left out: nothing
    of numpy is called for them.
    """
    with _ALLOWING, torch.serialization.safe_globals(_stand_ins()):
        content = read_file(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected weights by name, got {type(content).__name__}")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _stand_ins() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return what is made of the parts of numpy that the program itself does not allow."""
    allowed = {
        one[1] if isinstance(one, tuple) else f"{one.__module__}.{one.__qualname__}"
        for one in torch.serialization.get_safe_globals()
    }
    return [(_LeftOut, name) for name in _OF_NUMPY if name not in allowed]


def save_plain(content: Any, path: Path) -> None:
    """Call ``torch.save``, and raise the error of the disk if that is the cause."""
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if not isinstance(cause := error.__context__, OSError):
                raise
            raise OSError(cause.errno, cause.strerror, str(path)) from error


def write_state_dict(path: Path | str, state: Mapping[str, Tensor]) -> None:
    """Write weights as ``.safetensors`` or, under any other suffix, with ``torch.save``.

    Tensors that share memory are written separately, as safetensors requires.
    """
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    with new_file(path) as temporary:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(tensors, temporary, metadata={"format": "pt"})
        else:
            save_plain(tensors, temporary)


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load weights into a module if all of them fit; otherwise change nothing."""
    problem = mismatch(module.state_dict(), state)
    if problem:
        raise CheckpointError(f"{where}: {problem}")
    module.load_state_dict(state)


def mismatch(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Return why weights do not fit a module; empty if they fit.

    Examples:
        >>> mismatch({"a": torch.zeros(2)}, {"b": torch.zeros(2)})
        'the weights belong to another architecture: 1 missing (a); 1 unexpected (b)'
    """
    missing = [key for key in expected if key not in given]
    extra = [key for key in given if key not in expected]
    shapes = [
        (key, tuple(value.shape), tuple(given[key].shape))
        for key, value in expected.items()
        if key in given and value.shape != given[key].shape
    ]
    return describe_mismatch(missing, extra, shapes)


def describe_mismatch(
    missing: Sequence[str],
    extra: Sequence[str],
    shapes: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]],
) -> str:
    """Return one line with the first parameters of each kind; empty if there are none."""
    kinds = (
        ("missing", list(missing)),
        ("unexpected", list(extra)),
        ("of another shape", [f"{k}: expected {want}, got {got}" for k, want, got in shapes]),
    )
    parts = [
        f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
        for kind, names in kinds
        if names
    ]
    return f"the weights belong to another architecture: {'; '.join(parts)}" if parts else ""
