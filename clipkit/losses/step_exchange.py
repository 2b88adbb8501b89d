"""What the ranks exchange in a step before the loss needs it."""

from __future__ import annotations

from dataclasses import replace
from typing import final

from jaxtyping import Float
from torch import Tensor

from clipkit.distributed.collectives import world_size
from clipkit.losses.combined import CombinedLoss
from clipkit.losses.kernels.attach import outside_compiled_graph
from clipkit.losses.kernels.text_exchange import TextExchange
from clipkit.losses.modality_pairs import ModalityPairLoss
from clipkit.losses.sizes import SizeExchange
from clipkit.types import Batch


@final
class StepExchange:
    """Exchanges of one step that run behind the towers: sizes, texts, gradients of the texts.

    Make one per batch, on every rank, before the towers run. In one process it does nothing.

    Args:
        loss: Objective of the step.
        batch: Batch of this rank, as the encoder gets it.

    Attributes:
        batch: The same batch.
        exchanges_text: Whether the texts can be exchanged before the loss: there are other ranks,
            a term gathers texts, and no mask selects some of them.

    Examples:
        >>> from clipkit.losses import ContrastiveLoss
        >>> loss = CombinedLoss(ContrastiveLoss())
        >>> step = StepExchange(loss, batch)
        >>> embeddings = encoder(step.batch, step.on_text)
        >>> terms = loss(embeddings, step.sized(batch), step.text)
    """

    def __init__(self, loss: CombinedLoss, batch: Batch) -> None:
        self.batch = batch
        self.exchanges_text = (
            world_size() > 1
            and loss.gathers_text
            and batch.tokens is not None
            and batch.pair_mask is None
        )
        self._text = TextExchange()
        self._sizes = SizeExchange(batch, _modality_pairs(loss))

    @property
    def text(self) -> TextExchange | None:
        """Exchange of the texts, for the loss; None if there is none."""
        return self._text if self.exchanges_text else None

    def wait_for_sizes(self) -> None:
        """Wait for the numbers of the other ranks, so that the time of the towers is their own."""
        self._sizes.wait()

    @outside_compiled_graph
    def on_text(self, text: Float[Tensor, "B D"]) -> None:
        """Begin to gather the texts of all ranks; an encoder calls it between its towers."""
        sizes = self._sizes.wait()
        if sizes is not None and self.exchanges_text:
            self._text.begin(text, sizes.pairs)

    def sized(self, batch: Batch) -> Batch:
        """Return a batch with the sizes of all ranks."""
        sizes, joint = self._sizes.wait(), self._sizes.wait_for_joint()
        return replace(batch, pair_sizes=sizes, joint_sizes=joint or None)


def _modality_pairs(loss: CombinedLoss) -> list[tuple[str, str]]:
    """Return each pair of modalities that a term compares, in one order on all ranks."""
    return sorted({m.names for m in loss.modules() if isinstance(m, ModalityPairLoss)})
