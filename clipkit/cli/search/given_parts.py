"""Options that are parts of a query, in the order in which they were given."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from clipkit.cli.arguments import given_path, given_text
from clipkit.errors import ConfigError

if TYPE_CHECKING:
    from clipkit.search import QueryPart


@dataclass(frozen=True, slots=True)
class GivenPart:
    """A part of a query on the command line: exactly one of text, image, row and sound.

    Args:
        sign: 1, or -1 for what must not be shown.
        text: A text.
        image: Path of an image file.
        row: Number of a row.
        weight: Positive weight.
        sound: Path of a sound file.
    """

    sign: int = 1
    text: str | None = None
    image: Path | None = None
    row: int | None = None
    weight: float = 1.0
    sound: Path | None = None

    @property
    def name(self) -> str:
        """The part, for people."""
        if self.text is not None:
            return f'"{self.text}"'
        file = self.image or self.sound
        return f"row {self.row}" if file is None else file.name

    def read(self) -> QueryPart:
        """Return the part of the query; an image file or a sound file is read.

        Raises:
            ConfigError: If the file cannot be read.
        """
        from clipkit.search import QueryPart

        weight = self.sign * self.weight
        image, sound = _content("--image", self.image), _content("--sound", self.sound)
        return QueryPart(weight, self.text, image, self.row, sound)


def add_part_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the positional text, the options of parts, and ``--weight`` of the part before it."""
    parser.add_argument(
        "text", nargs="?", type=_text(1), metavar="TEXT",
        help="what the images show or the sounds are of, such as 'a dog on a beach'",
    )  # fmt: skip
    for option, read, metavar, text in (
        ("--text", _text(1), "TEXT", "a further text"),
        ("--image", _image(1), "FILE", "an image file that the images are like"),
        ("--sound", _sound(1), "FILE", "a sound file that they are like"),
        ("--row", _row(1), "N", "a row of the collection that the images are like"),
        ("--without", _text(-1), "TEXT", "a text that the images must not show"),
        ("--without-image", _image(-1), "FILE", "an image file that they are not like"),
        ("--without-sound", _sound(-1), "FILE", "a sound file that they are not like"),
        ("--without-row", _row(-1), "N", "a row that they are not like"),
    ):
        parser.add_argument(
            option, dest="parts", action="append", type=read, metavar=metavar, default=[],
            help=f"{text}; may be repeated",
        )  # fmt: skip
    parser.add_argument(
        "--weight", dest="parts", action="append", type=_weight, metavar="W", default=[],
        help="weight of the part before it, a positive number (default: 1)",
    )  # fmt: skip


def given_parts(args: argparse.Namespace) -> list[GivenPart]:
    """Return the parts of ``add_part_arguments`` with their weights.

    Raises:
        ConfigError: If there is a weight without a part before it.
    """
    parts: list[GivenPart] = [] if args.text is None else [args.text]
    given: Sequence[GivenPart | float] = args.parts
    for each in given:
        if isinstance(each, GivenPart):
            parts.append(each)
        elif parts:
            parts[-1] = replace(parts[-1], weight=each)
        else:
            raise ConfigError(
                f"--weight {each:g}: expected a part of the query before it, got none; write it "
                "after its part"
            )
    return parts


def _text(sign: int) -> Callable[[str], GivenPart]:
    return lambda text: GivenPart(sign, text=given_text(text))


def _image(sign: int) -> Callable[[str], GivenPart]:
    return lambda text: GivenPart(sign, image=given_path(text))


def _sound(sign: int) -> Callable[[str], GivenPart]:
    return lambda text: GivenPart(sign, sound=given_path(text))


def _content(option: str, path: Path | None) -> bytes | None:
    """Read a file; None for none."""
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{option}: {path} cannot be read: {error.strerror}") from error


def _row(sign: int) -> Callable[[str], GivenPart]:
    def parse(text: str) -> GivenPart:
        if not text.isascii() or not text.isdigit():
            raise argparse.ArgumentTypeError(f"expected the number of a row, got {text!r}")
        return GivenPart(sign, row=int(text))

    return parse


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise argparse.ArgumentTypeError(
            f"expected a positive number, got {text!r}; --without is for what must not be shown"
        )
    return weight
