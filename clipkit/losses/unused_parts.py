"""What an encoder has computed and no term may use, which DDP expects a gradient for."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.types import Embeddings


def sum_of_outputs(embeddings: Embeddings) -> Float[Tensor, ""]:
    """Add what any part of an encoder of several modalities has computed."""
    outputs = [embeddings.image, embeddings.text, embeddings.logit_scale, embeddings.logit_bias]
    outputs += [modality.values for modality in (embeddings.modalities or {}).values()]
    outputs += [*(embeddings.pair_scales or {}).values(), *(embeddings.head_logits or {}).values()]
    zero = embeddings.logit_scale.new_zeros(())
    return sum(
        (
            output.sum(dtype=torch.promote_types(output.dtype, torch.float32))
            for output in outputs
            if output is not None
        ),
        zero,
    )
