"""Token sequences of a data set for a joint encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from clipkit.data.modalities.field import ModalityField
from clipkit.data.text.tokenizer import Tokenizer
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.loading import decoded_chunks
from clipkit.evaluation.datasets.modality_loading import (
    ModalityItem,
    evaluation_fields,
    modality_batches,
)
from clipkit.evaluation.inference import EmbedOptions
from clipkit.models import JointEncoder
from clipkit.models.evaluating import evaluating
from clipkit.token_sequences import TokenSequence


def modality_tokens(
    joint: JointEncoder,
    name: str,
    data: EvaluationDataset,
    ids: Sequence[int],
    options: EmbedOptions,
    fields: Sequence[ModalityField] = (),
) -> TokenSequence:
    """Return the tokens of the images, or of another modality, of some samples, on the CPU.

    They take much more memory than embeddings: 50 tokens of 768 components are 150 KiB per image.

    Args:
        joint: The model.
        name: Name of the modality; for texts see ``text_tokens``.
        data: The samples.
        ids: Numbers of samples that have the modality; at least one.
        options: Batch size, number of workers, precision.
        fields: Fields that read further modalities; see ``evaluation_fields``.
    """
    device = joint.log_logit_scale.device
    with evaluating(joint, options.precision):
        if name == "image":
            chunks = decoded_chunks(joint, data, ids, options)
            return _stacked([_on_cpu(joint.read_image(*one.on(device)).tokens) for one in chunks])
        own = [field for field in evaluation_fields(joint, fields)[0] if field.name == name]
        return _stacked(
            [
                _on_cpu(joint.read_signal(name, _signals(items, name).to(device)).tokens)
                for items in modality_batches(joint, data, ids, own, options, images=False)
            ]
        )


def text_tokens(
    joint: JointEncoder, tokenizer: Tokenizer, texts: Sequence[str], options: EmbedOptions
) -> TokenSequence:
    """Return the tokens of texts, on the CPU.

    Args:
        joint: The model.
        tokenizer: Tokenizer of the text tower.
        texts: Texts.
        options: Batch size and precision.
    """
    device, size = joint.log_logit_scale.device, options.batch_size
    with evaluating(joint, options.precision):
        parts = [
            _on_cpu(joint.read_text(tokenizer(list(texts[start : start + size])).to(device)).tokens)
            for start in range(0, len(texts), size)
        ]
        return _stacked(parts)


def _signals(items: Sequence[ModalityItem], name: str) -> Tensor:
    return torch.stack([item.signals[name].values for item in items])


def _on_cpu(part: TokenSequence) -> TokenSequence:
    """Move the tokens of a batch away from the GPU, which cannot hold those of a data set."""
    return TokenSequence(part.values.cpu(), None if part.mask is None else part.mask.cpu())


def _stacked(parts: Sequence[TokenSequence]) -> TokenSequence:
    """Join sequences on the CPU, padded to the longest."""
    longest = max(part.values.shape[1] for part in parts)
    has_mask = any(part.mask is not None for part in parts)
    values = [_padded(part.values, longest) for part in parts]
    masks = [_padded(_mask(part), longest) for part in parts] if has_mask else None
    return TokenSequence(torch.cat(values), None if masks is None else torch.cat(masks))


def _padded(rows: Tensor, longest: int) -> Tensor:
    more = longest - rows.shape[1]
    return F.pad(rows, (0, 0, 0, more) if rows.ndim == 3 else (0, more))


def _mask(part: TokenSequence) -> Tensor:
    if part.mask is not None:
        return part.mask
    return torch.ones(part.values.shape[:2], dtype=torch.bool)
