"""Pictures of one or two emoji, with captions, questions and hypotheses: for ``joint_tasks.py``.

A picture is a square with a left and a right slot. A slot has a thing, is empty, or is covered by a
grey box. Everything that is asked follows from the slots, from the group of an emoji, and from its
dominant hue, computed from the pixels.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SIZE, DRAWING = 48, 24
ARTISTS = ("google", "fluent3d")
NOUNS = {
    "animals-nature": "animal or plant", "food-drink": "food", "objects": "object",
    "travel-places": "place or vehicle", "activities": "game or sport",
    "smileys-emotion": "face or heart",
}  # fmt: skip
HUES = ((15, "red"), (42, "orange"), (70, "yellow"), (165, "green"), (260, "blue"),
        (345, "purple"), (361, "red"))  # fmt: skip
NUMBERS = ("no", "one", "two")
SIDES = ("left", "right")
VERDICTS = ("contradicts", "entails", "neutral")
PARTS = ("known", "compositions", "concepts")
KINDS = ("category", "count", "colour", "side")
ANSWERS = (*NOUNS.values(), *NUMBERS, "red", "orange", "yellow", "green", "blue", "purple", *SIDES)
PER_GROUP, NUM_PAIRS = 20, 1500
HELD_OUT_CONCEPTS = HELD_OUT_PAIRS = 6  # one of so many
COVERED = "something covered"


class Thing(NamedTuple):
    """An emoji."""

    name: str
    noun: str
    colours: tuple[str, ...]  # dominant colour by artist; empty without one
    drawings: tuple[np.ndarray, ...]  # red, green, blue and alpha, by artist


class Scene(NamedTuple):
    """A picture: a thing, "" for a covered slot, or None for an empty one, on each side."""

    slots: tuple[Thing | str | None, Thing | str | None]
    artist: int
    shifts: tuple[int, int]  # vertical, in pixels

    @property
    def things(self) -> list[Thing]:
        """The things that are seen."""
        return [slot for slot in self.slots if isinstance(slot, Thing)]

    def colour(self, side: int) -> str:
        """The dominant colour of what is drawn on a side; empty without one."""
        slot = self.slots[side]
        return slot.colours[self.artist] if isinstance(slot, Thing) else ""


class Question(NamedTuple):
    """What is asked of a picture."""

    text: str
    answer: str
    kind: str
    claims: dict[str, str]  # caption of each answer that fits the question


def dominant_colour(drawing: np.ndarray) -> str:
    """The hue of most coloured pixels, if a third of the drawing has one; else an empty text."""
    alpha = drawing[..., 3] > 128
    hsv = np.asarray(Image.fromarray(drawing[..., :3]).convert("HSV"), dtype=float)[alpha]
    coloured = hsv[(hsv[:, 1] > 80) & (hsv[:, 2] > 60)]
    if len(coloured) < 0.35 * len(hsv):
        return ""
    borders = [end for end, _ in HUES]
    counts = dict.fromkeys((name for _, name in HUES), 0)
    for place in np.searchsorted(borders, coloured[:, 0] * 360 / 256, side="right"):
        counts[HUES[place][1]] += 1
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] > 0.5 * len(coloured) else ""


def read_things(folder: Path) -> list[Thing]:
    """Emoji that both artists have drawn, ``PER_GROUP`` of each group, by a hash of their name."""
    files: dict[tuple[str, str], dict[str, Path]] = {}
    with (folder / "captions.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["group"] in NOUNS:
                found = files.setdefault((row["group"], row["name"]), {})
                found.setdefault(row["vendor"], folder / row["file"])
    things = []
    for group, noun in NOUNS.items():
        names = [name for of, name in files if of == group and len(files[of, name]) == len(ARTISTS)]
        for name in sorted(names, key=number_of)[:PER_GROUP]:
            drawings = tuple(drawing_of(files[group, name][artist]) for artist in ARTISTS)
            colours = tuple(dominant_colour(drawing) for drawing in drawings)
            things.append(Thing(name, noun, colours, drawings))
    return things


def drawing_of(file: Path) -> np.ndarray:
    """Read and reduce a drawing."""
    with Image.open(file) as opened:
        reduced = opened.convert("RGBA").resize((DRAWING, DRAWING), Image.Resampling.LANCZOS)
    return np.asarray(reduced)


def number_of(text: str) -> int:
    """A hash, the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def is_held_out_pair(first: Thing, second: Thing) -> bool:
    """Whether two things are never in one picture of training."""
    return number_of(" + ".join(sorted((first.name, second.name)))) % HELD_OUT_PAIRS == 0


