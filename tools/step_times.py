"""Where the time of a loader goes: exclusive time of the functions that make up each step."""

from __future__ import annotations

import importlib
import time
from collections import defaultdict
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

_PILLOW = [
    ("decode", "PIL.Image", "open"),
    ("decode", "PIL.ImageFile", "ImageFile.load"),
    ("decode", "PIL.Image", "Image.convert"),
    ("resize", "PIL.Image", "Image.crop"),
    ("resize", "PIL.Image", "Image.resize"),
]
FUNCTIONS = {
    "clipkit": [
        *_PILLOW,
        ("resize", "torch.nn.functional", "interpolate"),
        ("read", "clipkit.data.reader", "ShardReader.read"),
        ("decode", "simplejpeg", "decode_jpeg_header"),
        ("decode", "simplejpeg", "decode_jpeg"),
        ("tokenize", "clipkit.data.tokenizers", "OpenClipTokenizer.encode"),
        ("collate", "clipkit.data.samples", "collate"),
        ("to floats", "__main__", "normalized"),
    ],
    "open_clip": [
        *_PILLOW,
        ("read", "tarfile", "TarFile.next"),
        ("read", "tarfile", "ExFileObject.read"),
        ("tokenize", "open_clip.tokenizer", "SimpleTokenizer.__call__"),
        ("to floats", "torchvision.transforms.functional", "to_tensor"),
        ("to floats", "torchvision.transforms.functional", "normalize"),
        ("collate", "torch", "stack"),
    ],
}


class StepTimes:
    """Measures while its ``with`` block runs. A function inside another counts for itself alone.

    Args:
        loader: Whose functions.
    """

    def __init__(self, loader: str) -> None:
        self._functions = FUNCTIONS[loader]
        self._seconds: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []
        self._original: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Self:
        for step, module, path in self._functions:
            owner: Any = importlib.import_module(module)
            *classes, name = path.split(".")
            for part in classes:
                owner = getattr(owner, part)
            original = getattr(owner, name)
            self._original.append((owner, name, original))
            setattr(owner, name, self._timed(step, original))
        self._start = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        total = time.perf_counter() - self._start
        self._seconds["other"] = total - sum(self._seconds.values())
        for owner, name, original in reversed(self._original):
            setattr(owner, name, original)

    def seconds(self) -> dict[str, float]:
        """Seconds by step; "other" is what no listed function took."""
        order = ("read", "decode", "resize", "tokenize", "collate", "to floats", "other")
        return {step: self._seconds[step] for step in order}

    def _timed(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            self._inside.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                spent = time.perf_counter() - start
                self._seconds[step] += spent - self._inside.pop()
                if self._inside:
                    self._inside[-1] += spent

        return timed
