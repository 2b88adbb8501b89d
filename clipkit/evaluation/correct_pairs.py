"""Which images and captions of a data set match: several of both, also from a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.errors import DataError
from clipkit.evaluation.embedding import EmbeddedPairs
from clipkit.evaluation.outcomes.outcomes import distinct_keys

_DIRECTIONS: Final = ("image_to_text", "text_to_image")


@dataclass(frozen=True)  # no slots: jsonargparse reads a default instance with vars()
class RetrievalOptions:
    """Options of retrieval: which candidates are correct, groups of queries, and widths.

    Args:
        positives: JSON file with correct pairs in addition to those of the data:
            ``{"text_to_image": {TEXT: [IMAGE, ...]}, "image_to_text": {IMAGE: [TEXT, ...]}}``.
            IMAGE is the key of a sample. TEXT is that key for the first caption of the sample,
            ``KEY#2`` for the second one, and so on. None for no file.
        merge_captions: Whether equal captions of several images, of one group, are one query and
            one candidate, for which all of these images are correct. Otherwise each is a text of
            its own, for which the other images are incorrect, as in CLIP_benchmark.
        group_field: Field with the group of each sample, or of each of its captions, such as
            "json:language", or "caption:language" for the language of each caption, if the caption
            picker knows it; recall is then also measured for each group of queries. None for no
            groups.
        widths: Numbers of first components at which truncated embeddings are measured too; see
            ``Retrieval``.
    """

    positives: str | None = None
    merge_captions: bool = False
    group_field: str | None = None
    widths: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Candidates:
    """Images and texts of a retrieval, and which of them match.

    Args:
        images: Unit-norm embeddings of the N images.
        texts: Unit-norm embeddings of the M texts.
        pairs: Row of the image and row of the text of each correct pair.
        image_keys: Distinct name of each image.
        text_keys: Distinct name of each text.
        text_groups: Name of the first image of each text.
        caption_rows: Row of each text among the captions of the data.
    """

    images: Float[Tensor, "N D"]
    texts: Float[Tensor, "texts D"]
    pairs: Int64[Tensor, "pairs 2"]
    image_keys: tuple[str, ...]
    text_keys: tuple[str, ...]
    text_groups: tuple[str, ...]
    caption_rows: Int64[Tensor, " texts"]


def match_candidates(
    embedded: EmbeddedPairs,
    options: RetrievalOptions,
    is_complete: bool = True,
    groups: Sequence[str] | None = None,
) -> Candidates:
    """Return the images and texts of a data set with all of their correct pairs.

    Args:
        embedded: Embeddings of the data.
        options: Which candidates are correct.
        is_complete: Whether a name that the data lack is an error; False if the data are limited to
            some of their samples.
        groups: Group of each caption, such as its language: equal captions of different groups are
            not merged. None for no groups.

    Raises:
        DataError: If the file of pairs cannot be read, or names a sample or caption that the data
            lack.
    """
    image_keys = distinct_keys(embedded.keys)
    owners = embedded.text_to_image.tolist()
    caption_keys = distinct_keys([image_keys[owner] for owner in owners])
    number = torch.arange(len(owners))  # of the text of each caption
    if options.merge_captions:
        names = groups or [""] * len(owners)
        texts = list(zip(names, embedded.captions, strict=True))
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        number = torch.tensor([rows[text] for text in texts], dtype=torch.int64)
    num_texts = int(number.max()) + 1
    first = torch.full((num_texts,), len(owners)).scatter_reduce(
        0, number, torch.arange(len(owners)), "amin"
    )
    pairs = torch.stack([embedded.text_to_image, number], 1)
    if options.positives is not None:
        image_rows = {key: row for row, key in enumerate(image_keys)}
        text_rows = dict(zip(caption_keys, number.tolist(), strict=True))
        further = read_positives(options.positives, image_rows, text_rows, is_complete)
        pairs = torch.cat([pairs, further])
    return Candidates(
        embedded.images,
        embedded.texts if num_texts == len(owners) else embedded.texts[first],  # no copy
        pairs,
        image_keys,
        tuple(caption_keys[row] for row in first.tolist()),
        tuple(image_keys[owners[row]] for row in first.tolist()),
        first,
    )


def read_positives(
    path: str | Path,
    image_rows: Mapping[str, int],
    text_rows: Mapping[str, int],
    is_complete: bool = True,
) -> Int64[Tensor, "pairs 2"]:
    """Read correct pairs of images and texts from a file.

    Args:
        path: JSON file; see ``RetrievalOptions.positives``. A pair that is in one of its two parts
            is correct in both directions.
        image_rows: Row of each image by its name.
        text_rows: Row of each text by its name.
        is_complete: Whether an unknown name is an error; otherwise its pairs are left out.

    Returns:
        Row of the image and row of the text of each pair.

    Raises:
        DataError: If the file cannot be read or has another form, or a name is unknown.

    Examples:
        >>> _ = Path("more.json").write_text('{"text_to_image": {"a#2": ["b"]}}')
        >>> read_positives("more.json", {"a": 0, "b": 1}, {"a": 0, "a#2": 1, "b": 2}).tolist()
        [[1, 1]]
    """
    pairs = list[tuple[int, int]]()
    for names in _named_pairs(path):
        rows = image_rows.get(names[0]), text_rows.get(names[1])
        if rows[0] is not None and rows[1] is not None:
            pairs.append((rows[0], rows[1]))
        elif is_complete:
            side = int(rows[0] is not None)
            kind, known = (("image", image_rows), ("caption", text_rows))[side]
            raise DataError(
                f"{path}: the data have no {kind} {names[side]!r}; expected the key of a sample, "
                f"such as {next(iter(known))!r}, with #2 after it for the second caption"
            )
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def _named_pairs(path: str | Path) -> Iterator[tuple[str, str]]:
    """Return the names of image and text of each pair in a file."""
    try:
        content = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected a JSON file of correct pairs, got {error}") from error
    if not isinstance(content, dict) or not content or content.keys() - set(_DIRECTIONS):
        got = f"keys {', '.join(content)}" if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path}: expected an object with {' or '.join(_DIRECTIONS)}, got {got}")
    for direction, answers in content.items():
        if not isinstance(answers, dict):
            raise DataError(
                f"{path}: {direction}: expected an object of lists, got {answers!r:.60}"
            )
        for query, names in answers.items():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise DataError(
                    f"{path}: {direction}: {query!r}: expected a list of names, got {names!r:.60}"
                )
            for name in names:
                yield (query, name) if direction == "image_to_text" else (name, query)
