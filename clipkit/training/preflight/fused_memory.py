"""Estimate the memory of what terms run of a joint encoder, before it runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clipkit.losses import LossTerm
from clipkit.models import JointEncoder, TowerEncoder
from clipkit.token_sequences import TokenSequence
from clipkit.training.preflight.memory import (
    bytes_kept_by,
    bytes_per_sample,
    with_copied_buffers,
)


def fused_activation_bytes(
    encoder: TowerEncoder, terms: Sequence[LossTerm], num_tokens: int, batch_size: int
) -> int:
    """Estimate the bytes that terms over a fusion keep for the backward pass.

    Of terms in micro-batches, one is in memory at a time. One rank may call this alone.

    Args:
        encoder: Encoder.
        terms: Terms with ``passes``.
        num_tokens: Tokens of a caption.
        batch_size: Samples of a rank.
    """
    if not isinstance(encoder, JointEncoder) or not terms:
        return 0
    text = max((term.passes.texts for term in terms), default=0)
    words = max((term.passes.words for term in terms), default=0)
    of_fusion = bytes_per_sample(lambda size: _of_fusion(encoder, size, num_tokens))
    of_text = bytes_per_sample(lambda size: _of_text(encoder, size, num_tokens)) if text else 0
    of_word = bytes_per_sample(lambda size: _of_words(encoder, size)) if words else 0
    complete, parts = 0, [0]
    for term in terms:
        passes, held = term.passes, min(term.micro_batch_size or batch_size, batch_size)
        per_sample = passes.fusions * of_fusion + passes.texts * of_text
        kept = round(held * (per_sample + passes.words * num_tokens * of_word))
        if held < batch_size:
            parts.append(kept)
        else:
            complete += kept
    return complete + max(parts)


def _of_fusion(encoder: JointEncoder, size: int, num_tokens: int) -> int:
    batch = encoder.example_batch(size, num_tokens)
    device = encoder.log_logit_scale.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        tokens = with_copied_buffers(encoder, lambda: encoder.embed(batch)).tokens
    assert tokens is not None, "a joint encoder returns them"
    given = {
        name: TokenSequence(one.values.detach().requires_grad_(), one.mask)
        for name, one in tokens.items()
    }
    inputs = [part for one in given.values() for part in (one.values, one.mask) if part is not None]
    return bytes_kept_by(lambda: encoder.match(encoder.fuse(given).pooled), encoder, inputs)


def _of_text(encoder: JointEncoder, size: int, num_tokens: int) -> int:
    batch = encoder.example_batch(size, num_tokens)
    tokens = batch.tokens
    assert tokens is not None, "num_tokens is given"
    return bytes_kept_by(
        lambda: with_copied_buffers(encoder, lambda: encoder.read_text_tokens(tokens).values),
        encoder,
        batch.tensors(),
    )


def _of_words(encoder: JointEncoder, size: int) -> int:
    states = torch.zeros(size, encoder.fusion.width, device=encoder.log_logit_scale.device)
    states.requires_grad_()
    return bytes_kept_by(
        lambda: encoder.predict_words(states).float().log_softmax(1), encoder, [states]
    )
