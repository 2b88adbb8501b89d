"""A strategy for models that do not fit on one device with their optimizer."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, Literal, final

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer

from clipkit.errors import ConfigError, check_at_least, check_choice
from clipkit.models import TowerEncoder
from clipkit.models.files.sharded import Place, is_sharded, read_sharded
from clipkit.training.checkpoints.contents import module_key
from clipkit.training.checkpoints.io import AtomicCheckpointIO
from clipkit.training.strategies.first_rank import shard_from_first_rank
from clipkit.training.strategies.gathering import gather_to_first
from clipkit.training.strategies.ranks import check_resharding, replicated_mesh
from clipkit.training.strategies.sharding import (
    ShardingOptions,
    gathered_dtype,
    local_shard,
    reduce_whole_parameters,
    shard_like,
    whole_to_device,
)

CHECKPOINTS: Final = ("full", "sharded")


@final
class ShardedStrategy(ModelParallelStrategy):
    """FSDP2: every rank stores a part of the weights, gradients and optimizer state.

    Lightning's ``ModelParallelStrategy`` with one axis, that of the data, over all ranks; the plan
    is ``clipkit.training.strategies.sharding.shard_encoder``. Losses and gradients are those of one
    process. A run may continue under another strategy, with other options and on another number of
    ranks, from either kind of checkpoint. ``precision`` may be 32-true or bf16-mixed.

    Args:
        checkpoint: "full" to write the same file as one process or DDP, for which rank 0 gathers
            all weights; "sharded" for a folder to which each rank writes its part, on a disk that
            all ranks share or in a store. Both kinds are recognised when they are read.
        timeout: Time after which a collective that some ranks do not join ends the run, such as
            "0:10:00"; longer than a validation, a checkpoint and the download of a shard.
        shard_size: Number of ranks that hold the weights once together, such as the GPUs of a
            machine; other groups of that size are replicas, among which only gradients are
            exchanged (HSDP). It must divide the number of ranks. None to shard over all ranks.
        reshard_after_forward: Whether a block's gathered weights are freed between its forward and
            its backward pass, for which they are gathered again: less memory, more traffic. A
            number N keeps them sharded over N ranks in between; it must divide ``shard_size``.
        cpu_offload: Whether weights, gradients and optimizer state are stored in the memory of the
            CPU, where the optimizer runs; each block is copied to the GPU when it runs.

    Attributes:
        sharding_mesh: Ranks over which towers are sharded: all of them, or replicas times ranks
            of a replica. Set when the process group has started.

    Raises:
        ConfigError: If ``checkpoint`` is neither, ``timeout`` is not positive, or a number of ranks
            is below 2.

    Examples:
        >>> trainer = Trainer(strategy=ShardedStrategy(), devices=8, precision="bf16-mixed")
        >>> strategy = ShardedStrategy(shard_size=8)  # a replica per machine of 8 GPUs
    """

    def __init__(
        self,
        checkpoint: Literal["full", "sharded"] = "full",
        timeout: timedelta = timedelta(minutes=30),
        shard_size: int | None = None,
        reshard_after_forward: bool | int = True,
        cpu_offload: bool = False,
    ) -> None:
        check_choice("ShardedStrategy.checkpoint", checkpoint, CHECKPOINTS)
        if timeout <= timedelta(0):
            raise ConfigError(f"ShardedStrategy.timeout: expected a positive time, got {timeout}")
        check_at_least("ShardedStrategy.shard_size", shard_size, 2)
        if not isinstance(reshard_after_forward, bool):
            check_at_least("ShardedStrategy.reshard_after_forward", reshard_after_forward, 2)
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timeout)
        self.checkpoint = checkpoint
        self.shard_size = shard_size
        self.reshard_after_forward = reshard_after_forward
        self.cpu_offload = cpu_offload
        self.sharding_mesh: DeviceMesh | None = None

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether Lightning passes the optimizer's state, as with other strategies."""
        return True

    def setup_environment(self) -> None:
        """Start the process group; all ranks form one axis of data.

        Raises:
            ConfigError: If a number of ranks of the options does not divide theirs.
        """
        self._data_parallel_size = self.num_nodes * self.num_processes
        if self.cpu_offload and self.root_device.type == "cuda":
            self._process_group_backend = "cpu:gloo,cuda:nccl"  # norms of gradients on the CPU
        super().setup_environment()
        ranks = self.device_mesh["data_parallel"]
        self.sharding_mesh = replicated_mesh(ranks, self.shard_size)
        check_resharding(self.reshard_after_forward, self.sharding_mesh)

    def shard(self, encoder: TowerEncoder, precision: str) -> None:
        """Shard the towers of an encoder; all ranks call it before the optimizer is built.

        Args:
            encoder: Encoder with the same weights on every rank; or with weights on the first rank
                and built without them on others (``clipkit.models.structure_only``).
            precision: Precision of the trainer, as Lightning names it.

        Raises:
            ConfigError: If the first rank has no weights, or ranks have different structures.
        """
        assert self.sharding_mesh is not None, "setup_environment comes first"
        options = ShardingOptions(
            gathered_dtype(precision), self.reshard_after_forward, self.cpu_offload
        )
        shard_from_first_rank(encoder, self.sharding_mesh, options, self.root_device)

    def setup(self, trainer: Trainer) -> None:
        """Set up as Lightning does, then keep parameters equal that are not sharded."""
        super().setup(trainer)
        assert self.model is not None
        reduce_whole_parameters(self.model, self.device_mesh["data_parallel"])

    def model_to_device(self) -> None:
        """Move weights to the device, except for those that are stored on the CPU."""
        assert self.model is not None
        if self.cpu_offload:
            whole_to_device(self.model, self.root_device)
        else:
            super().model_to_device()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the weights for a checkpoint; all ranks call it.

        They are complete on rank 0 and empty on others, or each rank's parts.
        """
        assert self.model is not None
        if self.checkpoint == "sharded":
            return dict(self.model.state_dict())
        return gather_to_first(self.model.state_dict())

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
        values = {number: gather_to_first(entry) for number, entry in state["state"].items()}
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

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint atomically; all ranks call it.

        Args:
            checkpoint: Content that ``Trainer.save_checkpoint`` collected.
            filepath: Target path; that of rank 0 is used.
            storage_options: Not supported.

        Raises:
            OSError: If a disk is full; the previous checkpoint stays.
        """
        path = str(self.broadcast(str(filepath)))
        if self.checkpoint == "full":
            # additions of callbacks, such as averages, may be sharded
            whole_one = {**checkpoint, "state_dict": gather_to_first(checkpoint["state_dict"])}
            ParallelStrategy.save_checkpoint(self, whole_one, path, storage_options)
            return
        writer = self.checkpoint_io
        if not isinstance(writer, AtomicCheckpointIO):  # a plugin writes files only
            writer = AtomicCheckpointIO()
        writer.save_sharded(checkpoint, path, self.broadcast(secrets.token_hex(4)))

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
