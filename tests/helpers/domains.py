"""Made tables of three domains, in which images of one owner resemble each other."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from clipkit.data import ShardIndex, ShardReader
from clipkit.data.shards.members import read_value

CATEGORIES = {"shoes": 9, "lamps": 4, "clocks": 3}
"""Number of products of each category."""
FRAMES = 260
STATES = (24, 12, 6)
"""Number of moments in each state of a machine."""


def radiographs(folder: Path, num_patients: int = 10) -> Path:
    """Two studies per patient, each with a frontal and a lateral image and one report."""
    rows = []
    for patient in range(num_patients):
        for study in (2 * patient, 2 * patient + 1):
            side = ("left", "right")[study % 2]
            report = {
                "findings": f"the {side} lung of patient {patient} shows opacity {study}",
                "impression": f"opacity {study} on the {side}",
            }
            for view in ("frontal", "lateral"):
                name = _image(folder, f"{study}-{view}.png", seed=patient, shift=3 * (view > "g"))
                rows.append({"image": name, **report, "study": study, "patient": f"p{patient}"})
    return _table(folder / "studies.csv", rows)


def products(folder: Path) -> Path:
    """Three images per product, and categories of different size."""
    rows = []
    for category, count in CATEGORIES.items():
        for number in range(count):
            product = f"{category}-{number}"
            texts = {"title": f"{category} no {number}", "attributes": f"size {number}, {category}"}
            for view in range(3):
                seed = len(rows) - view
                name = _image(folder, f"{product}-{view}.png", seed=seed, shift=2 * view)
                rows.append({"image": name, **texts, "product": product, "class_name": category})
    return _table(folder / "products.csv", rows)


def machines(folder: Path, num_machines: int = 6) -> Path:
    """Images and three currents of a moment, in three states of which the last is rare."""
    rng = np.random.default_rng(0)
    rows = []
    for state, count in enumerate(STATES):
        for _ in range(count):
            machine = len(rows) % num_machines
            time = np.arange(FRAMES) * (0.05 + 0.2 * state) + rng.uniform(0, 6)
            current = np.sin(time + np.arange(3)[:, None]) + rng.normal(0, 0.1, (3, FRAMES))
            name = _image(folder, f"{len(rows)}.png", seed=machine, shift=len(rows) % 5)
            rows.append(
                {"image": name, "current": current.tolist(), "label": state, "machine": machine}
            )
    pq.write_table(pa.Table.from_pylist(rows), folder / "machines.parquet")
    return folder / "machines.parquet"


def values(shards: Path | str, field: str) -> set[str]:
    """Return the values of a field in all samples of a folder of shards."""
    index = ShardIndex.from_urls(str(shards))
    reader = ShardReader(index)
    samples = (reader.read(number).members for number in range(index.num_samples))
    return {str(read_value(members, field)) for members in samples}


def _image(folder: Path, name: str, seed: int, shift: int) -> str:
    """Write smooth noise of an owner, moved by some pixels, and return its name."""
    folder.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC)
    image.crop((shift, 0, 40 + shift, 40)).save(folder / name)
    return name


def _table(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
