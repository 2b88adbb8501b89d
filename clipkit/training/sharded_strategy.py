"""A strategy for models that do not fit on one device with their optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from clipkit.training.sharding import like, part, reduce_whole_parameters, whole


@final
class ShardedStrategy(ModelParallelStrategy):
    """FSDP2: every rank holds a part of the weights, of their gradients and of the optimizer.

    Lightning's ``ModelParallelStrategy`` with one axis, that of the data, over all ranks; the plan
    is ``clipkit.training.sharding.shard_encoder``. Losses and gradients are those of one process.
    A checkpoint is the same file that one process or DDP writes: a run may go on under any of
    them. ``precision`` may be 32-true, bf16-mixed or bf16-true.

    Example:
        >>> trainer = Trainer(strategy=ShardedStrategy(), devices=8, precision="bf16-mixed")
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

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
        """The whole weights on rank 0, nothing on others; all ranks call it."""
        assert self.model is not None
        state = {name: _as_file(value) for name, value in self.model.state_dict().items()}
        return state if self.is_global_zero else {}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Give each rank its part of whole weights."""
        assert self.model is not None
        own = self.model.state_dict()
        self.model.load_state_dict(like(own, checkpoint["state_dict"]), strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state on rank 0, nothing on others; all ranks call it."""
        state = optimizer.state_dict()
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
                number: {name: part(value, of_number[number]) for name, value in entry.items()}
                for number, entry in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": values})

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """Read a whole checkpoint, as any other strategy does."""
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)


def _as_file(value: Any) -> Any:
    """A value as a checkpoint holds it: whole, on the CPU."""
    return whole(value.detach()).cpu() if isinstance(value, Tensor) else value