@dataclass(frozen=True)
class World:
    """Things and pairs of training, and those that are held out."""

    known: list[Thing]
    unknown: list[Thing]
    pairs: list[tuple[Thing, Thing]]

    @classmethod
    def of(cls, folder: Path) -> World:
        """Divide the emoji of a folder by hashes of their names."""
        things = read_things(folder)
        unknown = [one for one in things if number_of(one.name) % HELD_OUT_CONCEPTS == 1]
        names = {one.name for one in unknown}
        known = [one for one in things if one.name not in names]
        every = [(a, b) for n, a in enumerate(known) for b in known[:n]]
        every = [pair for pair in every if not is_held_out_pair(*pair)]
        every.sort(key=lambda pair: number_of(f"{pair[0].name}, {pair[1].name}"))
        return cls(known, unknown, every[:NUM_PAIRS])

    def pool(self, part: str) -> list[Thing]:
        """Things of a part."""
        return self.unknown if part == "concepts" else self.known

    def pair(self, part: str, rng: np.random.Generator) -> tuple[Thing, Thing]:
        """Two things that may be together in a part, in any order."""
        if part in ("train", "known"):
            first, second = self.pairs[rng.integers(len(self.pairs))]
        else:
            pool = self.pool(part)
            while True:
                first, second = (pool[rng.integers(len(pool))] for _ in range(2))
                is_fitting = part == "concepts" or is_held_out_pair(first, second)
                if first.name != second.name and is_fitting:
                    break
        return (first, second) if rng.random() < 0.5 else (second, first)

    def scene(self, part: str, rng: np.random.Generator, share: float = 0.3) -> Scene:
        """A picture of two things, or of one, with a probability of ``share``."""
        slots: list[Thing | str | None] = list(self.pair(part, rng))
        if rng.random() < share:
            slots[rng.integers(2)] = None
        return self.placed(slots, rng)

    def placed(self, slots: Sequence[Thing | str | None], rng: np.random.Generator) -> Scene:
        """A picture with these slots."""
        low, high = rng.integers(SIZE - DRAWING + 1, size=2).tolist()
        return Scene((slots[0], slots[1]), int(rng.integers(len(ARTISTS))), (low, high))

    def covered(self, part: str, rng: np.random.Generator) -> Scene:
        """A picture of one thing next to a box."""
        slots: list[Thing | str | None] = list(self.pair(part, rng))
        slots[rng.integers(2)] = ""
        return self.placed(slots, rng)


