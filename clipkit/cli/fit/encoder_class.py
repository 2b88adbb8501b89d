"""The class of an encoder that a configuration describes by its parts alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from clipkit.yaml_files import read_yaml

_OPTION: Final = "--model.encoder"
_CLASS: Final = "class_path"
_DEFAULT: Final = "clipkit.models.DualEncoder"


def with_encoder_class(words: Sequence[str]) -> list[str]:
    """Name ``DualEncoder`` first if the first file or flag about the encoder names no class.

    The parser merges what follows into it; a class that is named later replaces it.

    Args:
        words: A subcommand and its options; files are YAML with options by name.

    Examples:
        >>> with_encoder_class(["fit", "--model.encoder.logit_scale=10"])
        ['fit', '--model.encoder=clipkit.models.DualEncoder', '--model.encoder.logit_scale=10']
        >>> with_encoder_class(["fit", "--model.encoder=clipkit.models.from_open_clip"])
        ['fit', '--model.encoder=clipkit.models.from_open_clip']
    """
    first = next(_given(words), None)
    if isinstance(first, Mapping) and _CLASS not in first:
        return [words[0], f"{_OPTION}={_DEFAULT}", *words[1:]]
    return list(words)


def _given(words: Sequence[str]) -> Iterator[Any]:
    """Yield what files and flags say about the encoder, in their order.

    A mapping has its options; anything else is the name of a class or of a file.
    """
    for word, following in pairwise([*words, ""]):
        name, is_inline, value = word.partition("=")
        value = value if is_inline else following
        if name in ("-c", "--config") and value:
            yield from _of_model(read_yaml(value).get("model"))
        elif name in (_OPTION, "--model"):
            yield {} if name == _OPTION and _has_no_class(value) else value
        elif name.startswith(f"{_OPTION}.") and name != f"{_OPTION}.help":
            yield {name.removeprefix(f"{_OPTION}."): value}


def _of_model(model: Any) -> Iterator[Any]:
    if isinstance(model, str):
        yield model
    elif isinstance(model, Mapping) and model.get("encoder") is not None:
        yield model["encoder"]


def _has_no_class(value: str) -> bool:
    """Return whether a flag's value is a mapping without a class."""
    return value.lstrip().startswith("{") and _CLASS not in value
