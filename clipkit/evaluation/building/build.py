"""Build an evaluation set from pairs: read, group, split, mine negatives, write."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, Final

from clipkit.atomic_files import (
    FORMER_SUFFIX,
    TEMPORARY_SUFFIX,
    new_folder,
    restore,
)
from clipkit.distributed.world import current_world
from clipkit.errors import ConfigError
from clipkit.evaluation.building.builder import Builder
from clipkit.evaluation.building.card import FACTS_FILE, write_card
from clipkit.evaluation.building.opening import SourceOptions, open_pairs
from clipkit.evaluation.building.options import (
    DuplicateOptions,
    SampleFields,
    SplitOptions,
    WriteOptions,
)
from clipkit.evaluation.building.scan import OnProgress
from clipkit.evaluation.inference import EmbedOptions
from clipkit.models import DualEncoder

_LOG: Final = logging.getLogger(__name__)


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
    if (size := current_world().size) > 1:
        raise ConfigError(
            f"an evaluation set is built by one process, got {size} ranks; start the command "
            f"without a launcher, and use more threads instead (num_workers)"
        )
    folder = Path(out)
    check_target(folder, writing.overwrite)
    opened, name = open_pairs(source, reading)
    builder = Builder(opened, reading, fields, writing, on_progress or (lambda *_: None))
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
