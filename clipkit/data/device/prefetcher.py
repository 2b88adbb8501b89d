"""Copy the next batch to the device during the step of the present one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, final, runtime_checkable

import torch

from clipkit.types import Batch

Arrival = Callable[[], Batch]
"""Lets the device's computation wait for a copy, and returns the copy; the host does not wait."""
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
    def begin(self, batch: Batch, finish: Finish) -> Arrival:
        """Queue the copy of a batch and what finishes it, and return at once.

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

    def begin(self, batch: Batch, finish: Finish) -> Arrival:
        """See `CopyStream`."""
        # Only a copy from page-locked memory runs next to kernels. torch's allocators keep that
        # memory until the copy is complete.
        pinned = batch.pin_memory()
        with torch.cuda.stream(self._stream):
            copied = finish(pinned.to(self._device, non_blocking=True))
            done = self._stream.record_event()

        def arrive() -> Batch:
            computation = torch.cuda.current_stream(self._device)
            computation.wait_event(done)
            for tensor in copied.tensors():
                # The memory belongs to the stream of the copies, which would use it again as soon
                # as Python forgets the batch, while kernels that read it are still queued.
                tensor.record_stream(computation)
            return copied

        return arrive


@final
class DevicePrefetcher:
    """Yields the batches of a loader on a device; the next one is copied during each step.

    Batches, their order and their cursors are those of the loader. It is asked for batch n + 1
    before batch n is yielded, so that the device holds one batch more; a batch that was copied and
    not trained on was never committed, and comes again after a resume. An error of the loader is
    raised in the place of the batch that it concerns. On devices without CUDA each batch is copied
    when it is asked for.

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
        batches = iter(self._loader)
        if self._stream is None:
            for batch in batches:
                yield self._finish(self._checked(batch).to(self._device))
            return
        arrival = self._begin_next(self._stream, batches)
        while arrival is not None:
            upcoming, error = None, None
            try:
                upcoming = self._begin_next(self._stream, batches)
            except Exception as raised:  # the present batch is still good
                error = raised
            yield arrival()
            if error is not None:
                raise error
            arrival = upcoming

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the loader, of which copied batches are no part; {} without one."""
        return self._loader.state_dict() if isinstance(self._loader, StatefulLoader) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of the loader."""
        if isinstance(self._loader, StatefulLoader):
            self._loader.load_state_dict(state)

    def _begin_next(self, stream: CopyStream, batches: Iterator[Batch]) -> Arrival | None:
        """Queue the copy of the next batch; None at the end."""
        batch = next(batches, None)
        return None if batch is None else stream.begin(self._checked(batch), self._finish)

    def _checked(self, batch: Batch) -> Batch:
        if self._check is not None:
            self._check(batch)
        return batch


def _as_it_is(batch: Batch) -> Batch:
    return batch
