"""The steps of a build: read, embed, group, mine negatives, write, describe."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from clipkit.atomic_files import (
    write_text,
)
from clipkit.class_names import parse_class_names
from clipkit.data.packing.items import Item
from clipkit.data.packing.sources import CLASS_NAMES_FILE, Source
from clipkit.errors import ConfigError, DataError
from clipkit.evaluation.building.analysis import (
    Duplicates,
    Split,
    find_duplicates,
    group_samples,
    names_of_classes,
    no_pairs,
    split_pairs,
    stratified_by,
)
from clipkit.evaluation.building.collecting import collect_facts
from clipkit.evaluation.building.duplicates.pair_search import NearPairs
from clipkit.evaluation.building.embeddings import ItemSamples, duplicate_embeddings, embed_images
from clipkit.evaluation.building.facts import Description, SetFacts
from clipkit.evaluation.building.negatives import (
    CaptionPool,
    Negatives,
    negatives_by_model,
    negatives_by_words,
)
from clipkit.evaluation.building.opening import TEMPLATES_FILE, SourceOptions
from clipkit.evaluation.building.options import (
    AUTO,
    CLASS,
    LANGUAGE,
    NONE,
    DuplicateOptions,
    SampleFields,
    SplitOptions,
    WriteOptions,
)
from clipkit.evaluation.building.positives import Matches
from clipkit.evaluation.building.scan import OnProgress, ScannedPairs, captions_of, scan_pairs
from clipkit.evaluation.building.writing import write_positives, write_split, written_members
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.prompts.class_prompts import GENERIC_TEMPLATES
from clipkit.models import DualEncoder

POSITIVES_FILE: Final = "extra_positives.json"
TYPE_FILE: Final = "dataset_type.txt"
TRAIN: Final = "train"
TEST: Final = "test"


@final
class Builder:
    """State of one build, in the order of its steps."""

    def __init__(
        self,
        source: Source,
        reading: SourceOptions,
        fields: SampleFields,
        writing: WriteOptions,
        on_progress: OnProgress,
    ) -> None:
        self._source = source
        self._reading = reading
        self._fields = fields
        self._writing = writing
        self._on_progress = on_progress
        self._class_names = parse_class_names(source.files.get(CLASS_NAMES_FILE, ""))
        self._pairs: ScannedPairs
        self._duplicates: Duplicates
        self._split: Split
        self._matches: Matches

    def scan(self, split: SplitOptions) -> None:
        """Read all samples."""
        named = (split.stratify,) if split.stratify not in (AUTO, CLASS, LANGUAGE, NONE) else ()
        further = (*split.groups, *named, self._fields.language, self._fields.license)
        self._pairs = scan_pairs(
            self._source.items,
            self._fields,
            [each for each in further if each],
            max_bad_samples=self._reading.max_bad_samples,
            num_workers=self._reading.num_workers,
            on_progress=self._on_progress,
        )
        if not len(self._pairs):
            raise DataError("the source has no usable samples")
        stratified_by(self._pairs, self._fields, split.stratify)  # before the embeddings
        for name, values in self._pairs.values.items():
            if not (values.array() >= 0).any():
                raise ConfigError(
                    f"{name}: no sample has this field; expected a member such as cls, or "
                    f"json:FIELD with a field of the JSON member"
                )

    def embed(self, encoder: DualEncoder, options: EmbedOptions, name: str) -> np.ndarray:
        """Embed all images."""
        items = [self._item(sample) for sample in range(len(self._pairs))]
        samples = ItemSamples(name, items, self._pairs.keys, self._fields)
        return embed_images(encoder, samples, options, self._on_progress)

    def group(
        self, split: SplitOptions, options: DuplicateOptions, images: np.ndarray | None
    ) -> None:
        """Find duplicates, and divide the groups that they form."""
        embeddings: NearPairs = no_pairs()
        if images is not None and options.embedding_similarity is not None:
            embeddings = duplicate_embeddings(
                images, options.embedding_similarity, self._on_progress
            )
        pairs = self._pairs
        self._on_progress("comparing", 0, None)
        found = self._duplicates = find_duplicates(pairs, options, embeddings, self._class_names)
        groups = group_samples(pairs, found, tuple(split.groups))
        self._split = split_pairs(pairs, groups, self._fields, split)
        if not self._split.is_test.any():
            raise DataError(
                f"no test samples: the {len(pairs)} samples form {len(np.unique(groups))} groups "
                f"of near-duplicates or of equal fields, too large for a test split; name fewer "
                f"groups, or compare with stricter limits (image_distance, caption_similarity, "
                f"embedding_similarity)"
            )
        self._matches = Matches(
            self._split.is_test,
            pairs.captions,
            found.captions,
            found.images.same,
            found.images.pairs,
            embeddings,
        )

    def negatives(
        self, encoder: DualEncoder | None, images: np.ndarray | None, options: EmbedOptions
    ) -> dict[int, Negatives]:
        """Find the hard negatives of the test samples."""
        most = self._writing.num_negatives
        if most == 0 or not self._matches.captions:
            return {}
        texts = self._test_captions()
        pool = CaptionPool(texts, self._pairs.captions, self._matches)
        advance = partial(self._advance, "mining negatives", len(pool.of_sample))
        if encoder is None or images is None:
            return negatives_by_words(pool, most, advance)
        return negatives_by_model(pool, encoder, images, most, options, advance)

    def write(self, folder: Path, negatives: Mapping[int, Negatives]) -> tuple[int, int]:
        """Write the splits and the files next to them, and return the numbers of positives."""
        fields = self._further_fields(negatives)

        def members_of(sample: int) -> tuple[str, Mapping[str, bytes]]:
            key = self._pairs.keys[sample]
            size = self._writing.image_size
            further = fields.get(sample, {})
            return key, written_members(key, self._item(sample), self._fields, size, further)

        for name, is_chosen in ((TRAIN, ~self._split.is_test), (TEST, self._split.is_test)):
            samples = np.nonzero(is_chosen)[0].tolist()
            if samples:
                write_split(
                    folder / name,
                    samples,
                    members_of,
                    samples_per_shard=self._writing.samples_per_shard,
                    num_workers=self._reading.num_workers,
                    on_sample=partial(self._advance, f"writing {name}", len(samples)),
                )
        for name, text in self._texts().items():
            write_text(folder / name, text)
        if self._type() != "retrieval":
            return 0, 0
        positives, num_cut = self._matches.extra_positives(self._pairs.keys)
        write_positives(folder / POSITIVES_FILE, positives)
        return len(positives), num_cut

    def facts(
        self,
        name: str,
        split: SplitOptions,
        options: DuplicateOptions,
        has_model: bool,
        negatives: Mapping[int, Negatives],
        positives: tuple[int, int],
    ) -> SetFacts:
        """Collect the numbers of the data card."""
        return collect_facts(
            self._pairs,
            self._duplicates,
            self._split,
            Description(
                source=name,
                type=self._type(),
                has_model=has_model,
                num_with_negatives=sum(bool(each.captions) for each in negatives.values()),
                num_with_positives=positives[0],
                num_with_cut_positives=positives[1],
            ),
            self._class_names,
            self._fields,
            (split, options, self._writing),
        )

    def members(self, sample: int) -> Mapping[str, bytes]:
        """Return the members of a sample."""
        return self._item(sample).members()

    def _advance(self, stage: str, total: int, done: int) -> None:
        self._on_progress(stage, done, total)

    def _item(self, sample: int) -> Item:
        return self._source.items[self._pairs.items[sample]]

    def _test_captions(self) -> dict[int, str]:
        """Read the captions of the test split again: only their words are kept in memory."""
        texts: dict[int, str] = {}
        captions = iter(self._matches.captions)
        for sample in np.nonzero(self._split.is_test)[0].tolist():
            for text in captions_of(self._item(sample).texts(), self._fields):
                texts[next(captions)] = text
        return texts

    def _further_fields(self, negatives: Mapping[int, Negatives]) -> dict[int, dict[str, Any]]:
        if not negatives:
            return {}
        texts, keys = self._test_captions(), self._pairs.keys
        return {
            sample: {
                "negative_captions": [texts[caption] for caption in each.captions],
                "negative_images": [keys[image] for image in each.images],
            }
            for sample, each in negatives.items()
        }

    def _type(self) -> str:
        """Return the type of the data: retrieval if captions say more than names of classes."""
        names = names_of_classes(self._pairs.captions, self._class_names)
        return "classification" if names.all() else "retrieval"

    def _texts(self) -> dict[str, str]:
        """Return the text files next to the splits."""
        files = {TYPE_FILE: f"{self._type()}\n", **self._source.files}
        if self._class_names and TEMPLATES_FILE not in files:
            files[TEMPLATES_FILE] = "".join(
                f"{each.replace('{}', '{c}')}\n" for each in GENERIC_TEMPLATES
            )
        return files
