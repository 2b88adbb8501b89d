"""Sources of every kind, and hostile ones."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipkit.data import pack
from clipkit.errors import DataError, FaultBudgetExceeded
from clipkit.evaluation import open_dataset
from clipkit.evaluation.building import (
    SampleFields,
    SourceOptions,
    SplitOptions,
    WriteOptions,
    build_evaluation_set,
)
from tests.helpers.evaluation_data import sample, write_layout
from tests.helpers.factories import write_shard
from tests.helpers.planted_copies import CLASSES, caption, drawing, write_table
from tests.helpers.servers import Misbehaviour, http_server


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def drawn(number: int, kind: str = "PNG") -> bytes:
    return stored(drawing(number), kind)


def shard_of(folder: Path, samples: list[dict[str, bytes]]) -> Path:
    write_shard(folder / "00000.tar", [(f"k{n:03d}", each) for n, each in enumerate(samples)])
    return folder


def pairs(count: int) -> list[dict[str, bytes]]:
    return [{"png": drawn(n), "txt": caption(n).encode()} for n in range(count)]


def sizes(out: Path) -> tuple[int, int]:
    return len(open_dataset(out, "train")), len(open_dataset(out))


def test_a_coco_file(tmp_path: Path):
    images, annotations = [], []
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(drawn(number))
        images.append({"id": number, "file_name": f"{number}.png"})
        annotations += [{"image_id": number, "caption": caption(number + 50 * k)} for k in (0, 1)]
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    build_evaluation_set(tmp_path / "c.json", tmp_path / "own", split=SplitOptions(test_size=4))
    assert sizes(tmp_path / "own") == (6, 4)
    assert len(open_dataset(tmp_path / "own").sample(0).captions) == 2


def test_clip_benchmarks_layout_keeps_names_and_templates(tmp_path: Path):
    root = write_layout(tmp_path / "root", (9, 8))
    build_evaluation_set(
        root, tmp_path / "own", reading=SourceOptions(split="test"),
        split=SplitOptions(test_size=0.5),
    )  # fmt: skip
    for name in ("classnames.txt", "zeroshot_classification_templates.txt"):
        assert (tmp_path / "own" / name).read_text() == (root / name).read_text()
    assert sum(sizes(tmp_path / "own")) == 17


def test_shards_over_http(tmp_path: Path):
    root = write_layout(tmp_path / "root", (9, 8))
    files = {f"/{f.relative_to(root)}": f.read_bytes() for f in root.rglob("*") if f.is_file()}
    with http_server(files, Misbehaviour()) as url:
        build_evaluation_set(url, tmp_path / "a", split=SplitOptions(test_size=0.5))
    build_evaluation_set(root, tmp_path / "b", split=SplitOptions(test_size=0.5))
    for name in ("test/0.tar", "train/0.tar", "classnames.txt", "extra_positives.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_pattern_and_keys_that_repeat(tmp_path: Path):
    for number in (0, 1):
        samples = [(f"s{n}", sample(9 * number + n)) for n in range(9)]
        write_shard(tmp_path / f"part/{number}.tar", samples)
    pattern = str(tmp_path / "part/{0..1}.tar")
    build_evaluation_set(pattern, tmp_path / "own", split=SplitOptions(test_size=1.0))
    data = open_dataset(tmp_path / "own")
    assert len({data.sample(n).key for n in range(len(data))}) == 18
    assert not (tmp_path / "own/train").exists()


def test_a_data_set_of_the_hub(hub, tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    rows = [
        {"image": {"bytes": drawn(n), "path": f"{n}.png"}, "caption": caption(n), "language": "en"}
        for n in range(12)
    ]
    file = tmp_path / "0.parquet"
    datasets.Dataset.from_list(rows).to_parquet(str(file))
    repository = hub.data_set("owner/own")
    commit = repository.commit(
        {"default/train/0000.parquet": file.read_bytes()}, "refs/convert/parquet"
    )
    built = build_evaluation_set(
        "hf://datasets/owner/own", tmp_path / "own", split=SplitOptions(test_size=4),
        fields=SampleFields(language="json:language"),
    )  # fmt: skip
    assert sizes(tmp_path / "own") == (8, 4)
    source = f"hf://datasets/owner/own@{commit}/default/train"
    assert built.facts["description"]["source"] == source


def test_other_formats_become_png_and_large_images_smaller(tmp_path: Path):
    kinds = {"gif": "GIF", "bmp": "BMP", "tiff": "TIFF", "webp": "WEBP", "jpg": "JPEG"}
    samples = [
        {name: drawn(n, kind), "txt": caption(n).encode()}
        for n, (name, kind) in enumerate(kinds.items())
    ]
    shard_of(tmp_path / "shards", samples)
    build_evaluation_set(
        tmp_path / "shards", tmp_path / "own", split=SplitOptions(test_size=1.0),
        writing=WriteOptions(image_size=60),
    )  # fmt: skip
    data = open_dataset(tmp_path / "own")
    images = [Image.open(io.BytesIO(data.sample(n).image)) for n in range(5)]
    assert [image.format for image in images][:3] == ["PNG", "PNG", "PNG"]
    assert {min(image.size) for image in images} == {60}


def test_hostile_samples_are_named(tmp_path: Path):
    good = pairs(10)
    wrong = {
        "not UTF-8": {"png": drawn(20), "txt": b"caf\xe9"},
        "neither a caption nor a class": {"png": drawn(21), "txt": b"  \n "},
        "no image": {"txt": b"a dog"},
        "400000000 pixels": {"png": _bomb(), "txt": b"a huge image"},
        "is not JSON": {"png": drawn(22), "txt": b"a dog here", "json": b"{"},
        "surrogates": {"png": drawn(23), "txt": b"a cat", "json": b'{"a": "\\ud800"}'},
        "expected an integer": {"png": drawn(24), "txt": b"an owl", "cls": b"many"},
        "truncated": {"png": drawn(25)[:3000], "txt": b"a truncated file"},
    }
    shard_of(tmp_path / "shards", [*good, *wrong.values()])
    with pytest.raises(FaultBudgetExceeded, match="1 samples cannot be used"):
        build_evaluation_set(tmp_path / "shards", tmp_path / "own")
    built = build_evaluation_set(
        tmp_path / "shards", tmp_path / "own", reading=SourceOptions(max_bad_samples=8)
    )
    assert sum(sizes(tmp_path / "own")) == 10
    reasons = [reason for _, reason in built.facts["faults"]]
    assert [name in reason for name, reason in zip(wrong, reasons, strict=True)] == [True] * 8


def _bomb() -> bytes:
    """A PNG of 20,000 x 20,000 pixels in a few kilobytes."""
    image = Image.new("1", (20_000, 20_000))
    return stored(image, "PNG")


def test_one_class_with_a_single_image(tmp_path: Path):
    table = write_table(tmp_path / "source", 13, 0)
    text = table.read_text()
    table.write_text(text.replace(f",p4,{CLASSES[0]}", ",p4,wombat"))
    built = build_evaluation_set(table, tmp_path / "own", split=SplitOptions(test_size=4))
    assert built.facts["only_in_train"] == ["wombat"]
    assert "1 of the strata have no test samples" in (tmp_path / "own/README.md").read_text()


def test_captions_in_many_scripts_and_directions(tmp_path: Path):
    texts = [
        "二匹の犬が走る",
        "كلبان يركضان",
        "Две собаки бегут",
        "🐶🐶",
        "a\u202eb c",
        "ﬁne ﬂowers",
    ]
    samples = [{"png": drawn(n), "txt": text.encode()} for n, text in enumerate(texts)]
    shard_of(tmp_path / "shards", samples)
    built = build_evaluation_set(
        tmp_path / "shards", tmp_path / "own", split=SplitOptions(test_size=3)
    )
    assert set(built.facts["scripts"]) == {"Kana", "Arabic", "Cyrillic", "none", "Latin"}
    both = [open_dataset(tmp_path / "own", name) for name in ("train", "test")]
    captions = {data.sample(n).captions[0] for data in both for n in range(len(data))}
    assert captions == set(texts)


def test_a_caption_of_a_hundred_thousand_words(tmp_path: Path):
    long = " ".join(map(str, np.random.default_rng(0).integers(0, 10**6, 100_000)))
    samples = [*pairs(6), {"png": drawn(30), "txt": long.encode()}]
    shard_of(tmp_path / "shards", samples)
    build_evaluation_set(tmp_path / "shards", tmp_path / "own", split=SplitOptions(test_size=1.0))
    assert len(open_dataset(tmp_path / "own")) == 7


def test_generic_captions_join_nothing(tmp_path: Path):
    samples = [{"png": drawn(n), "txt": b"product photo"} for n in range(30)]
    shard_of(tmp_path / "shards", samples)
    built = build_evaluation_set(
        tmp_path / "shards", tmp_path / "own", split=SplitOptions(test_size=10)
    )
    assert sizes(tmp_path / "own") == (20, 10)
    assert built.facts["leakage"]["num_generic_captions_in_both"] == 1
    positives = json.loads((tmp_path / "own/extra_positives.json").read_text())
    assert all(len(images) == 9 for images in positives["text_to_image"].values())


def test_sources_that_cannot_be_opened(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "none", tmp_path / "empty", tmp_path / "{0..3}.tar"):
        with pytest.raises(DataError):
            build_evaluation_set(source, tmp_path / "own")
    assert not (tmp_path / "own").exists()


def test_the_source_may_be_a_packed_table(tmp_path: Path):
    pack(write_table(tmp_path / "source", 12, 2), tmp_path / "shards")
    build_evaluation_set(tmp_path / "shards", tmp_path / "own", split=SplitOptions(test_size=5))
    assert sum(sizes(tmp_path / "own")) == 20
