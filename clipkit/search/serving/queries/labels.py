"""Compare images with class names: zero-shot classification of single images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import numpy as np

from clipkit.collection import CollectionInfo
from clipkit.errors import DataError
from clipkit.evaluation.prompts.class_prompts import GENERIC_TEMPLATES
from clipkit.evaluation.prompts.wnids import are_wnids, names_of_wnids
from clipkit.search.serving.failures import HttpError
from clipkit.search.serving.kept import LeastRecentlyUsed, SharedResults
from clipkit.search.serving.queries.embedder import Embedder, Vector
from clipkit.search.serving.schemas import MAX_LABELS, ScoredLabel
from clipkit.templates import fill_template

_CLASSES_PER_CALL: Final = 4
_KEPT_NAMES: Final = 4096
_DATA: Final = "classes of the data"


@final
class Labels:
    """Scores class names for an image: the classifier of Radford et al. 2021, section 3.1.4.

    The embedding of a class is the normalised mean over its prompts, from general templates.
    Embeddings of the data's classes are computed once, at the first request that needs them.

    Args:
        embedder: Embeds the prompts.
        info: Facts of the collection.
        logit_scale: Inverse temperature of the model.
    """

    def __init__(self, embedder: Embedder, info: CollectionInfo, logit_scale: float) -> None:
        self._embedder = embedder
        self._scale = logit_scale
        self.class_names = readable_names(info)
        self._of_data: SharedResults[str, list[Vector]] = SharedResults(1)
        self._kept: LeastRecentlyUsed[str, Vector] = LeastRecentlyUsed(_KEPT_NAMES)

    async def scores(self, image: Vector, names: Sequence[str] | None) -> list[ScoredLabel]:
        """Return the most probable classes of an image, the most probable first.

        Args:
            image: Its unit-norm embedding.
            names: Names of the classes; None for those of the data.

        Raises:
            HttpError: 422 if the data have no class names; 503 if too many requests wait.
        """
        if names is None and not self.class_names:
            raise HttpError(422, "labels: expected names, got null, but the data have none")
        if names is None:
            names = self.class_names
            vectors = await self._of_data.get(_DATA, lambda: self._vectors(self.class_names))
        else:
            names = list(dict.fromkeys(names))
            vectors = await self._vectors(names)
        similarities = np.stack(vectors) @ image
        logits = self._scale * (similarities - similarities.max())
        scores = np.exp(logits) / np.exp(logits).sum()
        order = np.argsort(-scores, kind="stable")[:MAX_LABELS]
        return [
            ScoredLabel(
                name=names[place], score=float(scores[place]), similarity=float(similarities[place])
            )
            for place in order.tolist()
        ]

    async def _vectors(self, names: Sequence[str]) -> list[Vector]:
        found = {name: self._kept.get(name) for name in names}
        missing = [name for name, vector in found.items() if vector is None]
        # Few classes at a time, so that queries of other clients are embedded in between.
        for start in range(0, len(missing), _CLASSES_PER_CALL):
            part = missing[start : start + _CLASSES_PER_CALL]
            prompts = [fill_template(text, name) for name in part for text in GENERIC_TEMPLATES]
            embedded = await self._embedder.prompts(prompts)
            of_class = embedded.reshape(len(part), len(GENERIC_TEMPLATES), -1).mean(axis=1)
            for name, mean in zip(part, of_class, strict=True):
                vector: Vector = (mean / np.linalg.norm(mean)).astype(np.float32)
                found[name] = vector
                self._kept.put(name, vector)
        vectors = [found[name] for name in names]
        return [vector for vector in vectors if vector is not None]


def readable_names(info: CollectionInfo) -> tuple[str, ...]:
    """Return the classes of the data that have a name, with ImageNet's names for WordNet ids."""
    names = tuple(name for name in info.class_names if name)
    if not are_wnids(names):
        return names
    try:
        return names_of_wnids(names, info.data)
    except DataError:  # ids of other classes than ImageNet's 1,000 have no known names
        return names
