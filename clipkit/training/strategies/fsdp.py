"""A strategy for models that do not fit on one device with their optimizer."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, final

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from clipkit.atomic_files import put_in_place, temporary_path
from clipkit.data.storage.urls import is_local, local_path
from clipkit.distributed.agreement import on_all_ranks
from clipkit.errors import ConfigError
from clipkit.models.files.sharded import (
    Place,
    is_sharded,
    read_sharded,
    storage,
    write_sharded,
)
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
    """FSDP2: every rank holds a part of the weights, of their gradients and of the optimizer.

    Lightning's ``ModelParallelStrategy`` with one axis, that of the data, over all ranks; the plan
    is ``clipkit.training.strategies.sharding.shard_encoder``. Losses and gradients are those of one
    process. A run may continue under another strategy and on another number of ranks, from either
    kind of checkpoint. ``precision`` may be 32-true, bf16-mixed or bf16-true.

    Args:
        checkpoint: "full" writes the same file that one process or DDP writes, for which rank 0
            collects all weights; "sharded" a folder to which each rank writes what it holds, on a
            disk that all ranks share. Both are read without being told which one it is.

    Raises:
        ConfigError: If ``checkpoint`` is neither, or torch is too old for it.

    Examples:
        >>> trainer = Trainer(strategy=ShardedStrategy(), devices=8, precision="bf16-mixed")
    """

    def __init__(self, checkpoint: Literal["full", "sharded"] = "full") -> None:
        if checkpoint not in CHECKPOINTS:
            raise ConfigError(
                f"ShardedStrategy.checkpoint: expected one of {CHECKPOINTS}, got {checkpoint!r}"
            )
        if checkpoint == "sharded":
            storage()
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)
        self.checkpoint = checkpoint

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning hands over the optimizer's state, as it does elsewhere."""
        return True

    def setup_environment(self) -> None:
        """Start the process group; all ranks form one axis."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """As Lightning's; then keep alike what is not sharded."""
        super().setup(trainer)
        assert self.model is not None
        reduce_whole_parameters(self.model, self.device_mesh["data_parallel"])

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights as the checkpoint holds them; all ranks call it.

        Whole ones on rank 0 and nothing on others, or each rank's parts.
        """
        assert self.model is not None
        if self.checkpoint == "sharded":
            return dict(self.model.state_dict())
        state = {name: _as_file(value) for name, value in self.model.state_dict().items()}
        return state if self.is_global_zero else {}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Give each rank its part of whole weights."""
        assert self.model is not None
        own = self.model.state_dict()
        self.model.load_state_dict(shard_like(own, checkpoint["state_dict"]), strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state as the checkpoint holds it, like the weights; all ranks call it."""
        state = optimizer.state_dict()
        if self.checkpoint == "sharded":
            return state
        values = {
            number: {name: _as_file(value) for name, value in entry.items()}
            for number, entry in state["state"].items()
        }
        return {**state, "state": values} if self.is_global_zero else {}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give each rank its part of a whole state."""
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
            ConfigError: If it is a URL of a store, and parts would go there.
        """
        if self.checkpoint == "sharded" and not is_local(folder):
            raise ConfigError(
                f"SaveCheckpoint.folder: expected a folder on a disk that all ranks share, got "
                f"{folder}; stores are for ShardedStrategy.checkpoint: full"
            )

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint, all of it or nothing; to be called on all ranks.

        Args:
            checkpoint: What ``Trainer.save_checkpoint`` collected.
            filepath: The target, that of rank 0.
            storage_options: Not supported, as elsewhere.

        Raises:
            ConfigError: If parts shall go to a store, which cannot rename a folder.
            OSError: If a disk is full; the former checkpoint is still there then.
        """
        path = str(self.broadcast(str(filepath)))
        if self.checkpoint == "full":
            # what callbacks added, such as averages, may still be spread
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
        """Read a checkpoint; of one in parts each rank only what it will hold."""
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
    """A value as a checkpoint holds it: whole, on the CPU."""
    return full_tensor(value.detach()).cpu() if isinstance(value, Tensor) else value
