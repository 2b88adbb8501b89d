"""Groups of the queries of a retrieval, such as languages or categories, from a field."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from clipkit.distributed.agreement import same_errors
from clipkit.errors import DataError
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.loading import ids_of_rank, texts_in_data_order
from clipkit.evaluation.embedding import EmbeddedPairs
from clipkit.evaluation.inference import EmbedOptions


@dataclass(frozen=True, slots=True)
class QueryGroups:
    """Groups of images and captions.

    Args:
        images: Group of each image; None if captions of an image are in different groups.
        captions: Group of each caption.
    """

    images: tuple[str, ...] | None
    captions: tuple[str, ...]


def read_query_groups(
    data: EvaluationDataset,
    embedded: EmbeddedPairs,
    field: str,
    options: EmbedOptions,
    device: torch.device,
) -> QueryGroups:
    """Read the groups of a data set's images and captions.

    The value of a sample is the group of the sample and of its captions; or a list with the group
    of each of its captions; or an object with the caption or captions of each group, such as
    ``{"en": "a dog", "de": ["ein Hund"]}``. Every rank calls this.

    Args:
        data: The data set.
        embedded: Its embeddings, for the captions.
        field: Field of a JSON member ("json:language"), or a text member.
        options: Limit of the number of samples.
        device: Device of the exchange between ranks.

    Raises:
        DataError: If a sample has no value, or a value that does not fit its captions.
    """
    with same_errors():
        of_rank = [json.dumps(data.content(number, field)) for number in ids_of_rank(data, options)]
    values = [json.loads(text) for text in texts_in_data_order(of_rank, device)]
    captions: list[list[str]] = [[] for _ in values]
    for owner, caption in zip(embedded.text_to_image.tolist(), embedded.captions, strict=True):
        captions[owner].append(caption)
    per_sample = []
    for value, texts, key in zip(values, captions, embedded.keys, strict=True):
        groups = _of_captions(value, texts)
        if groups is None:
            raise DataError(
                f"{data.name}: sample {key}: {field}: expected its group, a list of the groups of "
                f"its {len(texts)} captions, or an object with the captions of each group, "
                f"got {value!r:.60}"
            )
        per_sample.append(groups)
    is_of_samples = not any(isinstance(value, list | dict) for value in values)
    return QueryGroups(
        tuple(str(value).strip() for value in values) if is_of_samples else None,
        tuple(group for groups in per_sample for group in groups),
    )


def _of_captions(value: Any, captions: Sequence[str]) -> list[str] | None:
    """Return the group of each caption of a sample; None if the value does not fit."""
    if isinstance(value, Mapping):
        return _by_caption(value, captions)
    if isinstance(value, list):
        groups = [str(group).strip() for group in value if isinstance(group, str | int)]
        return groups if all(groups) and len(groups) == len(value) == len(captions) else None
    name = "" if value is None else str(value).strip()
    return [name] * len(captions) if name else None


def _by_caption(value: Mapping[str, Any], captions: Sequence[str]) -> list[str] | None:
    """Return the group of each caption from the captions of each group."""
    groups: dict[str, list[str]] = {}
    for name, texts in value.items():
        for text in [texts] if isinstance(texts, str) else texts if isinstance(texts, list) else []:
            groups.setdefault(str(text).strip(), []).append(name)
    found = []
    for caption in captions:
        names = groups.get(caption)
        if not names:
            return None
        found.append(names.pop(0) if len(names) > 1 else names[0])
    return found
