"""Scores of the label head on the fusion, for the images and texts of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.data.text.tokenizer import Tokenizer
from clipkit.distributed.agreement import same_errors
from clipkit.errors import ConfigError, DataError
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.loading import Chunk, decoded_chunks, ids_of_rank
from clipkit.evaluation.embedding import tokenizer_of
from clipkit.evaluation.inference import EmbedOptions
from clipkit.models import JointEncoder
from clipkit.models.evaluating import evaluating


@dataclass(frozen=True, slots=True)
class FusedScores:
    """What a head scores for the samples of this rank.

    Args:
        logits: Logits of the classes, float32.
        labels: Class of each sample in the data; ``IGNORE_LABEL`` if it has none.
        keys: Name of each sample.
        files: Digest of the file of each image, equal for texts about the same image.
    """

    logits: Float[Tensor, "B C"]
    labels: Int64[Tensor, " B"]
    keys: list[str]
    files: list[str]


def checked_joint(encoder: Any, task: str) -> JointEncoder:
    """Return the encoder; refuse one that has no label head on a fusion of images and texts."""
    if not isinstance(encoder, JointEncoder) or {*encoder.fused_names} != {"image", "text"}:
        raise ConfigError(
            f"{task}: expected an encoder with a fusion of images and texts, got "
            f"{type(encoder).__name__}; train one with clipkit finetune --task"
        )
    if encoder.num_fused_classes == 0:
        raise ConfigError(
            f"{task}: expected an encoder with a label head on its fusion, got none; train one "
            f"with clipkit finetune --task"
        )
    return encoder


def fused_scores(
    joint: JointEncoder, data: EvaluationDataset, options: EmbedOptions, task: str
) -> FusedScores:
    """Score the samples of this rank, each an image with its first caption.

    Raises:
        DataError: If a sample has no caption.
    """
    device, tokenizer = joint.log_logit_scale.device, tokenizer_of(joint)
    logits = [torch.empty(0, joint.num_fused_classes, device=device)]
    labels, keys, files = list[int](), list[str](), list[str]()
    with same_errors(), evaluating(joint, options.precision):
        for chunk in decoded_chunks(joint, data, ids_of_rank(data, options), options, digests=True):
            tokens = _tokens(chunk, tokenizer, data.name, task).to(device)
            image = joint.read_image(*chunk.on(device)).tokens
            text = joint.read_text(tokens).tokens
            pooled = joint.fuse({"image": image, "text": text}).pooled
            logits.append(joint.classify_fused(pooled).float())
            labels += chunk.labels
            keys += chunk.keys
            files += chunk.files
    numbers = torch.tensor(labels, dtype=torch.int64, device=device)
    return FusedScores(torch.cat(logits), numbers, keys, files)


def _tokens(chunk: Chunk, tokenizer: Tokenizer, name: str, task: str) -> Int64[Tensor, "B S"]:
    pairs = zip(chunk.keys, chunk.captions, strict=True)
    if (empty := next((key for key, captions in pairs if not captions), None)) is not None:
        raise DataError(
            f"{name}: {empty}: {task} needs a text with each image (a question, a hypothesis, a "
            f"caption), got none"
        )
    return tokenizer([captions[0] for captions in chunk.captions])
