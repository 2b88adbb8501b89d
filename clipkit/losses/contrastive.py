"""Contrastive losses over the pairs of all ranks."""

from __future__ import annotations

from abc import ABC
from dataclasses import replace
from typing import final, get_args

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from clipkit.errors import ConfigError, check_choice
from clipkit.losses.kernels.pairs import Pairs
from clipkit.losses.kernels.products import Precision
from clipkit.losses.kernels.text_exchange import TextExchange
from clipkit.losses.pair_terms import sigmoid_term, softmax_term
from clipkit.losses.sizes import known_sizes
from clipkit.losses.term import LossTerm, Term
from clipkit.types import Batch, Embeddings


class PairLoss(LossTerm, ABC):
    """A contrastive loss that is computed in tiles of the matrix of similarities.

    Args:
        tile_size: Rows and columns of similarities held at a time; null to choose them by device.
        precision: Precision of the operands of the matrix products; sums are in fp32. "auto" is
            TF32 on a GPU in a run of mixed precision or where torch allows TF32, else fp32.

    Raises:
        ConfigError: If ``tile_size`` is not positive or ``precision`` is unknown.
    """

    gathers_text = True

    def __init__(self, tile_size: int | None = None, precision: Precision = "auto") -> None:
        super().__init__()
        check_choice("precision", precision, get_args(Precision))
        self.tile_size, self.precision = checked_tile(tile_size), precision

    def check(self, embeddings: Embeddings) -> None:
        """Refuse a logit_bias, unless a subclass uses it."""
        refuse_bias(embeddings)


@final
class ContrastiveLoss(PairLoss):
    """Symmetric cross-entropy between each image and the texts of all ranks (CLIP).

    The value is that of ``losses.contrastive_loss``. ``batch.groups`` marks several
    texts as positives, ``batch.pair_mask`` excludes pairs, ``embeddings.negative_text`` and
    ``negative_image`` add negatives. The encoder must not have a logit_bias, which has no effect on
    a softmax.

    Args:
        tile_size: Rows and columns of similarities held at a time; null to choose them by device.
        precision: Precision of the operands of the matrix products; sums are in fp32. "auto" is
            TF32 on a GPU in a run of mixed precision or where torch allows TF32, else fp32.

    Examples:
        >>> same = torch.eye(4)
        >>> loss = ContrastiveLoss()
        >>> loss(Embeddings(same, same, torch.tensor(100.0))).item()
        0.0
    """

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the loss over the pairs of all ranks."""
        self.check(embeddings)
        pairs = select_pairs(embeddings, batch, self.exchange)
        return softmax_term(pairs, self.tile_size, self.precision)


@final
class LabelAwareContrastiveLoss(PairLoss):
    """As ``ContrastiveLoss``, with all pairs of one class as positives (UniCL).

    Yang et al. 2022, arXiv:2204.03610. A pair without a label matches itself only. Options are
    those of ``ContrastiveLoss``.
    """

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the loss over the pairs of all ranks."""
        self.check(embeddings)
        if batch is None:
            raise ConfigError("LabelAwareContrastiveLoss: expected a batch with labels, got None")
        pairs = select_pairs(embeddings, replace(batch, groups=batch.labels), self.exchange)
        return softmax_term(pairs, self.tile_size, self.precision)


@final
class SigmoidLoss(PairLoss):
    """Binary cross-entropy of each image with each text of all ranks (SigLIP).

    Zhai et al. 2023, arXiv:2303.15343. The value is that of ``losses.sigmoid_loss``. Groups, masks
    and negatives have the same effect as in ``ContrastiveLoss``. The encoder needs a logit_bias;
    the paper starts with a scale of 10 and a bias of -10. Options are those of ``ContrastiveLoss``.

    Examples:
        >>> same = torch.eye(2)
        >>> loss = SigmoidLoss()
        >>> loss(Embeddings(same, same, torch.tensor(20.0), torch.tensor(-10.0))).item() < 1e-3
        True
    """

    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder without a logit_bias."""
        if embeddings.logit_bias is None:
            raise ConfigError(
                "logit_bias: SigmoidLoss needs an encoder with a trainable logit_bias, got None; "
                "build the encoder with logit_scale 10 and logit_bias -10"
            )

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the loss over the pairs of all ranks."""
        self.check(embeddings)
        assert embeddings.logit_bias is not None
        pairs = select_pairs(embeddings, batch, self.exchange)
        return sigmoid_term(pairs, embeddings.logit_bias, self.tile_size, self.precision)


def select_pairs(
    embeddings: Embeddings, batch: Batch | None, exchange: TextExchange | None = None
) -> Pairs:
    """Select the pairs that the batch does not mask."""
    image, text = embeddings.image, embeddings.text
    if text is None:
        raise ConfigError(
            "embeddings: expected text embeddings, got none; the batch has no tokens, which only "
            "an objective of labels alone allows"
        )
    if image.shape != text.shape:
        raise ConfigError(
            f"embeddings: expected as many texts as images, of equal width, "
            f"got image {tuple(image.shape)} and text {tuple(text.shape)}"
        )
    groups = None if batch is None else batch.groups
    selected = None
    if batch is not None and batch.pair_mask is not None:
        selected = _selected(batch.pair_mask, batch.num_pairs)
        image, text = image[selected], text[selected]
        groups = None if groups is None else groups[selected]
    negatives = embeddings.negative_image, embeddings.negative_text
    num_negatives = 0 if negatives[1] is None else len(negatives[1])
    has_negatives = any(rows is not None for rows in negatives)
    sizes = (
        None
        if batch is None
        else known_sizes(batch, len(text), num_negatives if has_negatives else None)
    )
    # In one call: torch 2.9 cannot compile ``_replace`` of a tuple that is made here.
    return Pairs(
        image,
        text,
        embeddings.scale_of("image", "text"),
        groups,
        *negatives,
        rank_sizes=None if sizes is None else sizes.pairs,
        negative_sizes=None if sizes is None else sizes.negative_texts,
        selected=selected,
        exchange=exchange,
    )


def _selected(mask: Bool[Tensor, " B"], num_pairs: int | None) -> Int64[Tensor, " pairs"]:
    """Return the positions of the pairs; without waiting for a GPU if their number is known."""
    if num_pairs is None:
        return mask.nonzero()[:, 0]
    _assert_number(mask, num_pairs)
    return (~mask).to(torch.uint8).argsort(stable=True)[:num_pairs]


def _assert_number(mask: Bool[Tensor, " B"], num_pairs: int) -> None:
    """Refuse another number of pairs; on a GPU without waiting, by an assertion."""
    torch._assert_async(mask.sum() == num_pairs, "num_pairs: not the number of pairs of pair_mask")


def checked_tile(tile_size: int | None) -> int | None:
    """Return ``tile_size``, or raise an error that names it."""
    if tile_size is not None and tile_size < 1:
        raise ConfigError(f"tile_size: expected a positive number or null, got {tile_size}")
    return tile_size


def refuse_bias(embeddings: Embeddings) -> None:
    """Refuse a logit_bias: a softmax does not depend on it, so it would never be trained."""
    if embeddings.logit_bias is not None:
        raise ConfigError(
            "logit_bias: a softmax contrastive loss cannot use the encoder's logit_bias; "
            "build the encoder with logit_bias null, or use SigmoidLoss"
        )
