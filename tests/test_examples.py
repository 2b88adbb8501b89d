"""The examples in the docstrings are true.

An example may use, without importing them, ``torch``, ``nn``, ``np``, ``Path``, ``AdamW``,
``Trainer``, every public name of the package, an ``encoder`` with a label head of 4 classes and a
``batch`` of 4 pairs for it. Its working folder holds shards with 9 pairs each (``data/train``,
``data/val``), the same 4 images with one caption (``photos/captions.csv``), a list of classes
(``photos/labels.csv``) or a right and a wrong caption (``photos/choices.csv``), a cue with
the same images as candidates (``associations``), an embedded ``collection`` of 8 random
vectors of 4 components, ``dog.jpg``, ``bark.wav`` (half a second at 8 kHz) and the package's
``configs``.
"""

from __future__ import annotations

import doctest
import importlib
import logging
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import clipkit
from tests.helpers.collections import write_collection
from tests.helpers.factories import COLORS, image_bytes, write_shards
from tests.helpers.sounds import sound_bytes
from tools.reference_pages import public_modules

ROOT = Path(clipkit.__file__).parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules_with_examples() -> list[str]:
    paths = [path for path in sorted(ROOT.rglob("*.py")) if ">>> " in path.read_text("utf-8")]
    names = [".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names]


def source(name: str) -> str:
    path = ROOT.parent.joinpath(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.read_text(encoding="utf-8")


def tiny_encoder() -> Any:
    from tests.helpers import tiny

    return tiny.encoder(labels=True).eval()


def batch() -> Any:
    from clipkit.data import OpenClipTokenizer, PairStream, ShardIndex

    index, tokenizer = ShardIndex.from_urls("data/train"), OpenClipTokenizer(context_length=16)
    return next(iter(PairStream(index, tokenizer=tokenizer, batch_size=4, image_size=16)))


def trainer() -> Any:
    from lightning.pytorch import Trainer

    return Trainer


ON_REQUEST: dict[str, Callable[[], Any]] = {
    "encoder": tiny_encoder, "batch": batch, "Trainer": trainer,
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each example has a copy of."""
    make_world(folder := tmp_path_factory.mktemp("world"))
    return folder


def make_world(folder: Path) -> None:
    write_shards(folder / "data/train", (5, 4))
    write_shards(folder / "data/val", (9,), start=100)
    (folder / "data/val/classnames.txt").write_text("\n".join(COLORS))
    (folder / "photos").mkdir()
    for color in COLORS:
        (folder / f"photos/{color}.jpg").write_bytes(image_bytes(color))
    captions = "".join(f"{color}.jpg,a {color} square\n" for color in COLORS)
    labels = "red.jpg,red;yellow\ngreen.jpg,green\nblue.jpg,blue;red\nyellow.jpg,yellow\n"
    (folder / "photos/captions.csv").write_text(f"image,caption\n{captions}")
    (folder / "photos/labels.csv").write_text(f"image,labels\n{labels}")
    choices = "".join(f"{color}.jpg,a {color} square,a pink square\n" for color in COLORS)
    header = "image,caption,negative_caption\n"
    (folder / "photos/choices.csv").write_text(header + choices)
    (folder / "associations/winogavil_images").mkdir(parents=True)
    for color in COLORS:
        image = folder / f"associations/winogavil_images/{color}.jpg"
        image.write_bytes(image_bytes(color))
    names = '[""red"", ""green"", ""blue"", ""yellow""]'
    table = f'cue,candidates,associations\nsky,"{names}","[""blue""]"\n'
    (folder / "associations/cues.csv").write_text(table)
    write_collection(folder / "collection", width=4)
    (folder / "dog.jpg").write_bytes(image_bytes("blue"))
    (folder / "bark.wav").write_bytes(sound_bytes(seconds=0.5))
    (folder / "configs").symlink_to(ROOT.parent / "configs")


@cache
def exporting() -> list[Any]:
    return [importlib.import_module(package) for package in public_modules()]


def names_for(text: str) -> dict[str, Any]:
    """What the examples of a module with this text may use; only what it mentions is imported."""
    words = set(re.findall(r"\w+", text))
    names: dict[str, Any] = {
        "torch": torch, "nn": nn, "np": np, "Path": Path, "AdamW": torch.optim.AdamW,
    }  # fmt: skip
    for module in exporting():
        names |= {name: getattr(module, name) for name in words & set(module.__all__)}
    return names | {name: make() for name, make in ON_REQUEST.items() if name in words}


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples(name: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(world, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    module = importlib.import_module(name)
    result = doctest.testmod(
        module, globs=names_for(source(name)) | vars(module), optionflags=FLAGS
    )
    assert result.failed == 0
    assert result.attempted > 0


def test_only_what_needs_the_hub_is_skipped() -> None:
    skipped = [
        line.strip()
        for path in ROOT.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "+SKIP" in line
    ]
    needs_hub = ('pretrained="', "push_to_hub(")
    assert [line for line in skipped if not any(part in line for part in needs_hub)] == []


def test_sections_of_examples_are_named_as_the_reference_expects() -> None:
    heading = re.compile(r"^ *Example:$", re.MULTILINE)
    assert [path for path in ROOT.rglob("*.py") if heading.search(path.read_text("utf-8"))] == []
