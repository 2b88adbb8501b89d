"""Which captions and images match, in addition to the pairs: near-duplicates of both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, final

import numpy as np
from jaxtyping import Bool, Int64

from clipkit.evaluation.building.duplicates.caption_duplicates import (
    CaptionWords,
    DuplicateCaptions,
)
from clipkit.evaluation.building.duplicates.pair_search import NearPairs
from clipkit.evaluation.outcomes.outcomes import distinct_keys

MOST_POSITIVES: Final = 100
"""Largest number of further images that are listed for a caption."""


@final
class Matches:
    """Matching captions and images of the test split.

    Captions with the same words in the same order have one *text*. The same words in another order
    ("a dog chases a cat", "a cat chases a dog") are another text that does not match.

    Args:
        is_test: Whether each sample belongs to the test split.
        words: All captions.
        captions: Near-duplicate captions.
        same_images: Number of the set of equal images of each sample.
        image_pairs: Pairs of sets of images that are alike.
        sample_pairs: Pairs of samples whose images are alike, by other measures.

    Attributes:
        captions: Numbers of the captions of the test split.
    """

    def __init__(
        self,
        is_test: Bool[np.ndarray, " N"],
        words: CaptionWords,
        captions: DuplicateCaptions,
        same_images: Int64[np.ndarray, " N"],
        image_pairs: NearPairs,
        sample_pairs: NearPairs,
    ) -> None:
        self._owners = words.owners
        owners = np.asarray(words.owners)
        self.captions: list[int] = np.nonzero(is_test[owners])[0].tolist()
        self._texts = np.unique(words.sequences(), return_inverse=True)[1]
        self._captions_of: dict[int, list[int]] = defaultdict(list)
        texts_of_set: dict[int, set[int]] = defaultdict(set)
        self._own: dict[int, list[int]] = {}
        for caption in self.captions:
            text = int(self._texts[caption])
            self._captions_of[text].append(caption)
            texts_of_set[int(captions.same[caption])].add(text)
            self._own.setdefault(self._owners[caption], []).append(caption)
        self._sets = captions.same
        self._near_texts = {
            number: {text for other in others if other != number for text in texts_of_set[other]}
            for number, others in _neighbours([captions.pairs], texts_of_set).items()
        }
        self._same_images = same_images
        self._images_of: dict[int, list[int]] = defaultdict(list)
        for sample in np.nonzero(is_test)[0].tolist():
            self._images_of[int(same_images[sample])].append(sample)
        self._near_images = _neighbours([image_pairs], self._images_of)
        self._near_samples = _neighbours(
            [sample_pairs], dict.fromkeys(np.nonzero(is_test)[0].tolist())
        )

    def text(self, caption: int) -> int:
        """Return the number of the text of a caption."""
        return int(self._texts[caption])

    def images(self, sample: int) -> set[int]:
        """Return the samples whose images are near-duplicates of a sample's, itself included."""
        own = int(self._same_images[sample])
        near = {other for each in self._near_images[own] for other in self._images_of[each]}
        return near | set(self._near_samples[sample])

    def texts(self, sample: int) -> set[int]:
        """Return the texts that describe the image of a sample."""
        own = [each for image in self.images(sample) for each in self._own.get(image, ())]
        return {text for caption in own for text in self._alike(caption)}

    def extra_positives(self, keys: Sequence[str]) -> tuple[dict[str, list[str]], int]:
        """List the further images of each caption by keys, as ECCV Caption does for COCO.

        Args:
            keys: Name of each sample.

        Returns:
            Keys of images by the key of the caption: that of its sample, with ``#2``, ``#3`` for
            the second and third caption of an image. And the number of captions that match more
            than ``MOST_POSITIVES`` further images, of which the first are listed.
        """
        names = distinct_keys([keys[self._owners[caption]] for caption in self.captions])
        listed: dict[str, list[str]] = {}
        num_cut = 0
        for name, caption in zip(names, self.captions, strict=True):
            own = self._owners[caption]
            matching = self.images(own)
            for text in sorted(self._alike(caption)):
                for other in self._captions_of[text]:
                    matching |= self.images(self._owners[other])
                    if len(matching) > MOST_POSITIVES + 1:
                        break
            further = sorted(matching - {own})
            num_cut += len(further) > MOST_POSITIVES
            if further:
                listed[name] = [keys[image] for image in further[:MOST_POSITIVES]]
        return listed, num_cut

    def _alike(self, caption: int) -> set[int]:
        return {self.text(caption)} | self._near_texts[int(self._sets[caption])]


def _neighbours(pairs: Iterable[NearPairs], wanted: Iterable[int]) -> dict[int, list[int]]:
    """Return the numbers that are alike to each wanted one, itself first."""
    near: dict[int, list[int]] = {each: [each] for each in wanted}
    for each in pairs:
        for a, b in zip(each.first.tolist(), each.second.tolist(), strict=True):
            if a in near and b in near:
                near[a].append(b)
                near[b].append(a)
    return {each: list(dict.fromkeys(others)) for each, others in near.items()}
