"""Compile towers so that captions of different lengths cause no recompilation."""

from __future__ import annotations

from typing import Any, final

import torch.nn.functional as F
from jaxtyping import Int64
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from clipkit.errors import check_at_least
from clipkit.models import TextTower
from clipkit.models.towers.blocks import tower_blocks
from clipkit.training.callbacks.towers.block_wrappers import compile_block
from clipkit.training.lightning_compat import disable_ddp_graph_splits, encoder_of


@final
class CompileTowers(Callback):
    """Runs ``torch.compile`` over every block of both towers before a fit.

    Blocks of one shape share one compiled graph, so this takes a fraction of the time of a complete
    model. Captions are padded to a multiple of ``text_multiple`` tokens, so that there are few
    shapes; torch creates one graph for all lengths when a second length occurs. Weights keep their
    names. Together with ``ActivationCheckpointing``, in either order, the recomputation of a
    block is compiled.

    Args:
        text_multiple: Captions have the length of the longest in the batch, rounded up to a
            multiple of this number of tokens.
        backend: Backend of ``torch.compile``; "inductor" needs a C++ compiler, or Triton.
        mode: Mode of ``torch.compile`` such as "max-autotune-no-cudagraphs"; None for its default.

    Raises:
        ConfigError: If ``text_multiple`` is not positive.

    Examples:
        >>> trainer = Trainer(callbacks=[CompileTowers(text_multiple=16)])
    """

    def __init__(
        self, text_multiple: int = 16, backend: str = "inductor", mode: str | None = None
    ) -> None:
        check_at_least("CompileTowers.text_multiple", text_multiple, 1)
        self.text_multiple = text_multiple
        self.backend = backend
        self.mode = mode
        self._done = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Mark the blocks; torch compiles them when they first run."""
        if stage != "fit" or self._done:
            return
        self._done = True
        # Blocks are smaller than the buckets at which it would split graphs.
        disable_ddp_graph_splits()
        encoder = encoder_of(pl_module)
        for tower in (encoder.image_tower, encoder.text_tower):
            for block in tower_blocks(tower):
                compile_block(block, self.backend, self.mode)
        encoder.text_tower.register_forward_pre_hook(self._round_up)

    def _round_up(self, tower: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        assert isinstance(tower, TextTower)
        return (round_up_length(args[0], self.text_multiple, tower.context_length, tower.pad_id),)


def round_up_length(
    tokens: Int64[Tensor, "B S"], multiple: int, longest: int, pad_id: int
) -> Int64[Tensor, "B T"]:
    """Pad captions to the next multiple of a length.

    Examples:
        >>> round_up_length(torch.ones(2, 9, dtype=torch.int64), 8, 77, 0).shape
        torch.Size([2, 16])
    """
    length = tokens.shape[1]
    wanted = max(length, min(longest, -(-length // multiple) * multiple))
    return F.pad(tokens, (0, wanted - length), value=pad_id)
