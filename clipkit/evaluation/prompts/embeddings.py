"""One embedding per class: the mean over its prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from clipkit.data.text.tokenizer import Tokenizer
from clipkit.evaluation.embedding import encode_on_ranks
from clipkit.models import DualEncoder
from clipkit.templates import check_templates, fill_template


def class_embeddings(
    encoder: DualEncoder,
    class_names: Sequence[str],
    templates: Sequence[str],
    tokenizer: Tokenizer,
    batch_size: int = 64,
) -> Float[Tensor, "C D"]:
    """Return one unit-norm embedding per class: the normalised mean over its prompts.

    The classifier of Radford et al. 2021, section 3.1.4. With several ranks, every rank calls this
    function, and embeds a part of the prompts.

    Args:
        encoder: The model, in evaluation mode and without gradients.
        class_names: C names.
        templates: Sentences with ``{}`` for the class name.
        tokenizer: Tokenizer of the text tower.
        batch_size: Prompts per forward pass.

    Returns:
        float32 embeddings on the encoder's device.

    Raises:
        ConfigError: If a template has no place for the name.
    """
    templates = check_templates(templates, "templates")
    prompts = [[fill_template(template, name) for template in templates] for name in class_names]
    return prompt_embeddings(encoder, prompts, tokenizer, batch_size)


def prompt_embeddings(
    encoder: DualEncoder,
    prompts: Sequence[Sequence[str]],
    tokenizer: Tokenizer,
    batch_size: int = 64,
) -> Float[Tensor, "C D"]:
    """Return one unit-norm embedding per class: the normalised mean over its own prompts.

    With several ranks, every rank calls this function, and embeds a part of the prompts.

    Args:
        encoder: The model, in evaluation mode and without gradients.
        prompts: Prompts of each of the C classes, at least one per class; may be empty.
        tokenizer: Tokenizer of the text tower.
        batch_size: Prompts per forward pass.

    Returns:
        float32 embeddings on the encoder's device.
    """
    if not prompts:
        return torch.empty(0, encoder.embedding_dim, device=encoder.log_logit_scale.device)
    flat = [prompt for of_class in prompts for prompt in of_class]
    embedded = encode_on_ranks(encoder, tokenizer, flat, batch_size)
    parts = torch.split(embedded, [len(of_class) for of_class in prompts])
    return F.normalize(torch.stack([part.mean(0) for part in parts]), dim=-1)
