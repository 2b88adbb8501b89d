"""Build an evaluation set from pairs: read, group, split, mine negatives, write."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from clipkit.atomic_files import (
    FORMER_SUFFIX,
    TEMPORARY_SUFFIX,
    new_folder,
    restore,
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
from clipkit.evaluation.building.card import FACTS_FILE, write_card
from clipkit.evaluation.building.embeddings import ItemSamples, duplicate_embeddings, embed_images
from clipkit.evaluation.building.facts import Description, SetFacts, collect_facts
from clipkit.evaluation.building.negatives import (
    CaptionPool,
    Negatives,
    negatives_by_model,
    negatives_by_words,
)
from clipkit.evaluation.building.opening import TEMPLATES_FILE, SourceOptions, open_pairs
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
from clipkit.evaluation.building.pair_search import NearPairs
from clipkit.evaluation.building.positives import Matches
from clipkit.evaluation.building.scan import OnProgress, ScannedPairs, captions_of, scan_pairs
from clipkit.evaluation.building.writing import write_positives, write_split, written_members
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.prompts.class_prompts import GENERIC_TEMPLATES
from clipkit.models import DualEncoder

_LOG: Final = logging.getLogger(__name__)
POSITIVES_FILE: Final = "extra_positives.json"
TYPE_FILE: Final = "dataset_type.txt"
TRAIN: Final = "train"
TEST: Final = "test"


@dataclass(frozen=True, slots=True)
class BuiltSet:
    """Result of ``build_evaluation_set``.

    Args:
        folder: Folder of the evaluation set.
        facts: Numbers of the data card, as in its ``statistics.json``.
    """

    folder: Path
    facts: Mapping[str, Any]


def build_evaluation_set(
    source: str | Path,
    out: str | Path,
    *,
    reading: SourceOptions = SourceOptions(),
    fields: SampleFields = SampleFields(),
    split: SplitOptions = SplitOptions(),
    duplicates: DuplicateOptions = DuplicateOptions(),
    writing: WriteOptions = WriteOptions(),
    encoder: DualEncoder | None = None,
    embed: EmbedOptions = EmbedOptions(),
    on_progress: OnProgress | None = None,
) -> BuiltSet:
    """Build an evaluation set in CLIP_benchmark's layout, with a data card.

    Near-duplicates of images and captions, and samples with equal values of ``split.groups``, are
    never in both splits. Without a model, the same source and options give the same bytes, on every
    machine and with any number of workers. The folder appears when it is complete.

    Args:
        source: Anything that evaluation data can be opened from: a table, a folder of images,
            shards, ``hf://datasets/OWNER/NAME``, or a URL.
        out: Folder of the evaluation set; it must not exist unless ``writing.overwrite``.
        reading: How the source is read.
        fields: Where captions, class, language and licence of a sample are.
        split: Sizes, strata and groups of the splits.
        duplicates: What counts as a duplicate.
        writing: How the set is written.
        encoder: Model whose embeddings find further near-duplicates and hard negatives; None to
            find negatives by common words.
        embed: How embeddings are computed.
        on_progress: Called with the stage, and the numbers of completed and of all steps, from any
            thread; None for no call.

    Returns:
        The folder, and the numbers of its data card.

    Raises:
        ConfigError: If the options contradict the data, or ``out`` exists.
        DataError: If there are no usable samples.
        FaultBudgetExceeded: If more samples are broken than allowed.

    Examples:
        >>> built = build_evaluation_set("data/train", "data/own", split=SplitOptions(test_size=4))
        >>> built.facts["splits"]["test"]["num_samples"], Retrieval("data/own").primary_metric
        (4, 'text_to_image/recall_at_1')
    """
    folder = Path(out)
    check_target(folder, writing.overwrite)
    opened, name = open_pairs(source, reading)
    builder = _Builder(opened, reading, fields, writing, on_progress or (lambda *_: None))
    builder.scan(split)
    images = None if encoder is None else builder.embed(encoder, embed, name)
    builder.group(split, duplicates, images)
    negatives = builder.negatives(encoder, images, embed)
    with new_folder(folder) as temporary:
        positives = builder.write(temporary, negatives)
        facts = builder.facts(name, split, duplicates, encoder is not None, negatives, positives)
        title = writing.name or folder.resolve().name
        write_card(temporary, facts, title, fields, builder.members)
    return BuiltSet(folder, facts.as_json())


def check_target(folder: Path, overwrite: bool) -> None:
    """Refuse to replace anything but an evaluation set, and look at what killed builds left.

    Raises:
        ConfigError: If the folder exists and is not to be replaced, or is no evaluation set.
    """
    for previous in folder.parent.glob(f".{escape(folder.name)}.????????{FORMER_SUFFIX}"):
        restore(previous)
    is_there = folder.is_symlink() or folder.exists()
    if is_there and not overwrite and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(
            f"{folder}: exists already; name another folder, or replace it: --overwrite, "
            f"WriteOptions(overwrite=True) in Python"
        )
    is_own = folder.is_dir() and ((folder / FACTS_FILE).is_file() or not any(folder.iterdir()))
    if is_there and (folder.is_symlink() or not is_own):
        raise ConfigError(
            f"{folder}: is no evaluation set, which would contain {FACTS_FILE}; it is not "
            f"replaced: name another folder"
        )
    for left in sorted(folder.parent.glob(f".{escape(folder.name)}.????????{TEMPORARY_SUFFIX}")):
        _LOG.warning("%s: left by a build that was killed, or is being written; see its time", left)


@final
class _Builder:
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
