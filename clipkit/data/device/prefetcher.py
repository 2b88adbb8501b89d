"""Copy the next batch to the device while it computes the step of the present one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, final, runtime_checkable

import torch

from clipkit.types import Batch

Finish = Callable[[Batch], Batch]
"""Completes a batch on the device, such as a ``DeviceDecoder``."""


class SizedLoader(Protocol):
    """A loader of batches of known length: a ``PairSource`` or a ``DataLoader``."""

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches in host memory."""
        ...

    def __len__(self) -> int:
        """Return the number of batches of the next iteration."""
        ...


@runtime_checkable
class StatefulLoader(Protocol):
    """A loader that resumes where it was."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last batch that was trained on."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state."""
        ...


class CopyStream(ABC):
    """Copies batches to a device while it computes (abstract)."""

    @abstractmethod
    def copy(self, batch: Batch, finish: Finish) -> Batch:
        """Queue the copy of a batch and what finishes it, and return at once.

        The device's next computations wait for the copy; those that are queued already do not, nor
        does the host.

        Args:
            batch: Batch in host memory.
            finish: Called with the copy; its work is part of the copy.
        """


@final
class CudaCopyStream(CopyStream):
    """A CUDA stream for copies, next to the stream of the computation.

    Args:
        device: CUDA device of the copies.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy(self, batch: Batch, finish: Finish) -> Batch:
        """See `CopyStream`."""
        # Only a copy from page-locked memory runs next to kernels. torch's allocators keep that
        # memory until the copy is complete.
        pinned = batch.pin_memory()
        with torch.cuda.stream(self._stream):
            copied = finish(pinned.to(self._device, non_blocking=True))
            done = self._stream.record_event()
        computation = torch.cuda.current_stream(self._device)
        computation.wait_event(done)
        for tensor in copied.tensors():
            # The memory belongs to the stream of the copies, which would use it again as soon as
            # Python forgets the batch, while kernels that read it are still queued.
            tensor.record_stream(computation)
        return copied


@final
class DevicePrefetcher:
    """Yields the batches of a loader on a device; each is copied during the step before.

    Batches, their order, their cursors and errors are those of the loader. A step on a GPU returns
    when its kernels are queued: the loader is asked for the next batch then, and its copy runs next
    to them, so that the device holds one batch more. A batch is never held back until the loader
    has another one. After a step that waits for the GPU, as for a log, the GPU waits for the copy.
    On devices without CUDA nothing runs next to a step.

    Args:
        loader: Loader of batches in host memory; their memory is page-locked here if it is not.
        device: Device of the yielded batches.
        check: Called with each batch in host memory, before it is copied; None for no check.
        finish: Called with each batch on the device, in the stream of the copies, such as a
            ``DeviceDecoder``; None if nothing is left to do.
        stream: Stream of the copies; None for a CUDA stream on a CUDA device.

    Examples:
        >>> stream = PairStream(ShardIndex.from_urls("data/train"), tokenizer=OpenClipTokenizer(),
        ...                     batch_size=4, image_size=64)
        >>> for batch in DevicePrefetcher(stream, "cpu"):
        ...     # train on the batch here
        ...     stream.commit(batch)
        >>> stream.state_dict()["epoch"]
        1
    """

    def __init__(
        self,
        loader: SizedLoader,
        device: torch.device | str,
        check: Callable[[Batch], None] | None = None,
        finish: Finish | None = None,
        stream: CopyStream | None = None,
    ) -> None:
        self._loader = loader
        self._device = torch.device(device)
        self._check = check
        self._finish = finish or _as_it_is
        self._stream = stream

    def __len__(self) -> int:
        """Return the number of batches of the loader's next iteration."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the loader's batches on the device, from where the loader starts."""
        if self._stream is None and self._device.type == "cuda":
            self._stream = CudaCopyStream(self._device)
        for batch in self._loader:
            if self._check is not None:
                self._check(batch)
            if self._stream is None:
                yield self._finish(batch.to(self._device))
            else:
                yield self._stream.copy(batch, self._finish)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the loader, of which copied batches are no part; {} without one."""
        return self._loader.state_dict() if isinstance(self._loader, StatefulLoader) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of the loader."""
        if isinstance(self._loader, StatefulLoader):
            self._loader.load_state_dict(state)


def _as_it_is(batch: Batch) -> Batch:
    return batch
