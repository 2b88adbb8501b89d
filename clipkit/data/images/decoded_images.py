"""Keep decoded images in memory, so that a small data set is decoded only once."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Hashable
from typing import Any, Final, final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from clipkit.errors import ConfigError

Pixels = UInt8[np.ndarray, "rows columns 3"]
_DIGEST_BYTES: Final = 16
_BYTES_PER_MIB: Final = 2**20


@final
class DecodedImages:
    """Keeps the pixels of decoded image files, up to a number of bytes.

    An entry belongs to the content of a file, so a changed file is decoded anew and results never
    depend on what is kept. Once the memory is full, further images are decoded each time. Nothing
    is evicted: an epoch reads every image once, so the oldest entry is the next to be asked for.

    Safe to use from several threads. A copy in another process starts empty.

    Args:
        max_mib: Largest memory of the kept pixels in one process, in MiB; 0 keeps nothing.

    Raises:
        ConfigError: If ``max_mib`` is negative.
    """

    def __init__(self, max_mib: int) -> None:
        if max_mib < 0:
            raise ConfigError(f"keep_decoded_mib: expected at least 0 MiB, got {max_mib}")
        self.max_mib = max_mib
        self._max_bytes = max_mib * _BYTES_PER_MIB
        self._pixels: dict[tuple[bytes, Hashable], Pixels] = {}
        self._num_bytes = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"max_mib": self.max_mib}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["max_mib"])

    @property
    def num_bytes(self) -> int:
        """Memory of the kept pixels, in bytes."""
        return self._num_bytes

    def find(self, data: bytes, variant: Hashable) -> Pixels | None:
        """Return the pixels of a file, not to be written to; None if they are not kept."""
        return self._pixels.get(_key(data, variant)) if self._pixels else None

    def keep(self, data: bytes, variant: Hashable, pixels: Pixels | Image.Image) -> None:
        """Keep a copy of the pixels of a file, if there is room."""
        if self.max_mib == 0:
            return
        copied: Pixels = np.array(pixels)
        key = _key(data, variant)
        with self._lock:
            if key not in self._pixels and self._num_bytes + copied.nbytes <= self._max_bytes:
                self._pixels[key] = copied
                self._num_bytes += copied.nbytes


def _key(data: bytes, variant: Hashable) -> tuple[bytes, Hashable]:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest(), variant
