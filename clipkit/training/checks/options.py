"""Check before the first step what would fail later."""

from __future__ import annotations

import logging
from typing import Final

from torch import nn

from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import ConfigError
from clipkit.losses import CombinedLoss
from clipkit.models import TextTower, TowerEncoder
from clipkit.models.similarity_scale import SOFTMAX_LOGIT_SCALE
from clipkit.models.towers.freezing import is_locked

_LOG: Final = logging.getLogger(__name__)


def check_tokenizer(tokenizer: Tokenizer, tower: TextTower) -> None:
    """Check whether tokenizer and text tower fit together."""
    if tokenizer.vocab_size > tower.vocab_size:
        raise ConfigError(
            f"data.tokenizer: {tokenizer.name} has {tokenizer.vocab_size} tokens, the text tower "
            f"has {tower.vocab_size}; the tower's tokenizer is {tower.tokenizer_name}"
        )
    if tokenizer.context_length > tower.context_length:
        raise ConfigError(
            f"data.tokenizer: {tokenizer.name} returns up to {tokenizer.context_length} tokens, "
            f"the text tower reads {tower.context_length}; "
            f"set data.tokenizer.init_args.context_length to that"
        )
    if tokenizer.pad_id != tower.pad_id:
        raise ConfigError(
            f"data.tokenizer: {tokenizer.name} pads with id {tokenizer.pad_id}, the text tower "
            f"expects {tower.pad_id}; the tower's tokenizer is {tower.tokenizer_name}"
        )


def check_objective(encoder: TowerEncoder, loss: CombinedLoss) -> None:
    """Check whether the encoder has what the loss needs: a head, a bias, or no bias."""
    loss.check(encoder.example_embeddings())


def check_norms(encoder: TowerEncoder, num_ranks: int) -> None:
    """Refuse batch norms over all ranks in a tower that some of the ranks may not train on.

    A rank none of whose samples has a modality runs that tower in evaluation mode, in which a
    norm does not exchange its statistics: the other ranks would wait for it without end.
    """
    for name, tower in encoder.towers.items():
        if num_ranks == 1 or name in ("image", "text") or is_locked(tower):
            continue
        norms = [part for part in tower.modules() if isinstance(part, nn.SyncBatchNorm)]
        if any(not is_locked(norm) for norm in norms):
            raise ConfigError(
                f"trainer.sync_batchnorm: expected false for an encoder with batch norms in its "
                f"{name}_tower, as a rank may have no sample with that modality, got true; set it "
                f"to false, or lock the tower with LockTower"
            )


def warn_of_start(encoder: TowerEncoder) -> None:
    """Warn if the initial scale is for the softmax loss, but the bias for the sigmoid loss."""
    scale = float(encoder.logit_scale.detach())
    if encoder.logit_bias is not None and abs(scale - SOFTMAX_LOGIT_SCALE) < 0.01:
        _LOG.warning(
            "model.encoder: logit_scale starts at %.2f, meant for the softmax loss, with a "
            "logit_bias; the sigmoid loss was published with logit_scale 10 and logit_bias -10",
            scale,
        )


def check_clipping(max_norm: float | None) -> None:
    """Check that gradients can be clipped to a norm or value; 0 and None mean no clipping."""
    if max_norm is not None and not max_norm >= 0:
        raise ConfigError(
            f"trainer.gradient_clip_val: expected a positive number, or 0 or null for no clipping, "
            f"got {max_norm}"
        )


def check_accumulation(num_batches: int, has_stages: bool) -> None:
    """Refuse accumulated gradients with a batch size that changes, warn of them otherwise."""
    if num_batches > 1 and has_stages:
        raise ConfigError(
            f"data.order.batch_size_stages: is not possible with trainer.accumulate_grad_batches="
            f"{num_batches}; set model.micro_batch_size to what fits into memory instead"
        )
    if num_batches > 1:
        _LOG.warning(
            f"trainer.accumulate_grad_batches={num_batches}: each image is compared with the "
            f"captions of its batch only, and all batches have the same weight for any labels; for "
            f"the exact gradients of a batch {num_batches} times as large, multiply "
            f"data.batch_size by {num_batches} and set model.micro_batch_size to what fits"
        )
