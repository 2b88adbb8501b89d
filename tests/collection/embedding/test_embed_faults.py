"""Bad samples, bad shards, a full disk, stops, and models whose embeddings are not finite."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from clipkit.atomic_files import new_file
from clipkit.collection import Collection
from clipkit.collection.embedding import embed_collection, start_collection
from clipkit.collection.embedding.towers import Towers
from clipkit.data import FaultOptions, LanguageCaptions
from clipkit.data.shards.reader import ShardReader
from clipkit.errors import ConfigError, FaultBudgetExceeded, NonFiniteError, naming
from clipkit.models import DualEncoder
from tests.helpers.embedding import arrays, contents, embed, encoder, plan_of, rows
from tests.helpers.evaluation_data import sample, tiny_encoder, write_layout
from tests.helpers.factories import write_shard

MANY = FaultOptions(max_bad_fraction=0.5)


@pytest.fixture
def data(tmp_path):
    return write_layout(tmp_path / "set", (5, 4, 3))


def write_bad(path: Path, changes: dict[int, dict[str, bytes]], count: int = 6) -> Path:
    """A shard of which some samples have other members."""
    samples = [(f"s{n}", changes.get(n, sample(n))) for n in range(count)]
    write_shard(path / "0.tar", samples)
    return path


def test_a_bad_image_has_zeros_and_a_reason(tmp_path, caplog):
    bad = {"jpg": b"no image", "txt": b"a cat", "cls": b"2"}
    data = write_bad(tmp_path / "set", {1: bad, 4: {"txt": b"without"}})
    report = embed(data, tmp_path / "out", faults=MANY)
    assert (report.total("num_images"), report.total("num_bad")) == (4, 2)
    images, table = arrays(tmp_path / "out", "images"), rows(tmp_path / "out")
    assert np.flatnonzero(~images.any(1)).tolist() == [1, 4]
    assert "not an image" in str(table[1]["error"])
    assert "no image: expected a member" in str(table[4]["error"])
    assert (table[1]["captions"], table[1]["label"]) == (["a cat"], 2)
    assert table[1]["image_sha256"] is not None
    assert table[4]["image_size_bytes"] is None
    assert caplog.text.count("no embedding of") == 2
    clean = write_bad(tmp_path / "clean", {})
    embed(clean, tmp_path / "expected")
    good = [0, 2, 3, 5]
    expected = arrays(tmp_path / "expected", "images")[good]
    np.testing.assert_allclose(images[good], expected, atol=1e-3)
    shard = Collection(tmp_path / "out").shards[0]
    assert len(shard.texts()) == shard.text_starts()[-1]


def test_members_and_captions_have_limits(tmp_path):
    image = sample(0)["jpg"]
    many = json.dumps({"captions": [f"caption {n}" for n in range(1001)]}).encode()
    lines = "\n".join(f"caption {n}" for n in range(1001)).encode()
    changes = {
        0: {"jpg": bytes(64 * 2**20 + 1), "txt": b"a"},
        1: {"jpg": image, "txt": b"a" * (16 * 2**20 + 1)},
        2: {"jpg": image, "txt": lines, "json": many},
    }
    data = write_bad(tmp_path / "set", changes)
    embed(data, tmp_path / "out", faults=MANY)
    errors = [row["error"] for row in rows(tmp_path / "out")]
    assert errors[0] == "member 'jpg': expected at most 67108864 bytes, got 67108865"
    assert errors[1] == "member 'txt': expected at most 16777216 bytes, got 16777217"
    assert errors[2] == "expected at most 1,000 captions, got 1,001; name fewer"
    assert errors[3:] == [None] * 3


def test_only_needed_members_are_read(tmp_path, monkeypatch):
    seen = []
    read = ShardReader.read

    def spied(self, sample_id, leave_out=()):
        found = read(self, sample_id, leave_out)
        seen.append(set(found.members))
        return found

    members = {**sample(0), "mp4": bytes(2**24 + 1), "png": sample(0)["jpg"], "json": b'{"a": 1}'}
    data = write_bad(tmp_path / "set", {0: members}, count=1)
    monkeypatch.setattr(ShardReader, "read", spied)
    embed(data, tmp_path / "out", columns=("json:a",))
    assert {"jpg", "txt", "cls", "json"} in seen
    assert not any({"mp4", "png"} & names for names in seen)
    assert rows(tmp_path / "out")[0]["json:a"] == 1


def test_large_members_do_not_matter_to_captions_in_any_member(tmp_path):
    members = {**sample(0), "mp4": bytes(2**24 + 1), "txt.de": b"ein Hund"}
    data = write_bad(tmp_path / "set", {0: members}, count=1)
    embed(data, tmp_path / "out", caption=LanguageCaptions("txt.{language}"))
    (row,) = rows(tmp_path / "out")
    assert (row["error"], row["captions"]) == (None, ["ein Hund"])


def test_a_batch_of_bad_images_only(tmp_path):
    data = write_bad(tmp_path / "set", {n: {"jpg": b"x", "txt": b"a"} for n in (4, 5)})
    report = embed(data, tmp_path / "out", faults=MANY, batch_size=2)
    assert report.total("num_bad") == 2


def test_what_else_cannot_be_read_is_a_bad_sample(tmp_path):
    image = sample(0)["jpg"]
    changes = {
        0: {"jpg": image, "cls": b"cat"},
        1: {"jpg": image, "json": b"{"},
        2: {"jpg": image, "txt": b"\xff"},
    }
    data = write_bad(tmp_path / "set", changes)
    embed(data, tmp_path / "out", faults=MANY, columns=("json:author",))
    errors = [str(row["error"]) for row in rows(tmp_path / "out")]
    assert "label cls: expected an integer" in errors[0]
    assert "not JSON" in errors[1]
    assert "not UTF-8" in errors[2]
    assert errors[3:] == ["None"] * 3


def test_a_shard_with_too_many_bad_samples_has_no_files(tmp_path, data):
    write_shard(data / "test" / "1.tar", [(f"s{n}", {"jpg": b"x"}) for n in range(4)])
    with pytest.raises(FaultBudgetExceeded, match=r"1 bad shards, allowed max_bad_shards=0"):
        embed(data, tmp_path / "out")
    assert not list((tmp_path / "out").glob("1.*"))
    report = embed(data, tmp_path / "out", faults=FaultOptions(max_bad_shards=1))
    (failed,) = report.failures
    assert (failed.number, report.num_missing, report.num_kept) == (1, 1, 1)
    assert "1.tar: more than 1 bad samples of 4 (max_bad_fraction=0.05)" in failed.failure
    assert "the last one: s1: not an image" in failed.failure
    assert {path.name[0] for path in (tmp_path / "out").glob("*.parquet")} == {"0", "2"}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"x" * 2000)])
def test_a_shard_that_is_lost_under_way_is_left_out(tmp_path, data, workers, damage):
    plan = plan_of(
        data, tmp_path / "out", num_workers=workers, faults=FaultOptions(max_bad_shards=1)
    )
    opened = plan.open_data()
    info = start_collection(plan, encoder(), None, opened)
    damage(data / "test" / "1.tar")
    report = embed_collection(plan, info, encoder(), opened)
    assert [shard.number for shard in report.failures] == [1]
    assert [shard.num_images for shard in report.shards] == [5, 0, 3]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not any(name.startswith((".", "1.")) for name in names)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize("suffix", [".images.f16.npy", ".texts.f16.npy", ".parquet"])
def test_a_full_disk_leaves_complete_shards_only(tmp_path, data, monkeypatch, suffix):
    @contextmanager
    def full(path):
        with new_file(path) as temporary, naming(path):
            is_full = str(path).endswith(f"1{suffix}")
            yield Path("/dev/full") if is_full else temporary

    monkeypatch.setattr("clipkit.collection.shard_writer.new_file", full)
    with pytest.raises(OSError, match=rf"No space left on device: '.*1{suffix}'") as caught:
        embed(data, tmp_path / "out")
    assert caught.value.errno == errno.ENOSPC
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert {name for name in left if name.endswith(".parquet")} == {"0.parquet"}
    assert not any(name.startswith(".") for name in left)
    monkeypatch.undo()
    assert embed(data, tmp_path / "out").num_kept == 1
    embed(data, tmp_path / "expected")
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_a_disk_that_is_too_small_is_refused_before_the_work(tmp_path, data, monkeypatch):
    embed(data, tmp_path / "out")
    (tmp_path / "out" / "1.parquet").unlink()
    needed = 4 * 24 * 2  # the images of the shard that is missing
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(ConfigError, match=r"--output: .* needs at least 0 MB for 4 samples"):
        embed(data, tmp_path / "out")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    assert embed(data, tmp_path / "out").num_missing == 0


@pytest.mark.parametrize("batch", range(5))
def test_a_stop_at_any_batch_loses_the_shard_under_way_only(tmp_path, data, monkeypatch, batch):
    embed(data, tmp_path / "expected", batch_size=3)
    calls = []
    embed_images = Towers.embed_images

    def stop(self, *args):
        calls.append(args)
        if len(calls) > batch:
            raise KeyboardInterrupt
        return embed_images(self, *args)

    monkeypatch.setattr(Towers, "embed_images", stop)
    with pytest.raises(KeyboardInterrupt):
        embed(data, tmp_path / "out", batch_size=3)
    monkeypatch.undo()
    complete = [0, 0, 1, 1, 2][batch]  # of batches 0-1, 2-3 and 4
    assert len(list((tmp_path / "out").glob("*.parquet"))) == complete
    assert not list((tmp_path / "out").glob(".*"))
    assert embed(data, tmp_path / "out", batch_size=3).num_kept == complete
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def broken(tower: str, value: float) -> DualEncoder:
    model = tiny_encoder().eval()
    with torch.no_grad():
        for parameter in getattr(model, tower).parameters():
            parameter.fill_(value)
    return model


@pytest.mark.parametrize(
    ("tower", "value", "what"),
    [
        ("image_tower", float("nan"), r"0\.tar: image s0000000: .* length nan"),
        ("text_tower", float("nan"), r"0\.tar: caption of s0000000: .* length nan"),
        ("image_tower", 0.0, r"0\.tar: image s0000000: .* length 0"),
    ],
)
def test_an_embedding_that_is_not_finite_is_no_row_of_zeros(tmp_path, data, tower, value, what):
    model = broken(tower, value)
    plan = plan_of(data, tmp_path / "out")
    info = start_collection(plan, model, None, plan.open_data())
    with pytest.raises(NonFiniteError, match=rf"{what}|tiny \(fp32\)"):
        embed_collection(plan, info, model, plan.open_data())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["collection.json"]


def test_a_second_start_of_the_same_command_is_harmless(tmp_path, data):
    """The second one runs to its end within the first batch of the first one."""
    embed(data, tmp_path / "expected", batch_size=2)
    plan = plan_of(data, tmp_path / "out", batch_size=2)
    info = start_collection(plan, encoder(), None, plan.open_data())
    second = []

    def start_again(_done, _total):
        if not second:
            second.append(embed(data, tmp_path / "out", batch_size=2))

    first = embed_collection(plan, info, encoder(), plan.open_data(), None, start_again)
    assert [shard.number for shard in second[0].shards] == [0, 1, 2]
    assert [shard.number for shard in first.shards] == [0]  # the one that was under way
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_what_a_killed_process_was_writing_is_removed_after_a_day(tmp_path, data):
    embed(data, tmp_path / "out")
    old, new = (tmp_path / "out" / f".0.parquet.{name}.tmp" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"part")
    os.utime(old, (0, time.time() - 25 * 3600))
    embed(data, tmp_path / "out")
    assert (old.exists(), new.exists()) == (False, True)
