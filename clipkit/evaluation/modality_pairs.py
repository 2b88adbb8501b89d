"""Which queries and candidates a retrieval has, for each two modalities of a data set."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from clipkit.errors import DataError
from clipkit.evaluation.correct_pairs import Candidates, RetrievalOptions, match_candidates
from clipkit.evaluation.embedding import EmbeddedPairs
from clipkit.evaluation.modality_embedding import EmbeddedModalities
from clipkit.evaluation.outcomes.outcomes import distinct_keys
from clipkit.evaluation.query_groups import QueryGroups
from clipkit.types import IGNORE_LABEL

_LOG = logging.getLogger(__name__)
_PAIR: Final = ("image", "text")
_MAX_PAIRS: Final = 2**26
"""Correct pairs of samples that share captions; their number grows with the square of a group."""


@dataclass(frozen=True, slots=True)
class ModalityPair:
    """Two modalities, in each of which candidates for the other are looked for.

    Args:
        first: Modality in place of the images of ``candidates``.
        second: Modality in place of the texts.
        candidates: What is compared; it is of the samples that have both.
        samples: Number of each of these samples.
        num_left_out: Samples of the data that lack one of the two.
        groups: Groups of the queries; None for none.
        captions: Captions of these samples, to which ``candidates.caption_rows`` refers.
    """

    first: str
    second: str
    candidates: Candidates
    samples: Int64[Tensor, " N"]
    num_left_out: int = 0
    groups: QueryGroups | None = None
    captions: tuple[str, ...] = ()

    @property
    def prefixes(self) -> tuple[str, str]:
        """Texts before the names of metrics, with the first and with the second as queries."""
        return f"{self.first}_to_{self.second}/", f"{self.second}_to_{self.first}/"


def image_text_pair(
    embedded: EmbeddedPairs,
    options: RetrievalOptions,
    is_complete: bool = True,
    groups: QueryGroups | None = None,
) -> ModalityPair:
    """Return images and texts of a data set in which every sample has both.

    Args:
        embedded: Embeddings of the data.
        options: Which candidates are correct.
        is_complete: Whether the data are not limited to some of their samples.
        groups: Groups of the queries; None for none.
    """
    of_captions = groups.captions if groups is not None and groups.images is None else None
    candidates = match_candidates(embedded, options, is_complete, of_captions)
    return ModalityPair(
        *_PAIR, candidates, torch.arange(len(embedded.keys)), 0, groups, embedded.captions
    )


def modality_pairs(
    embedded: EmbeddedModalities,
    options: RetrievalOptions,
    is_complete: bool = True,
    groups: QueryGroups | None = None,
) -> list[ModalityPair]:
    """Return each two modalities of a data set, over the samples that have both.

    A sample's own candidates are correct. With ``options.merge_captions``, equal captions are one
    text, and samples that share one are correct for one another in every pair. The file
    ``options.positives`` is about images and texts.

    Args:
        embedded: Embeddings of the data.
        options: Which candidates are correct.
        is_complete: Whether the data are not limited to some of their samples.
        groups: Groups of all samples and captions; None for none.

    Returns:
        The pairs, images with texts first; without those that no sample has.

    Raises:
        DataError: If no sample has two modalities, or too many share a caption.
    """
    names = sorted(embedded.rows, key=lambda name: (name == "text", name != "image"))
    both = sorted(combinations(names, 2), key=lambda pair: pair != _PAIR)
    found = []
    for first, second in both:
        has_both = embedded.present(first) & embedded.present(second)
        if not has_both.any():
            _LOG.warning("retrieval: no sample has %s and %s: leaving them out", first, second)
        elif second == "text":
            of_first = options if first == "image" else _without_file(options)
            found.append(_with_texts(embedded, first, has_both, of_first, is_complete, groups))
        else:
            found.append(_without_texts(embedded, (first, second), has_both, options, groups))
    if not found:
        raise DataError(
            f"retrieval: expected samples with two of {', '.join(names)}, got none among "
            f"{len(embedded.keys)}"
        )
    return found


def _without_file(options: RetrievalOptions) -> RetrievalOptions:
    return RetrievalOptions(None, options.merge_captions, options.group_field, options.widths)


def _with_texts(
    embedded: EmbeddedModalities,
    first: str,
    has_both: Bool[Tensor, " samples"],
    options: RetrievalOptions,
    is_complete: bool,
    groups: QueryGroups | None,
) -> ModalityPair:
    rows, texts = embedded.rows[first], embedded.rows["text"]
    samples, kept = has_both.nonzero()[:, 0], has_both[texts.samples]
    captions = kept.nonzero()[:, 0].tolist()
    numbers, keys = samples.tolist(), distinct_keys(embedded.keys)
    pairs = EmbeddedPairs(
        images=rows.values[has_both[rows.samples]],
        texts=texts.values[kept],
        text_to_image=(has_both.cumsum(0) - 1)[texts.samples[kept]],
        labels=torch.full((len(samples),), IGNORE_LABEL),
        keys=tuple(keys[number] for number in numbers),
        captions=tuple(embedded.captions[row] for row in captions),
    )
    num_left_out = len(embedded.keys) - len(samples)
    of_pair = groups and QueryGroups(
        groups.images and tuple(groups.images[number] for number in numbers),
        tuple(groups.captions[row] for row in captions),
    )
    pair = image_text_pair(pairs, options, is_complete and not num_left_out, of_pair)
    return replace(pair, first=first, samples=samples, num_left_out=num_left_out)


def _without_texts(
    embedded: EmbeddedModalities,
    names: tuple[str, str],
    has_both: Bool[Tensor, " samples"],
    options: RetrievalOptions,
    groups: QueryGroups | None,
) -> ModalityPair:
    samples = has_both.nonzero()[:, 0]
    first, second = (
        embedded.rows[name].values[has_both[embedded.rows[name].samples]] for name in names
    )
    own = torch.arange(len(samples))
    pairs = torch.stack([own, own], 1)
    if options.merge_captions:
        pairs = torch.cat([pairs, _sharing_captions(embedded, has_both)])
    all_keys = distinct_keys(embedded.keys)
    keys = tuple(all_keys[number] for number in samples.tolist())
    candidates = Candidates(first, second, pairs, keys, keys, keys, own)
    of_pair = None
    if groups is not None and groups.images is not None:
        of_samples = tuple(groups.images[number] for number in samples.tolist())
        of_pair = QueryGroups(of_samples, of_samples)
    return ModalityPair(*names, candidates, samples, len(has_both) - len(samples), of_pair)


def _sharing_captions(
    embedded: EmbeddedModalities, has_both: Bool[Tensor, " samples"]
) -> Int64[Tensor, "pairs 2"]:
    """Return all pairs of samples that have an equal caption, numbered among those kept."""
    by_caption: dict[str, list[int]] = {}
    number = (has_both.cumsum(0) - 1).tolist()
    owners = embedded.rows["text"].samples.tolist() if "text" in embedded.rows else []
    for owner, caption in zip(owners, embedded.captions, strict=True):
        if has_both[owner]:
            by_caption.setdefault(caption, []).append(number[owner])
    shared = [torch.tensor(members) for members in by_caption.values()]
    num_pairs = sum(len(members) ** 2 for members in shared)
    if num_pairs > _MAX_PAIRS:
        raise DataError(
            f"merge_captions: expected at most {_MAX_PAIRS:,} pairs of samples with equal "
            f"captions, got {num_pairs:,}; measure fewer samples (limit), or do not merge"
        )
    none = torch.empty(0, 2, dtype=torch.int64)
    return torch.cat([none, *(torch.cartesian_prod(m, m).reshape(-1, 2) for m in shared)])
