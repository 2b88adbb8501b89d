"""Collect what a model retrieves from each modality to each other one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from clipkit.data.modalities.sounds import Sounds
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.modality_pairs import ModalityPair
from clipkit.evaluation.report.collect.scores import (
    best_hits,
    best_match,
    matches,
    rank_of_match,
)
from clipkit.evaluation.report.collect.sound_clips import SoundClips
from clipkit.evaluation.report.collect.thumbnails import Thumbnails
from clipkit.evaluation.report.content import InputHit, InputQuery, ModalityGallery, ShownInput


@dataclass(frozen=True, slots=True)
class Compared:
    """A retrieval between modalities, from which the page shows examples.

    Args:
        data: The samples.
        pairs: What was compared.
        sounds: Fields that read sounds, by the name of their modality.
        keys: Name of each sample.
        captions: First caption of each sample that has one.
    """

    data: EvaluationDataset
    pairs: Sequence[ModalityPair]
    sounds: Mapping[str, Sounds]
    keys: Sequence[str]
    captions: Mapping[int, str]


def compared_images(data: EvaluationDataset, pair: ModalityPair) -> Compared:
    """Return images and texts that were compared, with a text of each image.

    Args:
        data: The samples, all of which have both.
        pair: What was compared.
    """
    captions: dict[int, str] = {}
    for image, text in pair.candidates.pairs.tolist():
        captions.setdefault(image, pair.captions[int(pair.candidates.caption_rows[text])])
    return Compared(data, (pair,), {}, pair.candidates.image_keys, captions)


def modality_galleries(
    compared: Compared, num_queries: int = 8, thumbnail_pixels: int = 112, seed: int = 0
) -> list[ModalityGallery]:
    """Return queries of each ordered pair of modalities, selected at random.

    Args:
        compared: A retrieval between modalities.
        num_queries: Number of queries of each ordered pair.
        thumbnail_pixels: Longest side of an image in the page, in pixels.
        seed: Seed of the selection.
    """
    shown = ShownInputs(compared, thumbnail_pixels)
    galleries = []
    for pair in compared.pairs:
        for query, target in ((pair.first, pair.second), (pair.second, pair.first)):
            queries = _queries(pair, query == pair.first, shown, num_queries, seed)
            galleries.append(ModalityGallery(f"{query.capitalize()} to {target}", queries))
    return galleries


def _queries(
    pair: ModalityPair, is_first: bool, shown: ShownInputs, count: int, seed: int
) -> list[InputQuery]:
    candidates = pair.candidates
    rows = (candidates.images, candidates.texts)
    queries, targets = rows if is_first else rows[::-1]
    pairs = candidates.pairs.flip(1) if is_first else candidates.pairs
    names = (pair.first, pair.second) if is_first else (pair.second, pair.first)
    numbers = torch.unique(pairs[:, 1])
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))
    made = []
    for row in numbers[order[:count]].tolist():
        scores: Tensor = targets @ queries[row]
        is_match = matches(pairs, len(targets), torch.tensor([row]))[:, 0]
        hits = [
            InputHit(shown.input(pair, names[1], other), value, bool(is_match[other]))
            for other, value in best_hits(scores)
        ]
        answer = shown.input(pair, names[1], best_match(scores, is_match))
        rank = rank_of_match(scores, is_match)
        made.append(InputQuery(shown.input(pair, names[0], row), hits, answer, rank))
    return made


@final
class ShownInputs:
    """Inputs of samples as the page shows them.

    Args:
        compared: A retrieval between modalities.
        pixels: Longest side of an image in the page.
    """

    def __init__(self, compared: Compared, pixels: int) -> None:
        self._keys, captions = compared.keys, compared.captions
        self._images = Thumbnails(compared.data, captions, pixels)
        self._clips = {
            name: SoundClips(compared.data, field, captions)
            for name, field in compared.sounds.items()
        }

    def input(self, pair: ModalityPair, name: str, row: int) -> ShownInput:
        """Return the input of a modality at a row of its candidates."""
        if name == "text":
            return ShownInput(pair.captions[int(pair.candidates.caption_rows[row])])
        sample = int(pair.samples[row])
        if name == "image":
            image = self._images[sample]
            return ShownInput(image.caption, image=image)
        if name in self._clips:
            sound = self._clips[name][sample]
            return ShownInput(sound.caption, sound=sound)
        return ShownInput(self._keys[sample])
