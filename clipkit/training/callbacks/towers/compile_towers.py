"""Compile towers so that captions of different lengths cause no recompilation."""

from __future__ import annotations

from typing import Any, Literal, final, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from clipkit.errors import ConfigError, check_at_least, check_choice
from clipkit.models import JointEncoder, TextTower, TokenTower, TowerEncoder
from clipkit.models.towers.blocks import tower_blocks
from clipkit.training.callbacks.towers.block_wrappers import compile_block, compile_tower
from clipkit.training.callbacks.towers.cuda_graphs import check_cuda_graphs
from clipkit.training.lightning_compat import (
    disable_ddp_graph_splits,
    encoder_of,
    records_cuda_graphs,
)

Unit = Literal["block", "tower"]


@final
class CompileTowers(Callback):
    """Runs ``torch.compile`` over both towers before a fit.

    Blocks of one shape share one compiled graph, so this takes a fraction of the time of a complete
    model. Captions are padded to a multiple of ``text_multiple`` tokens, so that there are few
    shapes; torch creates one graph for all lengths when a second length occurs. Weights keep their
    names. Together with ``ActivationCheckpointing``, in either order, the recomputation of a
    block is compiled. A block whose tokens a ``JointEncoder`` reads stays as it is.

    With ``unit="tower"`` each tower is one graph: patches, embeddings and projection are compiled,
    too, and fused with the blocks next to them. Compilation takes longer, by the number of blocks.
    Under DDP, gradients are exchanged after the backward pass of a tower instead of during it.
    ``mode="reduce-overhead"`` then records CUDA graphs, which need batches of one shape.

    Args:
        text_multiple: Captions have the length of the longest in the batch, rounded up to a
            multiple of this number of tokens; the context length for one length only.
        backend: Backend of ``torch.compile``; "inductor" needs a C++ compiler, or Triton.
        mode: Mode of ``torch.compile`` such as "max-autotune-no-cudagraphs"; None for its default.
        unit: What is compiled as one graph: "block" or "tower".

    Raises:
        ConfigError: If ``text_multiple`` is not positive, or ``unit`` or ``mode`` is unknown; when
            the fit starts, if the unit is a tower and weights are sharded or tokens are fused, or
            if a mode records CUDA graphs in a run that cannot use them.

    Examples:
        >>> trainer = Trainer(callbacks=[CompileTowers(text_multiple=16)])
    """

    def __init__(
        self,
        text_multiple: int = 16,
        backend: str = "inductor",
        mode: str | None = None,
        unit: Unit = "block",
    ) -> None:
        check_at_least("CompileTowers.text_multiple", text_multiple, 1)
        check_choice("CompileTowers.unit", unit, get_args(Unit))
        self.text_multiple = text_multiple
        self.backend = backend
        self.mode = mode
        self.unit = unit
        self._records = backend == "inductor" and records_cuda_graphs(mode)
        if self._records and unit != "tower":
            raise ConfigError(
                f"CompileTowers.unit: expected tower with mode {mode}, because it records CUDA "
                f"graphs, got {unit}"
            )
        self._done = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Mark the blocks or towers; torch compiles them when they first run."""
        if stage != "fit" or self._done:
            return
        self._done = True
        # Blocks are smaller than the buckets at which it would split graphs.
        disable_ddp_graph_splits()
        encoder = encoder_of(pl_module)
        read = _read_modules(encoder)
        if read and self.unit == "tower":
            raise ConfigError(
                "CompileTowers.unit: expected block with a JointEncoder, which reads tokens inside "
                "the towers, got tower"
            )
        for tower in encoder.towers.values():
            if self.unit == "tower":
                compile_tower(tower, self.backend, self.mode)
            else:
                for block in tower_blocks(tower):
                    if not read.isdisjoint(block.modules()):
                        continue  # a graph would not call what reads the tokens
                    compile_block(block, self.backend, self.mode)
        encoder.text_tower.register_forward_pre_hook(self._round_up)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be one graph."""
        if self.unit == "tower" and isinstance(trainer.strategy, ModelParallelStrategy):
            raise ConfigError(
                "CompileTowers.unit: expected block with ShardedStrategy, which gathers the "
                "weights of one block at a time, got tower"
            )
        if self._records:
            check_cuda_graphs(trainer, pl_module, self.text_multiple)

    def on_train_batch_start(self, *_: Any) -> None:
        """Allow the results of the previous replay to be overwritten."""
        if self._records:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def on_validation_batch_start(self, *_: Any) -> None:
        """Allow the results of the previous replay to be overwritten."""
        self.on_train_batch_start()

    def _round_up(self, tower: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        assert isinstance(tower, TextTower)
        return (round_up_length(args[0], self.text_multiple, tower.context_length, tower.pad_id),)


def _read_modules(encoder: TowerEncoder) -> set[nn.Module]:
    """Return the modules whose outputs a fusion reads."""
    if not isinstance(encoder, JointEncoder):
        return set()
    fused = [encoder.towers[name] for name in encoder.fused_names]
    return {tower.token_module() for tower in fused if isinstance(tower, TokenTower)}


def round_up_length(
    tokens: Int64[Tensor, "B S"], multiple: int, longest: int, pad_id: int
) -> Int64[Tensor, "B padded"]:
    """Pad captions to the next multiple of a length.

    Examples:
        >>> round_up_length(torch.ones(2, 9, dtype=torch.int64), 8, 77, 0).shape
        torch.Size([2, 16])
    """
    length = tokens.shape[1]
    wanted = max(length, min(longest, -(-length // multiple) * multiple))
    return F.pad(tokens, (0, wanted - length), value=pad_id)
