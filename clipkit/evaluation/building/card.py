"""The data card: ``README.md`` with the metadata of the Hub, a page, images, and the numbers."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from huggingface_hub import DatasetCardData
from PIL import Image

from clipkit.atomic_files import write_bytes, write_json, write_text
from clipkit.data.images.formats import image_member
from clipkit.evaluation.building.facts import UNKNOWN, SetFacts
from clipkit.evaluation.building.limits import limits, measures
from clipkit.evaluation.building.options import SampleFields
from clipkit.evaluation.building.scan import captions_of
from clipkit.evaluation.report.collect.thumbnails import reduced, thumbnail
from clipkit.evaluation.report.content import Thumbnail
from clipkit.evaluation.report.rendering import render

Members = Callable[[int], Mapping[str, bytes]]
"""Returns the members of a sample of the source."""

CARD_FILE: Final = "README.md"
PAGE_FILE: Final = "data_card.html"
FACTS_FILE: Final = "statistics.json"
SHEET_FILE: Final = "samples.jpg"
_SHOWN: Final = 24
_MISSES: Final = 6
_SHEET_COLUMNS: Final = 8
_SHEET_PIXELS: Final = 96
_THUMBNAIL_PIXELS: Final = 160
_SIZES: Final = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"),
                 (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))  # fmt: skip
_TASKS: Final = {
    "retrieval": ["zero-shot-image-classification", "image-to-text", "text-to-image"],
    "classification": ["zero-shot-image-classification", "image-classification"],
}


@dataclass(frozen=True, slots=True)
class ShownSample:
    """A sample on the page."""

    image: Thumbnail
    key: str
    captions: Sequence[str]


def write_card(
    folder: Path, facts: SetFacts, title: str, fields: SampleFields, of: Members
) -> None:
    """Write the card of an evaluation set.

    Args:
        folder: Folder of the set.
        facts: Numbers of the set.
        title: Title of the card.
        fields: Where the captions of a sample are.
        of: Returns the members of a sample of the source.
    """
    write_json(folder / FACTS_FILE, facts.as_json())
    write_text(folder / CARD_FILE, card_text(facts, title))
    shown = facts.test_samples[:_SHOWN]
    write_bytes(folder / SHEET_FILE, contact_sheet([image_member(of(each)) for each in shown]))
    write_text(folder / PAGE_FILE, page_text(facts, title, fields, of))


def card_text(facts: SetFacts, title: str) -> str:
    """Return the card in Markdown."""
    described = facts.description
    parts = [
        f"---\n{card_header(facts, title)}\n---",
        f"# {title}",
        f"An evaluation set of images and captions, built by clipkit {facts.clipkit} from "
        f"`{described.source}`, in CLIP_benchmark's WebDataset layout.",
        f"![Test images]({SHEET_FILE})",
        "## Use\n\n```bash\nclipkit evaluate --model MODEL --data FOLDER\n"
        "clipkit fit --config CONFIG --data.train FOLDER/train\n```",
        f"## Contents\n\n{_table(list(_rows(facts)))}",
        f"## Splits\n\n{_bullets(measures(facts))}",
        f"## Known limits\n\n{_bullets(limits(facts))}",
    ]
    parts += [f"## {name}\n\n{_table(rows)}" for name, rows in _counts(facts).items()]
    return "\n\n".join(parts) + "\n"


def card_header(facts: SetFacts, title: str) -> str:
    """Return the metadata that the Hugging Face Hub reads, as YAML."""
    total = sum(split.num_samples for split in facts.splits.values())
    languages = _joined(facts, "languages")
    licenses = [name for name in _joined(facts, "licenses") if name != UNKNOWN]
    license_ = facts.write_options.license or (licenses[0] if len(licenses) == 1 else None)
    header = DatasetCardData(
        language=[name for name in languages if name != UNKNOWN] or None,
        license=license_ or ("other" if licenses else None),
        task_categories=_TASKS[facts.description.type],
        size_categories=[next((name for most, name in _SIZES if total < most), "n>10M")],
        pretty_name=title,
        tags=["clip", "clipkit", "webdataset"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": n, "path": f"{n}/*.tar"} for n in facts.splits],
            }
        ],
    )
    return str(header.to_yaml()).rstrip("\n")


def contact_sheet(images: Sequence[bytes]) -> bytes:
    """Return small copies of some images as one JPEG."""
    rows = -(-len(images) // _SHEET_COLUMNS)
    side = _SHEET_PIXELS
    sheet = Image.new("RGB", (side * min(len(images), _SHEET_COLUMNS), side * rows), "white")
    for number, data in enumerate(images):
        row, column = divmod(number, _SHEET_COLUMNS)
        small = reduced(data, side - 4)
        left = column * side + (side - small.width) // 2
        sheet.paste(small, (left, row * side + (side - small.height) // 2))
    out = io.BytesIO()
    sheet.save(out, "JPEG", quality=85)
    return out.getvalue()


def page_text(facts: SetFacts, title: str, fields: SampleFields, of: Members) -> str:
    """Return the page of the card."""

    def shown(sample: int, key: str) -> ShownSample:
        members = of(sample)
        image = Thumbnail(thumbnail(image_member(members), _THUMBNAIL_PIXELS), key)
        return ShownSample(image, key, captions_of(members, fields))

    tests = facts.test_samples[:_SHOWN]
    misses = facts.leakage.near_misses[:_MISSES]
    context = {
        "title": title,
        "facts": facts,
        "rows": list(_rows(facts)),
        "samples": [shown(each, str(number)) for number, each in enumerate(tests, start=1)],
        "misses": [
            (miss.distance, shown(miss.samples[0], miss.train), shown(miss.samples[1], miss.test))
            for miss in misses
        ],
        "measures": [_plain(text) for text in measures(facts)],
        "limits": [_plain(text) for text in limits(facts)],
        "counts": _counts(facts),
    }
    return render("data_card.html", context)


def _rows(facts: SetFacts) -> Iterator[tuple[str, ...]]:
    """Yield names of numbers, and the number of each split."""
    splits = facts.splits.values()
    yield ("", *facts.splits)
    yield ("images", *[f"{each.num_samples:,}" for each in splits])
    yield ("captions", *[f"{each.num_captions:,}" for each in splits])
    yield ("MB of images", *[f"{each.num_bytes / 1e6:,.1f}" for each in splits])
    for name, spreads in (
        ("width, pixels", [each.widths for each in splits]),
        ("height, pixels", [each.heights for each in splits]),
        ("distinct words of a caption", [each.caption_words for each in splits]),
    ):
        yield (
            f"{name}: least, median, greatest",
            *["" if s is None else f"{s.least:,}, {s.median:,}, {s.greatest:,}" for s in spreads],
        )


def _counts(facts: SetFacts) -> dict[str, list[tuple[str, ...]]]:
    """Return a table of images by split for each kind of value that samples have."""
    tables = {}
    for title, name in (
        ("Classes", "classes"), ("Languages", "languages"), ("Licences", "licenses"),
    ):  # fmt: skip
        if joined := _joined(facts, name):
            rows = [
                (value, *[f"{counts.get(split, 0):,}" for split in facts.splits])
                for value, counts in joined.items()
            ]
            tables[title] = [(title, *facts.splits), *rows]
    return tables


def _joined(facts: SetFacts, name: str) -> dict[str, dict[str, int]]:
    """Return the counts of all splits by value."""
    joined: dict[str, dict[str, int]] = {}
    for split, part in facts.splits.items():
        counts: Mapping[str, int] = getattr(part, name)
        for value, count in counts.items():
            joined.setdefault(value, {})[split] = count
    return joined


def _table(rows: Sequence[Sequence[Any]]) -> str:
    first, *others = [[_cell(value) for value in row] for row in rows]
    lines = [first, ["---"] * len(first), *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _bullets(sentences: Iterator[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _plain(text: str) -> str:
    return text.replace("`", "")
