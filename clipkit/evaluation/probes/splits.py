"""The splits that a probe is fitted, tuned and measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.data.modalities.field import ModalityField
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.leaks import groups_of, image_digests, refuse_overlap
from clipkit.evaluation.datasets.opening import open_dataset
from clipkit.evaluation.datasets.queries import IMAGES
from clipkit.evaluation.embedding import embed_pairs
from clipkit.evaluation.evaluators.class_match import ClassMatch
from clipkit.evaluation.evaluators.zero_shot import require_classes
from clipkit.evaluation.inference import EmbedOptions
from clipkit.models import DualEncoder


@dataclass(frozen=True, slots=True)
class EmbeddedSplit:
    """Embeddings of one split.

    Args:
        features: Unit-norm embeddings of the N images, float32; on the encoder's device if it has
            float64, in which probes are fitted, else on the CPU.
        labels: Class of each image, as a number of all splits' classes; ``IGNORE_LABEL`` if it has
            none.
        keys: Name of each image.
        groups: Group of each image (patient, product); images without groups that are the same
            file have the same one.
    """

    features: Float[Tensor, "N D"]
    labels: Int64[Tensor, " N"]
    keys: tuple[str, ...]
    groups: tuple[str, ...]

    def rows(self, rows: Int64[Tensor, " rows"]) -> EmbeddedSplit:
        """Return some of the rows."""
        numbers = rows.tolist()
        rows = rows.to(self.features.device)
        return EmbeddedSplit(
            self.features[rows],
            self.labels[rows],
            tuple(self.keys[n] for n in numbers),
            tuple(self.groups[n] for n in numbers),
        )

    def joined(self, other: EmbeddedSplit) -> EmbeddedSplit:
        """Return the rows of both splits."""
        return EmbeddedSplit(
            torch.cat([self.features, other.features]),
            torch.cat([self.labels, other.labels]),
            self.keys + other.keys,
            self.groups + other.groups,
        )


@final
class ProbeSplits:
    """Training, validation and test split of a data set, without leaks between them.

    The classes of the splits are matched by name, if they have names.

    Args:
        data: Folder or URL in CLIP_benchmark's layout, with a class in each sample, or a folder of
            one folder per split; see ``open_dataset``.
        split: Split to measure on.
        train_split: Split to fit on.
        validation_split: Split that options of a probe are selected on; None holds out a fifth of
            each class of the training split.
        label_field: Where the class of a sample is: a member ("cls") or a field of a JSON member
            ("json:category").
        group_field: Field that names the group of a sample, such as "json:patient_id": groups are
            held out completely, and must not occur in two splits. None if images are independent.
        allow_outside: Whether the images of a table or folder may be outside of its folder.
        allow_overlap: Whether the same image or group may be in two splits; otherwise it is an
            error that names the samples.
        modality: What the samples are: "image", "sound", or the field that reads another modality.

    Raises:
        DataError: If a split is missing.

    Examples:
        >>> splits = ProbeSplits("data", split="val", validation_split="val", allow_overlap=True)
        >>> len(splits.test)
        9
    """

    def __init__(
        self,
        data: str | Path,
        split: str = "test",
        train_split: str = "train",
        validation_split: str | None = None,
        label_field: str = "cls",
        group_field: str | None = None,
        allow_outside: bool = False,
        allow_overlap: bool = False,
        modality: str | ModalityField = IMAGES.name,
    ) -> None:
        def part(name: str) -> EvaluationDataset:
            return open_dataset(
                data, name, label_field=label_field, allow_outside=allow_outside, modality=modality
            )

        self.test, self.train = part(split), part(train_split)
        self.validation = part(validation_split) if validation_split else None
        self.group_field = group_field
        self.allow_overlap = allow_overlap
        self._names = {"train": train_split, "validation": validation_split or "", "test": split}
        self.class_names = _all_names([part for part, _ in self._parts()])

    def by_role(self) -> dict[str, EvaluationDataset]:
        """Return the splits "train" and "test", and "validation" if there is one."""
        roles = ["train", *(["validation"] if self.validation is not None else []), "test"]
        return dict(zip(roles, [data for data, _ in self._parts()], strict=True))

    def _parts(self) -> list[tuple[EvaluationDataset, str]]:
        parts = [(self.train, self._names["train"])]
        if self.validation is not None:
            parts.append((self.validation, self._names["validation"]))
        return [*parts, (self.test, self._names["test"])]

    def embed(
        self, encoder: DualEncoder, options: EmbedOptions, require_labels: bool = True
    ) -> dict[str, EmbeddedSplit]:
        """Embed the splits, and check that no image and no group is in two of them.

        Args:
            encoder: The model.
            options: Batch size, number of workers, limit, precision, progress bar.
            require_labels: Whether an image without a class is an error.

        Returns:
            The splits "train" and "test", and "validation" if there is one.

        Raises:
            DataError: If an image has no class, or is in two splits.
        """
        named = self._parts()
        parts = [self._embed(data, encoder, options, require_labels) for data, _ in named]
        digests = [image_digests(data, options) for data, _ in named]
        self._check(parts, digests)
        if self.group_field is None:
            parts = [replace(part, groups=own) for part, own in zip(parts, digests, strict=True)]
        return dict(zip(self.by_role(), parts, strict=True))

    def _check(self, parts: Sequence[EmbeddedSplit], digests: Sequence[Sequence[str]]) -> None:
        """Refuse images and groups that are in two splits."""
        by_kind = {self.test.modality.plural: digests}
        if self.group_field is not None:
            by_kind[f"groups of {self.group_field}"] = [part.groups for part in parts]
        names = [name for _, name in self._parts()]
        for what, values in by_kind.items():
            sides = zip(names, values, [part.keys for part in parts], strict=True)
            for first, second in combinations(sides, 2):
                refuse_overlap(self.test.name, what, first, second, self.allow_overlap)

    def _embed(
        self,
        data: EvaluationDataset,
        encoder: DualEncoder,
        options: EmbedOptions,
        require_labels: bool,
    ) -> EmbeddedSplit:
        pairs = embed_pairs(encoder, data, options, captions=False)
        if require_labels:
            num_classes = len(data.class_names) or int(pairs.labels.max()) + 1
            require_classes(pairs.labels, num_classes, pairs.keys, data)
        match = ClassMatch(data.class_names, self.class_names, data.name, "the other splits")
        device = encoder.log_logit_scale.device
        if device.type == "mps":  # it has no float64
            device = torch.device("cpu")
        field = self.group_field
        groups = pairs.keys if field is None else groups_of(data, field, pairs.keys)
        return EmbeddedSplit(
            pairs.images.to(device), match.labels(pairs.labels).to(device), pairs.keys, groups
        )


def _all_names(splits: Sequence[EvaluationDataset]) -> tuple[str, ...]:
    """Return the classes of all splits: those of the first, then those that only others have."""
    names: tuple[str, ...] = ()
    for split in splits:
        added = [name for name in split.class_names if name not in names] if names else []
        names = (*names, *added) if names else split.class_names
    return names
