"""Place embeddings on a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipkit.evaluation.report.content import Clouds, EmbeddingMap, MapClass
from clipkit.evaluation.report.content.charts import MAX_SERIES
from clipkit.evaluation.report.numbers import grouped, percent
from clipkit.evaluation.report.sections.plot import Frame, Plot, Points, Shape, Values

_OTHER = "other classes"


@dataclass(frozen=True, slots=True)
class Legend:
    """Colours of the map: the most frequent classes have their own, all others share the last."""

    names: Sequence[str]  # name of each colour; empty if there are no classes
    colour_of: Sequence[int]  # colour of each image


@dataclass(frozen=True, slots=True)
class Map:
    """The maps of all methods, with what the script needs to show an image."""

    plots: Sequence[Plot]
    legend: Legend
    table: Values | None  # numbers of each class; None if there are no classes
    class_names: Sequence[str]  # name of the class of each image; empty for none


def place_map(content: EmbeddingMap) -> Map:
    """Place the points of each projection."""
    legend = _legend(content)
    names = [content.classes[n].name if n is not None else "" for n in content.class_of]
    plots = [
        _map_plot(projection.name, projection.positions, projection.note, legend)
        for projection in content.projections
    ]
    table = _table(content.classes) if content.classes else None
    return Map(plots, legend, table, names or [""] * len(content.captions))


def cloud_plot(clouds: Clouds) -> Plot:
    """Place images and texts in one plane."""
    frame = _around([*clouds.images, *clouds.texts])
    both = (clouds.images, clouds.texts)
    return Plot(
        title="Images and texts",
        kind="dot",
        shapes=[Shape(frame.place(points), colour=n) for n, points in enumerate(both)],
        x_labels=[],
        y_labels=[],
        description=f"Two clouds of points: {len(clouds.images)} images and {len(clouds.texts)} "
        f"texts in one plane. {clouds.note}",
        note=clouds.note,
        names=["images", "texts"],
    )


def _map_plot(name: str, positions: Points, note: str, legend: Legend) -> Plot:
    frame = _around(positions)
    places = frame.place(positions)
    num_colours = max(len(legend.names), 1)
    shapes = [
        Shape([p for p, own in zip(places, legend.colour_of, strict=True) if own == n], colour=n)
        for n in range(num_colours)
    ]
    return Plot(
        title=name,
        kind="dot",
        shapes=shapes,
        x_labels=[],
        y_labels=[],
        description=f"Map of {len(positions)} images by {name}. {note}",
        note=note,
        values={"places": [[round(x, 1), round(y, 1)] for x, y in places]},
    )


def _legend(content: EmbeddingMap) -> Legend:
    if not content.classes:
        return Legend([], [0] * len(content.captions))
    order = sorted(range(len(content.classes)), key=lambda n: (-content.classes[n].count, n))
    own = order if len(order) <= MAX_SERIES else order[: MAX_SERIES - 1]
    colours = {number: colour for colour, number in enumerate(own)}
    names = [content.classes[number].name for number in own]
    without_own = len(names)
    colour_of = [
        without_own if number is None else colours.get(number, without_own)
        for number in content.class_of
    ]
    return Legend([*names, _OTHER] if without_own in colour_of else names, colour_of)


def _around(points: Points) -> Frame:
    """Return a frame with a margin around all points."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    width, height = (max(xs) - min(xs)) or 1.0, (max(ys) - min(ys)) or 1.0
    return Frame(
        min(xs) - 0.04 * width, max(xs) + 0.04 * width,
        min(ys) - 0.04 * height, max(ys) + 0.04 * height,
    )  # fmt: skip


def _table(classes: Sequence[MapClass]) -> Values:
    rows = [
        [
            part.name,
            grouped(part.count),
            "–" if part.neighbours is None else percent(part.neighbours, 0),
        ]
        for part in sorted(classes, key=lambda part: -part.count)
    ]
    return Values(["Class", "Images", "Neighbours of the same class, %"], rows)
