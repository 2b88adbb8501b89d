"""Hard negatives of each test sample: the nearest captions and images that do not match it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float

from clipkit.evaluation.building.duplicates.caption_duplicates import CaptionWords
from clipkit.evaluation.building.embeddings import embed_captions, nearest
from clipkit.evaluation.building.positives import Matches
from clipkit.evaluation.building.word_negatives import WordNegatives
from clipkit.evaluation.inference import EmbedOptions
from clipkit.models import DualEncoder

_MOST_TRIED: Final = 200
"""Captions that are tried for a sample with fewer similar ones than are wanted."""


@dataclass(frozen=True, slots=True)
class Negatives:
    """Hard negatives of a sample, the hardest first.

    Args:
        captions: Numbers of captions that do not describe its image.
        images: Numbers of samples whose images its captions do not describe.
    """

    captions: tuple[int, ...]
    images: tuple[int, ...]


@final
class CaptionPool:
    """Captions of the test split, from which negatives are chosen.

    Args:
        texts: Captions by their numbers, in ascending order.
        words: All captions of the source.
        matches: Which captions and images match.
    """

    def __init__(self, texts: Mapping[int, str], words: CaptionWords, matches: Matches) -> None:
        self.texts = texts
        self.words = words
        self.matches = matches
        self.owners = words.owners
        self.of_sample: dict[int, list[int]] = {}
        for caption in texts:
            self.of_sample.setdefault(self.owners[caption], []).append(caption)
        self._numbers = list(texts)
        self._places = {caption: place for place, caption in enumerate(texts)}

    def is_negative(self, sample: int) -> Callable[[int], bool]:
        """Return a function of a caption: whether it does not describe the image of a sample."""
        matching = self.matches.texts(sample)
        return lambda caption: self.matches.text(caption) not in matching

    def distinct(self, captions: Iterable[int], most: int) -> tuple[int, ...]:
        """Return the first captions, each text once."""
        kept: dict[int, int] = {}
        for caption in captions:
            kept.setdefault(self.matches.text(caption), caption)
            if len(kept) == most:
                break
        return tuple(kept.values())

    def following(self, sample: int, is_negative: Callable[[int], bool]) -> Iterator[int]:
        """Yield captions that do not match a sample, beginning with those after its own."""
        start = self._places[self.of_sample[sample][-1]] + 1
        for place in range(start, start + min(_MOST_TRIED, len(self._numbers))):
            caption = self._numbers[place % len(self._numbers)]
            if is_negative(caption):
                yield caption


def negatives_by_words(
    pool: CaptionPool, most: int, on_sample: Callable[[int], None]
) -> dict[int, Negatives]:
    """Return captions that share rare words with a sample's captions, and their images."""
    search = WordNegatives(pool.words, list(pool.texts))
    result: dict[int, Negatives] = {}
    for number, (sample, own) in enumerate(pool.of_sample.items(), start=1):
        is_negative = pool.is_negative(sample)
        near = [pair for each in own for pair in search.nearest(each, is_negative, 4 * most)]
        best = [caption for _, caption in sorted(near, key=lambda pair: (-pair[0], pair[1]))]
        # Every sample has as many, so that a choice between them is equally hard to guess.
        best += pool.following(sample, is_negative)
        images = dict.fromkeys(pool.owners[caption] for caption in best)
        result[sample] = Negatives(pool.distinct(best, most), tuple(islice(images, most)))
        on_sample(number)
    return result


def negatives_by_model(
    pool: CaptionPool,
    encoder: DualEncoder,
    embeddings: Float[np.ndarray, "N D"],
    most: int,
    options: EmbedOptions,
    on_sample: Callable[[int], None],
) -> dict[int, Negatives]:
    """Return the captions nearest to an image, and the images nearest to its captions.

    Args:
        pool: Captions of the test split.
        encoder: The model.
        embeddings: Embedding of the image of each sample of the source.
        most: Number of negatives of each kind.
        options: How captions are embedded.
        on_sample: Called with the number of completed samples.
    """
    captions, samples = list(pool.texts), list(pool.of_sample)
    places = {caption: place for place, caption in enumerate(captions)}
    texts = embed_captions(encoder, list(pool.texts.values()), options)
    of_test = torch.from_numpy(np.array(embeddings[samples]))
    result: dict[int, Negatives] = {}
    for number, sample in enumerate(samples):
        is_negative, own = pool.is_negative(sample), pool.of_sample[sample]
        ranked = nearest(texts @ of_test[number], 4 * most)
        near = [captions[place] for place in ranked if is_negative(captions[place])]
        scores = (of_test @ texts[[places[caption] for caption in own]].T).amax(1)
        others = (samples[place] for place in nearest(scores, most))
        images = [other for other in others if all(map(is_negative, pool.of_sample[other]))]
        result[sample] = Negatives(pool.distinct(near, most), tuple(images[:most]))
        on_sample(number + 1)
    return result
