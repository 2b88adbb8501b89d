"""A copy of a checkpoint's contents in host memory, while training changes the originals."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Parameter

from clipkit.models.files.pieces import Piece
from clipkit.models.files.sharded import ShardedContent


@final
class HostStage:
    """Host memory for the contents of one checkpoint, which the next one uses again.

    Memory for a GPU's tensors is pinned, and the copies run on a stream of their own: ``copy``
    returns before they are complete, the GPU's next kernels wait for them, and ``wait`` does.
    """

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []
        self._used = 0
        self._copies: dict[tuple[torch.device, int], Tensor] = {}
        self._sources: list[Tensor] = []
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def copy(self, content: Any) -> Any:
        """Return a copy of nested containers with tensors; tensors that share memory still do.

        Everything that is saved is copied, so that the file is the one that would have been
        written at this moment.
        """
        self._used = 0
        try:
            return self._copied(content)
        finally:
            del self._buffers[self._used :]
            self._copies.clear()
            self._sources.clear()
            for device, stream in self._streams.items():
                torch.cuda.current_stream(device).wait_stream(stream)

    def wait(self) -> None:
        """Wait until the copies from GPUs are complete; any thread may call it."""
        for stream in self._streams.values():
            stream.synchronize()

    @property
    def num_bytes(self) -> int:
        """Number of bytes of host memory."""
        return sum(buffer.numel() for buffer in self._buffers)

    def _copied(self, value: Any) -> Any:
        if isinstance(value, ShardedContent):
            pieces = {key: self._copied(piece) for key, piece in value.pieces.items()}
            return ShardedContent(pieces, self._copied(value.rest))
        if isinstance(value, Piece):
            return replace(value, values=self._tensor(value.values.contiguous()))
        if type(value) in (Tensor, Parameter):
            return self._tensor(value)
        if isinstance(value, Tensor):  # of a class that has no memory of its own
            return value.detach().cpu().clone()
        if isinstance(value, dict):
            # a shallow copy keeps the class, such as OrderedDict, and attributes of state_dicts
            copied = copy.copy(value)
            copied.update({key: self._copied(child) for key, child in value.items()})
            return copied
        if type(value) in (list, tuple):
            return type(value)(self._copied(child) for child in value)
        return copy.deepcopy(value)

    def _tensor(self, tensor: Tensor) -> Tensor:
        """Return a view of a copy of the tensor's memory, in the tensor's form."""
        storage = tensor.untyped_storage()
        place = tensor.device, storage.data_ptr()
        if place not in self._copies or not storage.nbytes():
            source = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            self._copies[place] = self._bytes(source)
            self._sources.append(source)  # another tensor must not get its place meanwhile
        memory = self._copies[place].untyped_storage()
        view = torch.empty(0, dtype=tensor.dtype)
        view.set_(memory, tensor.storage_offset(), tensor.shape, tensor.stride())
        return view.requires_grad_(tensor.requires_grad)

    def _bytes(self, source: Tensor) -> Tensor:
        buffer = self._buffer(source.numel(), pinned=source.is_cuda)
        if not source.is_cuda:
            return buffer.copy_(source)
        if source.device not in self._streams:
            self._streams[source.device] = torch.cuda.Stream(source.device)  # type: ignore[no-untyped-call]
        stream = self._streams[source.device]
        stream.wait_stream(torch.cuda.current_stream(source.device))
        with torch.cuda.stream(stream):
            buffer.copy_(source, non_blocking=True)
        return buffer

    def _buffer(self, size: int, pinned: bool) -> Tensor:
        """Return the next buffer, the previous checkpoint's if it has the size."""
        if self._used < len(self._buffers):
            buffer = self._buffers[self._used]
            if buffer.numel() == size and buffer.is_pinned() == pinned:
                self._used += 1
                return buffer
        buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        self._buffers[self._used : self._used + 1] = [buffer]
        self._used += 1
        return buffer
