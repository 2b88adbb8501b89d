"""A strategy for models that do not fit on one device with their optimizer."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal, final

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from clipkit.atomic_files import put_in_place, temporary_path
from clipkit.data.storage.urls import is_local, local_path
from clipkit.distributed.agreement import on_all_ranks
from clipkit.errors import ConfigError, check_choice
from clipkit.models.files.sharded import Place, is_sharded, read_sharded, storage, write_sharded
from clipkit.training.checkpoints.contents import module_key
from clipkit.training.strategies.sharding import (
    full_tensor,
    local_shard,
    reduce_whole_parameters,
    shard_like,
)

CHECKPOINTS: Final = ("full", "sharded")


@final
class ShardedStrategy(ModelParallelStrategy):
    """FSDP2: every rank stores a part of the weights, gradients and optimizer state.

    Lightning's ``ModelParallelStrategy`` with one axis, that of the data, over all ranks; the plan
    is ``clipkit.training.strategies.sharding.shard_encoder``. Losses and gradients are those of one
    process. A run may continue under another strategy and on another number of ranks, from either
    kind of checkpoint. ``precision`` may be 32-true, bf16-mixed or bf16-true.

    Args:
        checkpoint: "full" to write the same file as one process or DDP, for which rank 0 gathers
            all weights; "sharded" for a folder to which each rank writes its part, on a disk that
            all ranks share. Both kinds are recognised when they are read.
        timeout: Time after which a collective that some ranks do not join ends the run, such as
            "0:10:00"; longer than a validation, a checkpoint and the download of a shard.

    Raises:
        ConfigError: If ``checkpoint`` is neither, torch is too old for it, or ``timeout`` is not
            positive.

    Examples:
        >>> trainer = Trainer(strategy=ShardedStrategy(), devices=8, precision="bf16-mixed")
    """

    def __init__(
        self,
        checkpoint: Literal["full", "sharded"] = "full",
        timeout: timedelta = timedelta(minutes=30),
    ) -> None:
        check_choice("ShardedStrategy.checkpoint", checkpoint, CHECKPOINTS)
        if timeout <= timedelta(0):
            raise ConfigError(f"ShardedStrategy.timeout: expected a positive time, got {timeout}")
        if checkpoint == "sharded":
            storage()
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timeout)
        self.checkpoint = checkpoint

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether Lightning passes the optimizer's state, as with other strategies."""
        return True

    def setup_environment(self) -> None:
        """Start the process group; all ranks form one axis."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Set up as Lightning does, then keep parameters equal that are not sharded."""
        super().setup(trainer)
        assert self.model is not None
        reduce_whole_parameters(self.model, self.device_mesh["data_parallel"])

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the weights for a checkpoint; all ranks call it.

        They are complete on rank 0 and empty on others, or each rank's parts.
        """
        assert self.model is not None
        if self.checkpoint == "sharded":
            return dict(self.model.state_dict())
        state = {name: _as_file(value) for name, value in self.model.state_dict().items()}
        return state if self.is_global_zero else {}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load each rank's part of complete weights."""
        assert self.model is not None
        own = self.model.state_dict()
        self.model.load_state_dict(shard_like(own, checkpoint["state_dict"]), strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimizer's state for a checkpoint; all ranks call it."""
        state = optimizer.state_dict()
        if self.checkpoint == "sharded":
            return state
        values = {
            number: {name: _as_file(value) for name, value in entry.items()}
            for number, entry in state["state"].items()
        }
        return {**state, "state": values} if self.is_global_zero else {}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load each rank's part of a complete state."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            numbers = [number for group in state["param_groups"] for number in group["params"]]
            of_number = dict(zip(numbers, parameters, strict=True))
            values = {
                number: {
                    name: local_shard(value, of_number[number]) for name, value in entry.items()
                }
                for number, entry in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": values})

    def check_folder(self, folder: str) -> None:
        """Refuse a folder where these checkpoints cannot be written.

        Raises:
            ConfigError: If it is a URL, and checkpoints are sharded.
        """
        if self.checkpoint == "sharded" and not is_local(folder):
            raise ConfigError(
                f"SaveCheckpoint.folder: expected a folder on a disk that all ranks share, got "
                f"{folder}; stores are for ShardedStrategy.checkpoint: full"
            )

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint atomically; all ranks call it.

        Args:
            checkpoint: Content that ``Trainer.save_checkpoint`` collected.
            filepath: Target path; that of rank 0 is used.
            storage_options: Not supported.

        Raises:
            ConfigError: If a sharded checkpoint has a URL, because a store cannot rename a folder.
            OSError: If a disk is full; the previous checkpoint stays.
        """
        path = str(self.broadcast(str(filepath)))
        if self.checkpoint == "full":
            # additions of callbacks, such as averages, may be sharded
            weights = {name: _as_file(value) for name, value in checkpoint["state_dict"].items()}
            whole_one = {**checkpoint, "state_dict": weights}
            ParallelStrategy.save_checkpoint(self, whole_one, path, storage_options)
            return
        self.check_folder(path)
        target = local_path(path)
        complete = Path(self.broadcast(str(temporary_path(target))))
        try:
            write_sharded(checkpoint, complete)
            on_all_ranks(lambda: put_in_place(complete, target) if self.is_global_zero else None)
        finally:
            if self.is_global_zero:
                shutil.rmtree(complete, ignore_errors=True)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """Read a checkpoint; of a sharded one, each rank reads only its part."""
        if not is_sharded(checkpoint_path):
            return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)
        assert self.model is not None
        weights = self.model.state_dict()
        optimizers = [
            [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for optimizer in self.optimizers
        ]

        def own(place: Place) -> Tensor | None:
            if place[0] == "state_dict":
                return weights.get(module_key(place[1]))
            _, number, _, parameter, _ = place
            parameters = optimizers[number] if number < len(optimizers) else []
            return parameters[parameter] if parameter < len(parameters) else None

        return read_sharded(
            checkpoint_path, own, wanted=lambda place: place[0] == "state_dict" or bool(optimizers)
        )


def _as_file(value: Any) -> Any:
    """Return a value for a checkpoint: complete, on the CPU."""
    return full_tensor(value.detach()).cpu() if isinstance(value, Tensor) else value
