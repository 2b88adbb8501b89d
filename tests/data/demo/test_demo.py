"""The demo's data: complete, split without leaks, the same every time."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from clipkit.data.demo import emoji as demo_module
from clipkit.data.demo.concepts import ARTISTS, DRAWING_PIXELS, Concept, drawing, load_concepts
from clipkit.data.demo.emoji import pack_demo, split_concepts
from clipkit.data.shards.index import ShardIndex
from clipkit.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def concepts() -> list[Concept]:
    return load_concepts()


@pytest.fixture(scope="module")
def packed(
    tmp_path_factory: pytest.TempPathFactory, concepts: list[Concept]
) -> Iterator[demo_module.DemoData]:
    """The data of every tenth concept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "load_concepts", lambda: concepts[::10])
        yield pack_demo(tmp_path_factory.mktemp("demo") / "data")


def _samples(*paths: Path) -> dict[str, dict[str, bytes]]:
    samples: dict[str, dict[str, bytes]] = {}
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                samples.setdefault(key, {})[extension] = file.read()
    return samples


def test_concepts_are_unique_and_complete(concepts: list[Concept]) -> None:
    assert len(concepts) > 1800
    assert len({c.name for c in concepts}) == len(concepts)
    assert len({c.category for c in concepts}) == 9
    assert not any("skin tone" in c.name for c in concepts)
    assert all({"en", "de", "zh"} <= set(c.names) for c in concepts)
    assert all(c.name not in c.keywords for c in concepts)


@pytest.mark.parametrize("artist", ARTISTS)
def test_every_concept_can_be_drawn(concepts: list[Concept], artist: str) -> None:
    for concept in concepts[::50]:
        data = drawing(concept, artist)
        assert data is not None, concept
        picture = Image.open(io.BytesIO(data))
        assert (picture.mode, picture.size) == ("RGB", (DRAWING_PIXELS, DRAWING_PIXELS))
        assert len(set(picture.getdata())) > 1, concept


def test_the_ground_is_white(concepts: list[Concept]) -> None:
    data = drawing(next(c for c in concepts if c.name == "red heart"), "twemoji")
    assert data is not None
    assert Image.open(io.BytesIO(data)).getpixel((0, 0)) == (255, 255, 255)


def test_unknown_artist_is_named(concepts: list[Concept]) -> None:
    with pytest.raises(ConfigError, match=r"twemoji, openmoji.*'picasso'"):
        drawing(concepts[0], "picasso")


def test_split_has_the_announced_shares_and_no_overlap(concepts: list[Concept]) -> None:
    split = split_concepts(concepts)
    parts = [split.both_artists, split.unseen_drawings, split.unseen_concepts]
    codes = [c.codepoint for part in parts for c in part]
    assert sorted(codes) == sorted(c.codepoint for c in concepts)
    assert len(split.unseen_concepts) == round(0.1 * len(concepts))
    assert len(split.both_artists) == round(0.6 * len(concepts))
    assert split_concepts(list(reversed(concepts))) == split


def test_training_never_sees_what_is_evaluated(packed: demo_module.DemoData) -> None:
    train = _samples(*sorted((packed.root / "train").glob("*.tar")))
    drawings = _samples(packed.unseen_drawings / "test" / "0.tar")
    concepts = _samples(packed.unseen_concepts / "test" / "0.tar")
    assert packed.num_training_pairs == len(train)
    assert not set(train) & set(drawings)
    assert train
    assert drawings
    assert concepts
    trained = {sample["txt"] for sample in train.values()}
    assert not trained & {sample["txt"] for sample in concepts.values()}
    assert {sample["txt"] for sample in drawings.values()} <= trained
    assert {key.rpartition("-")[2] for key in drawings} == {"openmoji"}


def test_samples_carry_text_category_and_languages(packed: demo_module.DemoData) -> None:
    names = (packed.root / "classnames.txt").read_text().splitlines()
    for key, sample in list(_samples(packed.unseen_drawings / "test" / "0.tar").items())[:20]:
        record = json.loads(sample["json"])
        assert set(sample) == {"png", "txt", "cls", "json"}, key
        assert record["name"] == sample["txt"].decode()
        assert names[int(sample["cls"])] == record["category"]
        assert record["names"]["de"]
    assert "CC BY-SA 4.0" in (packed.root / "ATTRIBUTION.md").read_text()


def test_packing_again_changes_nothing(packed: demo_module.DemoData) -> None:
    before = {p: p.stat().st_mtime_ns for p in packed.root.rglob("*") if p.is_file()}
    assert pack_demo(packed.root) == packed
    assert {p: p.stat().st_mtime_ns for p in packed.root.rglob("*") if p.is_file()} == before


def test_a_failure_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, concepts: list[Concept]
) -> None:
    monkeypatch.setattr(demo_module, "load_concepts", lambda: concepts[:40])
    calls = []

    def fail_at_tenth(concept: Concept, artist: str) -> bytes | None:
        calls.append(concept)
        if len(calls) == 10:
            raise DataError("drawing.svg: expected a drawing, got nothing")
        return drawing(concept, artist)

    monkeypatch.setattr(demo_module, "drawing", fail_at_tenth)
    with pytest.raises(DataError, match=r"drawing\.svg"):
        pack_demo(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
    assert ShardIndex.from_urls(pack_demo(tmp_path / "data").train).num_samples > 0
