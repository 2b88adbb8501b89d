"""Parts of a query, and how their embeddings become one vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Float32

from clipkit.errors import ConfigError

MAX_PARTS: Final = 64
_LEAST_NORM: Final = 1e-3
_SHOWN_CHARACTERS: Final = 40
_KINDS: Final = ("text", "image", "row", "sound")


@final
@dataclass(frozen=True, slots=True)
class QueryPart:
    """A text, an image, a sound, or a row of the collection, with a weight.

    Exactly one of ``text``, ``image``, ``row`` and ``sound`` is given.

    Args:
        weight: Factor of its embedding; negative for what must not be shown.
        text: A text.
        image: Content of an image file.
        row: Number of a row, whose image is meant, or whose sound where sounds are searched for.
        sound: Content of a sound file.

    Raises:
        ConfigError: If not exactly one is given, or the weight is 0 or not finite.

    Examples:
        >>> QueryPart(text="a dog"), QueryPart(-0.5, text="snow")
        (QueryPart('a dog'), QueryPart(-0.5, 'snow'))
    """

    weight: float = 1.0
    text: str | None = None
    image: bytes | None = None
    row: int | None = None
    sound: bytes | None = None

    def __post_init__(self) -> None:
        given = [name for name in _KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(
                f"part of a query: expected one of text, image, row and sound, got "
                f"{' and '.join(given) or 'none'}"
            )
        if not math.isfinite(self.weight) or self.weight == 0:
            raise ConfigError(
                f"weight of {self.name}: expected a finite number other than 0, got {self.weight}"
            )

    @property
    def name(self) -> str:
        """Text that names the part in messages."""
        if self.text is not None:
            is_short = len(self.text) <= _SHOWN_CHARACTERS
            return repr(self.text if is_short else f"{self.text[:_SHOWN_CHARACTERS]}...")
        if self.row is not None:
            return f"row {self.row}"
        return "an image" if self.sound is None else "a sound"

    def __repr__(self) -> str:
        weight = "" if self.weight == 1 else f"{self.weight:g}, "
        return f"QueryPart({weight}{self.name})"


def combined(
    vectors: Float32[np.ndarray, "parts D"], weights: Sequence[float]
) -> Float32[np.ndarray, " D"]:
    """Return the weighted sum of unit-norm vectors, with unit norm.

    Args:
        vectors: Embedding of each part; each is divided by its norm first.
        weights: Weight of each part.

    Raises:
        ConfigError: If a vector is zero or not finite, or the sum is nearly zero.

    Examples:
        >>> combined(np.eye(2, dtype=np.float32), [3.0, -4.0])
        array([ 0.6, -0.8], dtype=float32)
    """
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    if not (np.isfinite(norms).all() and norms.min() > 0):
        bad = int(np.argmin(np.isfinite(norms) & (norms > 0)))
        raise ConfigError(
            f"part {bad + 1} of the query: expected an embedding with a direction, got norm "
            f"{norms[bad]}; check the model's weights"
        )
    scale = max(abs(weight) for weight in weights)
    factors = np.array(weights, dtype=np.float64) / scale / norms
    total = (factors[:, None] * wide).sum(axis=0)
    norm = float(np.linalg.norm(total))
    if norm < _LEAST_NORM:
        raise ConfigError(
            f"query: its {len(weights)} parts cancel each other (norm {norm:.1g} of 1), so that no "
            "direction is left; change a weight or leave a part out"
        )
    unit: Float32[np.ndarray, " D"] = (total / norm).astype(np.float32)
    return unit


def check_parts(parts: Sequence[QueryPart]) -> None:
    """Check the number of parts of a query.

    Raises:
        ConfigError: If there are none, or too many.
    """
    if not 1 <= len(parts) <= MAX_PARTS:
        raise ConfigError(f"query: expected 1 to {MAX_PARTS} parts, got {len(parts)}")
