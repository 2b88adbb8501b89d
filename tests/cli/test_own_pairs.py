"""The README's five minutes with own pairs, on a table like Flickr8k's: five captions per image."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from clipkit.cli.main import main
from clipkit.data import OpenClipTokenizer, PairStream, ShardIndex, ShardReader
from tests.helpers.factories import COLORS, image_bytes, write_shard

CAPTIONS = [
    "a {} square on a white wall .",
    "the {} picture , seen from the front .",
    "somebody painted a {} square .",
    "one {} shape without a frame .",
    "a square that is {} all over .",
]


def write_table(folder: Path, layout: str) -> Path:
    (folder / "images").mkdir(parents=True)
    rows: list[list[str]] = []
    for number, color in enumerate(list(COLORS) * 3):
        name = f"images/{number}.jpg"
        (folder / name).write_bytes(image_bytes(color, seed=number))
        captions = [caption.format(color) for caption in CAPTIONS]
        rows += [[name, *captions]] if layout == "columns" else [[name, c] for c in captions]
    header = [f"caption_{i}" for i in range(5)] if layout == "columns" else ["caption"]
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", *header], *rows])
    return folder / "captions.csv"


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_each_caption_is_trained_on_alone(tmp_path, layout, capsys):
    table = write_table(tmp_path / "photos", layout)
    for split in ("train", "val"):
        words = ["shards", "pack", str(table), str(tmp_path / split), "--image-size", "256"]
        assert main(words) == 0
    stream = PairStream(
        ShardIndex.from_urls(tmp_path / "train"),
        tokenizer=OpenClipTokenizer(context_length=16), batch_size=6, image_size=16,
    )  # fmt: skip
    seen: dict[str, set[str]] = {}
    for _ in range(20):
        for batch in stream:
            for key, caption in zip(batch.keys, batch.captions, strict=True):
                seen.setdefault(key, set()).add(caption)
            stream.commit(batch)
    every = {caption.format(color) for color in COLORS for caption in CAPTIONS}
    assert set().union(*seen.values()) == every
    assert all(len(captions) >= 3 for captions in seen.values())
    screen = preflight(tmp_path, capsys)
    assert "0.0% of" in screen
    assert "several lines" not in screen


def test_lines_that_nobody_explains_are_reported(tmp_path, capsys):
    samples = [
        (f"{i}", {"jpg": image_bytes("red", seed=i), "txt": b"a red square\nanother text"})
        for i in range(8)
    ]
    write_shard(tmp_path / "train" / "0.tar", samples)
    write_shard(tmp_path / "val" / "0.tar", samples)
    screen = preflight(tmp_path, capsys)
    assert "8 of 8 texts have several lines" in screen
    assert "--data.samples.caption.one_per_line=true" in screen
    words = ["--data.samples.caption=TextField", "--data.samples.caption.one_per_line=true"]
    assert "several lines" not in preflight(tmp_path, capsys, *words)


def preflight(folder: Path, capsys, *words: str) -> str:
    parts = [
        f"configs/{name}.yaml" for name in ("model/vit_tiny", "data/webdataset", "trainer/cpu")
    ]
    command = ["fit", *(word for part in parts for word in ("-c", part)), "--preflight_only"]
    command += [f"--data.train={folder}/train/*.tar", f"--data.val={folder}/val/*.tar"]
    command += ["--data.batch_size=4", "--data.num_workers=0"]
    assert main([*command, f"--trainer.default_root_dir={folder / 'run'}", *words]) == 0
    lines = capsys.readouterr().err.splitlines()
    return " ".join(" ".join(line.strip("│ ") for line in lines).split())


def test_packed_samples_list_their_captions(tmp_path):
    assert (
        main(
            ["shards", "pack", str(write_table(tmp_path / "photos", "rows")), str(tmp_path / "out")]
        )
        == 0
    )
    members = ShardReader(ShardIndex.from_urls(tmp_path / "out")).read(0).members
    assert json.loads(members["json"])["captions"] == members["txt"].decode().splitlines()
