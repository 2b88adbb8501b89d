"""A table with one column per sample of the data set, of which each rank holds a part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from clipkit.distributed.collectives import exchange_device, rank, sum_over_ranks, world_size
from clipkit.errors import ConfigError

if TYPE_CHECKING:  # the imports take seconds
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

_PIECE: Final = 1 << 24
"""Columns of all ranks that are gathered at a time: 128 MiB of two rows."""


@final
class SampleTable:
    """Numbers in fp32 by sample; consecutive samples are on one rank, on the device of the ids.

    A rank of W holds ``ceil(num_samples / W)`` columns. Nothing is allocated before the first use,
    because the number of ranks is not known before. No method waits for a GPU, except for those
    that return a copy on the CPU.

    Args:
        num_rows: Numbers per sample.
        num_samples: Number of samples of the data set; ids are 0 to ``num_samples`` - 1.
        fill: Value of samples that were never written.

    Examples:
        >>> table = SampleTable(2, 5, fill=0.0)
        >>> table.write(torch.tensor([4, 1]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> table.read(torch.tensor([1, 0, 4]))
        tensor([[2., 0., 1.],
                [4., 0., 3.]])
    """

    def __init__(self, num_rows: int, num_samples: int, fill: float) -> None:
        self.num_rows, self.num_samples, self.fill = num_rows, num_samples, fill
        # one more column receives what other ranks own, so that no shape depends on values
        self._values: Tensor | None = None
        self._rank, self._world_size = 0, 1

    def read(self, ids: Int64[Tensor, " N"]) -> Float[Tensor, "rows N"]:
        """Return the columns of some samples; every rank calls this with the same ids."""
        values, columns = self._located(ids)
        own = torch.where(columns < values.shape[1] - 1, values[:, columns], 0.0)
        return sum_over_ranks(own)

    def write(self, ids: Int64[Tensor, " N"], values: Float[Tensor, "rows N"]) -> None:
        """Set the columns of some samples; those of a sample that appears twice must be equal."""
        table, columns = self._located(ids)
        table.index_copy_(1, columns, values)

    def restore(
        self, ids: Int64[Tensor, " N"], values: Float[Tensor, "rows N"], where: Bool[Tensor, ""]
    ) -> None:
        """Set the columns of some samples if a condition holds, as ``write``."""
        table, columns = self._located(ids)
        condition = where.to(table.device, non_blocking=True)
        table.index_copy_(1, columns, torch.where(condition, values, table[:, columns]))

    def part(self) -> Float[Tensor, "rows own"]:
        """Return the columns of this rank; a view of the table."""
        return self._allocated(None)[:, :-1]

    @property
    def layout(self) -> tuple[int, int]:
        """Rank and number of ranks to which ``part`` belongs."""
        self._allocated(None)
        return self._rank, self._world_size

    def complete(self) -> Float[Tensor, "rows num_samples"] | None:
        """Gather the columns of all ranks on rank 0, on the CPU; None on other ranks.

        All ranks call it. Only rank 0 needs memory for the complete table, in pieces.
        """
        part = self._placed(None)[:, :-1]
        if self._world_size == 1:
            return part.cpu().clone()
        per_rank, device = self._per_rank(self._world_size), exchange_device()
        everyone = torch.full((self.num_rows, self.num_samples), self.fill) if not rank() else None
        step = max(1, _PIECE // self._world_size)
        for start in range(0, per_rank, step):
            width = min(step, per_rank - start)
            piece = torch.full((self.num_rows, width), self.fill, device=device)
            columns = part[:, start : start + width]
            piece[:, : columns.shape[1]] = columns
            if everyone is None:
                dist.gather(piece, dst=0)
                continue
            pieces = [torch.empty_like(piece) for _ in range(self._world_size)]
            dist.gather(piece, pieces, dst=0)
            for owner, received in enumerate(pieces):
                own = everyone[:, self._slice_of(owner, self._world_size)]
                target = own[:, start : start + width]
                target.copy_(received[:, : target.shape[1]])
        return everyone

    def sharded(self, mesh: DeviceMesh) -> DTensor:
        """Return the complete table as a tensor whose columns are sharded over all ranks."""
        from torch.distributed.tensor import DTensor, Shard

        shape = torch.Size((self.num_rows, self.num_samples))
        part = self._placed(None)[:, :-1].contiguous()
        return DTensor.from_local(part, mesh, [Shard(1)], shape=shape, stride=(shape[1], 1))

    def load(self, complete: Float[Tensor, "rows num_samples"]) -> None:
        """Keep this rank's part of a complete table."""
        self._rank, self._world_size = rank(), world_size()
        self._values = self._padded(complete[:, self._slice_of(self._rank, self._world_size)])

    def load_part(self, part: Float[Tensor, "rows own"], layout: tuple[int, int]) -> None:
        """Continue with the part that this rank saved.

        Raises:
            ConfigError: If it is the part of another rank, or of another number of ranks.
        """
        if layout != (rank(), world_size()):
            raise ConfigError(
                f"sample memory: expected the state of all ranks or that of rank {rank()} of "
                f"{world_size()}, got that of rank {layout[0]} of {layout[1]} alone; save "
                f"clipkit.losses.complete_state_dict(loss), which every rank calls"
            )
        own = self._slice_of(*layout)
        if part.shape[1] != own.stop - own.start:
            raise ConfigError(
                f"num_samples: expected the saved state of {own.stop - own.start} of "
                f"{self.num_samples} samples, got that of {part.shape[1]}"
            )
        self._rank, self._world_size = layout
        self._values = self._padded(part)

    def _located(self, ids: Int64[Tensor, " N"]) -> tuple[Tensor, Int64[Tensor, " N"]]:
        """Return the table on the device of the ids, and their columns in it."""
        values = self._placed(ids.device)
        num_own = values.shape[1] - 1
        columns = ids - self._slice_of(self._rank, self._world_size).start
        is_own = (columns >= 0) & (columns < num_own)
        return values, torch.where(is_own, columns, num_own)

    def _allocated(self, device: torch.device | None) -> Tensor:
        """Return the columns of this rank and the additional one."""
        if self._values is None:
            self._rank, self._world_size = rank(), world_size()
            own = self._slice_of(self._rank, self._world_size)
            shape = self.num_rows, own.stop - own.start + 1
            self._values = torch.full(shape, self.fill, device=device)
        return self._values

    def _placed(self, device: torch.device | None) -> Tensor:
        """Return the columns for the ranks that are there now, on a device."""
        values = self._allocated(device)
        if (rank(), world_size()) != (self._rank, self._world_size):
            if self._world_size > 1:
                raise ConfigError(
                    f"sample memory: this is the part of rank {self._rank} of {self._world_size}, "
                    f"and there are {world_size()} ranks now; load a complete state"
                )
            self.load(values[:, :-1])
        assert self._values is not None
        if device is not None and self._values.device != device:
            self._values = self._values.to(device)
        return self._values

    def _padded(self, columns: Tensor) -> Tensor:
        return torch.cat([columns.float(), columns.new_full((self.num_rows, 1), self.fill)], 1)

    def _per_rank(self, num_ranks: int) -> int:
        return -(-self.num_samples // num_ranks)

    def _slice_of(self, owner: int, num_ranks: int) -> slice:
        """Return the samples of a rank, as ``torch.chunk`` and a sharded DTensor divide them."""
        per_rank = self._per_rank(num_ranks)
        start, stop = (min(k * per_rank, self.num_samples) for k in (owner, owner + 1))
        return slice(start, stop)


def last_of_equal(ids: Int64[Tensor, " N"]) -> Int64[Tensor, " N"]:
    """Return for each position the last one with the same id; without waiting for a GPU.

    Examples:
        >>> last_of_equal(torch.tensor([7, 5, 7]))
        tensor([2, 1, 2])
    """
    order = ids.sort(stable=True).indices
    ordered = ids[order]
    position = torch.arange(len(ids), device=ids.device)
    # the last position of each run of equal ids, carried backwards
    ends = torch.ones_like(ordered, dtype=torch.bool)
    ends[:-1] = ordered[1:] != ordered[:-1]
    last = torch.where(ends, position, len(ids)).flip(0).cummin(0).values.flip(0)
    return torch.empty_like(order).scatter_(0, order, order[last.clamp(max=len(ids) - 1)])
