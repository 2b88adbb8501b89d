"""Convert errors of broken content to ``SampleError``."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from clipkit.data.audio.formats import SOUND_EXTENSIONS
from clipkit.data.images.formats import IMAGE_EXTENSIONS
from clipkit.errors import SampleError

IMAGES_AND_SOUNDS: Final = (*IMAGE_EXTENSIONS, *SOUND_EXTENSIONS)
"""Members that need not be read where only captions and classes are wanted."""

CONTENT_ERRORS: Final = (
    ValueError, KeyError, IndexError, SyntaxError, EOFError, struct.error, zlib.error,
    ArithmeticError, RecursionError,
)  # fmt: skip
"""Errors of decoders and users' transforms for broken content.

``MemoryError`` is absent, and an ``OSError`` with a number comes from the operating system: neither
is the fault of one sample.
"""


@contextmanager
def sample_errors(shard: str = "", key: str = "") -> Iterator[None]:
    """Turn errors over the content of a sample into a ``SampleError``."""
    try:
        yield
    except SampleError as error:
        if not key:
            raise
        raise SampleError(error.reason, shard=shard, key=key) from error
    except (*CONTENT_ERRORS, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = f"{type(error).__name__}: {error}"
        raise SampleError(reason, shard=shard, key=key) from error
