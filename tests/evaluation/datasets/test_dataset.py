"""CLIP_benchmark's layout and plain shards; local and over HTTP; and what is wrong with them."""

from __future__ import annotations

import pickle
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clipkit.data import ShardIndex
from clipkit.data.storage.cache import ShardCache
from clipkit.errors import ClipkitError, ConfigError, DataError, SampleError
from clipkit.evaluation import EvaluationDataset, open_dataset
from clipkit.types import IGNORE_LABEL
from tests.helpers.evaluation_data import CLASSES, captions, picture, sample, write_layout
from tests.helpers.factories import write_shard
from tests.helpers.masks import mask_without


def test_layout_gives_samples_in_order_with_names_and_templates(tmp_path):
    data = open_dataset(write_layout(tmp_path / "set", (7, 5)))

    assert (data.name, len(data), data.task) == ("set", 12, "retrieval")
    assert data.class_names == CLASSES
    assert data.templates == ("a {c} picture", "{c}")
    for index in range(12):
        got = data.sample(index)
        assert got.key == f"s{index:07d}"
        assert list(got.captions) == captions(index)
        assert got.label == index % len(CLASSES)
        assert got.image == next(iter(sample(index).values()))


def test_shards_are_in_the_order_of_their_numbers_not_of_their_names(tmp_path):
    data = open_dataset(write_layout(tmp_path / "set", [1] * 11))

    assert [data.sample(i).key for i in range(11)] == [f"s{i:07d}" for i in range(11)]


def test_task_is_classification_where_the_data_do_not_say(tmp_path):
    assert open_dataset(write_layout(tmp_path, task=None)).task == "zero-shot"


def test_split_without_nshards_is_read_whole(tmp_path):
    write_layout(tmp_path / "set", (3, 2))
    (tmp_path / "set/test/nshards.txt").unlink()

    data = open_dataset(tmp_path / "set")

    assert len(data) == 5
    assert data.class_names == CLASSES


@pytest.mark.parametrize("source", ["{root}", "{root}/{{0..1}}.tar", "{root}/*.tar"])
def test_plain_shards_are_read(tmp_path, source):
    write_layout(tmp_path / "set", (3, 2))

    data = open_dataset(source.format(root=tmp_path / "set/test"))

    assert len(data) == 5


@pytest.mark.parametrize("source", ["set/test", "set/test/*.tar", "photos", "photos.csv"])
def test_data_without_splits_have_no_other_split(tmp_path, source):
    write_layout(tmp_path / "set", (3, 2))
    for name in ("cat", "dog"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes(picture(0))
    (tmp_path / "photos.csv").write_text("image,caption\nphotos/cat/0.png,a cat\n")
    with pytest.raises(DataError, match="expected a split 'val', got data without splits; leave"):
        open_dataset(tmp_path / source, "val")
    assert len(open_dataset(tmp_path / source)) > 0


def test_data_may_be_named_with_their_split(tmp_path):
    write_layout(tmp_path / "set", (3, 2), split="val")
    assert len(open_dataset(tmp_path / "set/val", "val")) == 5


def test_samples_without_text_or_class_say_so(tmp_path):
    data = open_dataset(write_layout(tmp_path, label=False, text=False))

    assert data.sample(0).captions == ()
    assert data.sample(0).label == IGNORE_LABEL


def test_a_data_set_can_be_sent_to_a_worker(tmp_path):
    data = open_dataset(write_layout(tmp_path))

    assert pickle.loads(pickle.dumps(data)).sample(11).key == data.sample(11).key


def test_data_are_read_over_http(tmp_path, monkeypatch):
    write_layout(tmp_path / "set", (3, 2))
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        data = open_dataset(f"http://127.0.0.1:{server.server_port}/set")
        keys = [data.sample(i).key for i in range(len(data))]
        server.shutdown()

    assert keys == [f"s{i:07d}" for i in range(5)]
    assert data.class_names == CLASSES
    assert data.templates == ("a {c} picture", "{c}")


@pytest.mark.parametrize(("status", "name"), [(403, "set"), (500, r"nshards\.txt")])
def test_a_server_that_refuses_is_named(monkeypatch, status, name):
    class Refuses(SimpleHTTPRequestHandler):
        def do_GET(self):
            self.send_error(status)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    monkeypatch.setattr(
        "clipkit.data.storage.cache.default_cache", lambda: ShardCache(retries=1, backoff_seconds=0)
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(DataError, match=rf"{name}: .*{status}"):
            open_dataset(f"http://127.0.0.1:{server.server_port}/set")
        server.shutdown()


def test_a_missing_split_names_those_that_there_are(tmp_path):
    write_layout(tmp_path, split="test")
    write_layout(tmp_path, split="train")

    with pytest.raises(DataError, match="no split 'val'; it has test, train"):
        open_dataset(tmp_path, "val")


@pytest.mark.parametrize("source", ["nowhere", "nowhere/*.tar"])
def test_missing_data_are_named(tmp_path, source):
    with pytest.raises(ClipkitError, match="nowhere"):
        open_dataset(tmp_path / source)


def test_a_missing_shard_is_named(tmp_path):
    write_layout(tmp_path, (2, 2))
    (tmp_path / "test/1.tar").unlink()

    with pytest.raises(DataError, match=r"1\.tar"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("count", ["", "none", "0", "9" * 12, "9" * 5000])
def test_a_wrong_number_of_shards_is_refused(tmp_path, count):
    write_layout(tmp_path)
    (tmp_path / "test/nshards.txt").write_text(count)

    with pytest.raises(DataError, match=r"nshards\.txt: expected the number of shards"):
        open_dataset(tmp_path)


def test_a_kind_of_data_that_nobody_reads_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected one of .*, multilabel, got 'segmentation'"):
        open_dataset(write_layout(tmp_path, task="segmentation"))


def test_a_template_without_a_place_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"templates\.txt: expected '\{\}'.*'a thing'"):
        open_dataset(write_layout(tmp_path, templates=["a thing"]))


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"txt": b"no picture"}, "no image: expected a member .*; got txt"),
        ({**sample(0), "txt": b"\xff\xfe"}, "member 'txt' is not UTF-8"),
        ({**sample(0), "cls": b"seven"}, "expected an integer, got 'seven'"),
    ],
)
def test_a_broken_sample_is_named(tmp_path, members, reason):
    write_shard(tmp_path / "0.tar", [("bad", members)])
    data = open_dataset(tmp_path)

    with pytest.raises(SampleError, match=f"/bad: .*{reason}"):
        data.sample(0)


def test_an_index_with_a_mask_is_refused(shards):
    """It would be ignored: an evaluation reads all samples."""
    index = ShardIndex.from_urls(shards / "val")
    masked = index.with_mask(mask_without(index, {0}))
    with pytest.raises(ConfigError, match="val: expected an index without a mask, got mask"):
        EvaluationDataset("val", masked)
