"""Draw a confusion matrix as a PNG, for slides and tickets."""

from __future__ import annotations

import io
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from clipkit.evaluation.report.content import Confusion
from clipkit.evaluation.report.sections.confusion import most_confused, share_of_row

_MAX_CLASSES: Final = 40
_MAX_NAME: Final = 24
_CELL: Final = 44
_FONT_PIXELS: Final = 15
_RIGHT: Final = (38, 95, 189)
_WRONG: Final = (190, 60, 40)
_INK: Final = (25, 28, 33)


def confusion_png(confusion: Confusion) -> bytes:
    """Draw a confusion matrix; row: true class, column: predicted class, percent of the row.

    Args:
        confusion: Names and counts; of more than 40 classes those with the most errors are drawn.

    Returns:
        The bytes of a PNG file.
    """
    chosen = most_confused(confusion, _MAX_CLASSES)
    font = ImageFont.load_default(size=_FONT_PIXELS)
    names = [confusion.class_names[index] for index in chosen]
    names = [name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…" for name in names]
    margin = 16 + max(int(font.getlength(f"{name}  00")) for name in names)
    head = 2 * _CELL
    size = (margin + _CELL * len(chosen) + 16, head + _CELL * len(chosen) + 16)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    draw.text((8, 8), "Row: true class. Column: predicted class, % of the row.", _INK, font)
    for row, index in enumerate(chosen):
        top = head + _CELL * row
        middle = top + _CELL / 2
        draw.text((margin - 8, middle), f"{names[row]}  {row + 1}", _INK, font, anchor="rm")
        place = (margin + _CELL * (row + 0.5), head - 10)
        draw.text(place, str(row + 1), _INK, font, anchor="ms")
        for column, other in enumerate(chosen):
            share = share_of_row(confusion, index, other)
            box = (margin + _CELL * column, top, margin + _CELL * (column + 1) - 2, top + _CELL - 2)
            draw.rectangle(box, fill=_shade(share, index == other))
            if share >= 0.005:
                centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
                ink = "white" if share >= 0.5 else _INK
                draw.text(centre, f"{100 * share:.0f}", ink, font, anchor="mm")
    out = io.BytesIO()
    image.save(out, format="PNG", optimize=True)
    return out.getvalue()


def _shade(share: float, is_right: bool) -> tuple[int, int, int]:
    """Mix white (share 0) and the full colour (share 1)."""
    red, green, blue = _RIGHT if is_right else _WRONG
    strength = 0.04 + 0.96 * share**0.7 if share > 0 else 0.04
    return tuple(round(255 + (part - 255) * strength) for part in (red, green, blue))  # type: ignore[return-value]