def draw(scene: Scene) -> np.ndarray:
    """The pixels of a picture, colours first."""
    canvas = np.full((SIZE, SIZE, 3), 255, dtype=np.float32)
    for side, (slot, top) in enumerate(zip(scene.slots, scene.shifts, strict=True)):
        left = side * (SIZE - DRAWING)
        place = canvas[top : top + DRAWING, left : left + DRAWING]
        if slot == "":
            place[:] = 128
        elif isinstance(slot, Thing):
            drawing = slot.drawings[scene.artist].astype(np.float32)
            alpha = drawing[..., 3:] / 255
            place[:] = alpha * drawing[..., :3] + (1 - alpha) * place
    return canvas.round().astype(np.uint8).transpose(2, 0, 1)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption as people might write: names, sometimes with colours, kinds, sides or numbers."""
    things = scene.things
    nouns = [thing.noun for thing in things]
    if rng.random() < 0.15 and "" not in scene.slots:
        return " and ".join(f"{NUMBERS[nouns.count(noun)]} {noun}" for noun in dict.fromkeys(nouns))
    parts = []
    for side, slot in enumerate(scene.slots):
        if slot is not None:
            shown = COVERED if isinstance(slot, str) else phrase(slot, scene.colour(side), rng)
            parts.append(f"{shown} on the {SIDES[side]}" if rng.random() < 0.8 else shown)
    return " and ".join(parts if rng.random() < 0.5 else reversed(parts))


def phrase(thing: Thing, colour: str, rng: np.random.Generator) -> str:
    """The name of a thing, its colour and name, its kind, or colour and kind."""
    text = thing.noun if rng.random() < 0.25 else thing.name
    return f"{colour} {text}" if colour and rng.random() < 0.4 else text


def question(scene: Scene, rng: np.random.Generator) -> Question:
    """A question about a picture, of a kind that is drawn among those that fit."""
    seen = [side for side, slot in enumerate(scene.slots) if isinstance(slot, Thing)]
    coloured = [side for side in seen if scene.colour(side)]
    fitting = [kind for kind in KINDS if kind != "colour" or coloured]
    if len(seen) < len(SIDES):
        fitting.remove("side")
    kind = fitting[rng.integers(len(fitting))]
    side = int(rng.choice(coloured if kind == "colour" else seen))
    thing = scene.slots[side]
    assert isinstance(thing, Thing)
    where = f"on the {SIDES[side]}"
    if kind == "category":
        claims = {noun: f"{noun} {where}" for noun in NOUNS.values()}
        return Question(f"what kind of thing is {where}?", thing.noun, kind, claims)
    if kind == "count":
        nouns = list(NOUNS.values())
        noun = thing.noun if rng.random() < 0.6 else nouns[rng.integers(len(nouns))]
        number = NUMBERS[[one.noun for one in scene.things].count(noun)]
        claims = {number: f"{number} {noun}" for number in NUMBERS}
        return Question(f"how many of the kind {noun} are there?", number, kind, claims)
    if kind == "colour":
        subject = thing.name if rng.random() < 0.5 else f"thing {where}"
        shown = thing.name if subject == thing.name else ""
        claims = {c: " ".join(f"{c} {shown} {where if not shown else ''}".split())
                  for c in dict.fromkeys(name for _, name in HUES)}  # fmt: skip
        return Question(f"what colour is the {subject}?", scene.colour(side), kind, claims)
    claims = {each: f"{thing.name} on the {each}" for each in SIDES}
    return Question(f"where is the {thing.name}?", SIDES[side], kind, claims)


def hypothesis(world: World, part: str, rng: np.random.Generator) -> tuple[Scene, str, str]:
    """A picture, a statement about one side, and whether the picture tells that it is true.

    The statements of all three verdicts have the same form and the same names.
    """
    verdict = VERDICTS[rng.integers(len(VERDICTS))]
    scene = world.covered(part, rng) if rng.random() < 0.5 else world.scene(part, rng, 0.0)
    if verdict == "neutral":
        scene = world.covered(part, rng)
    sides = [side for side in range(2) if (scene.slots[side] == "") == (verdict == "neutral")]
    side = int(rng.choice(sides))
    thing = scene.slots[side]
    if verdict != "entails":
        others = [one for one in scene.things if one is not thing]
        if not others or rng.random() < 0.5:
            names = {one.name for one in scene.things}
            others = [one for one in world.pool(part) if one.name not in names]
        thing = others[rng.integers(len(others))]
    assert isinstance(thing, Thing)
    return scene, f"{thing.name} on the {SIDES[side]}", verdict
