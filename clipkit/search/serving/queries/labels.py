"""Compare images or sounds with class names: zero-shot classification of single samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, final

import numpy as np

from clipkit.collection import CollectionInfo
from clipkit.errors import DataError
from clipkit.evaluation.prompts.class_prompts import GENERIC_TEMPLATES, SOUND_TEMPLATES
from clipkit.evaluation.prompts.wnids import are_wnids, names_of_wnids
from clipkit.search.modalities import IMAGE
from clipkit.search.serving.failures import HttpError
from clipkit.search.serving.kept import LeastRecentlyUsed, SharedResults
from clipkit.search.serving.queries.embedder import Embedder, Vector
from clipkit.search.serving.schemas import MAX_LABELS, ScoredLabel
from clipkit.templates import fill_template

_CLASSES_PER_CALL: Final = 4
_KEPT_NAMES: Final = 4096


@final
class Labels:
    """Scores class names for an image or a sound: the classifier of Radford et al. 2021, 3.1.4.

    The embedding of a class is the normalised mean over its prompts, from general templates for
    images or for sounds. Embeddings of the data's classes are computed once for each modality, at
    the first request that needs them.

    Args:
        embedder: Embeds the prompts.
        info: Facts of the collection.
        scale_of: Inverse temperature of the model between a modality, by its name, and texts.
    """

    def __init__(
        self, embedder: Embedder, info: CollectionInfo, scale_of: Callable[[str], float]
    ) -> None:
        self._embedder = embedder
        self._scale_of = scale_of
        self.class_names = readable_names(info)
        self._of_data: SharedResults[str, list[Vector]] = SharedResults(1 + len(info.modalities))
        self._kept: LeastRecentlyUsed[tuple[str, str], Vector] = LeastRecentlyUsed(_KEPT_NAMES)

    async def scores(
        self, embedding: Vector, names: Sequence[str] | None, modality: str = IMAGE
    ) -> list[ScoredLabel]:
        """Return the most probable classes of an image or a sound, the most probable first.

        Args:
            embedding: Its unit-norm embedding.
            names: Names of the classes; None for those of the data.
            modality: "image", or the name of a further modality.

        Raises:
            HttpError: 422 if the data have no class names; 503 if too many requests wait.
        """
        if names is None and not self.class_names:
            raise HttpError(422, "labels: expected names, got null, but the data have none")
        if names is None:
            names = self.class_names
            vectors = await self._of_data.get(
                modality, lambda: self._vectors(self.class_names, modality)
            )
        else:
            names = list(dict.fromkeys(names))
            vectors = await self._vectors(names, modality)
        similarities = np.stack(vectors) @ embedding
        logits = self._scale_of(modality) * (similarities - similarities.max())
        scores = np.exp(logits) / np.exp(logits).sum()
        order = np.argsort(-scores, kind="stable")[:MAX_LABELS]
        return [
            ScoredLabel(
                name=names[place], score=float(scores[place]), similarity=float(similarities[place])
            )
            for place in order.tolist()
        ]

    async def _vectors(self, names: Sequence[str], modality: str) -> list[Vector]:
        kind = IMAGE if modality == IMAGE else "sound"
        templates = GENERIC_TEMPLATES if kind == IMAGE else SOUND_TEMPLATES
        found = {name: self._kept.get((kind, name)) for name in names}
        missing = [name for name, vector in found.items() if vector is None]
        # Few classes at a time, so that queries of other clients are embedded in between.
        for start in range(0, len(missing), _CLASSES_PER_CALL):
            part = missing[start : start + _CLASSES_PER_CALL]
            prompts = [fill_template(text, name) for name in part for text in templates]
            embedded = await self._embedder.prompts(prompts)
            of_class = embedded.reshape(len(part), len(templates), -1).mean(axis=1)
            for name, mean in zip(part, of_class, strict=True):
                vector: Vector = (mean / np.linalg.norm(mean)).astype(np.float32)
                found[name] = vector
                self._kept.put((kind, name), vector)
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
