"""``collection.json``: written once, by whoever is first; other options are refused by name."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from clipkit.collection import CollectionInfo, read_info
from clipkit.collection.embedding import Part, start_collection
from clipkit.collection.info import create_info
from clipkit.data import JsonFields, OptionalCaption, TextField
from clipkit.errors import ConfigError
from tests.helpers.collections import write_collection
from tests.helpers.embedding import contents, embed, plan_of
from tests.helpers.evaluation_data import tiny_encoder, write_layout


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_layout(tmp_path_factory.mktemp("data") / "set", (2, 2))


@pytest.fixture
def output(tmp_path, data):
    embed(data, tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf16"}, "precision: then fp32, now bf16"),
        ({"columns": ("cls",)}, r"columns: then \(\), now \('cls',\)"),
        ({"images_only": True}, "images only: then False, now True"),
        ({"limit": 3}, "limit: then None, now 3; shard: then .*2 samples.*, now .*1 samples"),
        ({"limit": 1}, "limit: then None, now 1; number of shards: then 2, now 1"),
        ({"label_field": "json:x"}, "label_field: then cls, now json:x"),
        ({"caption": TextField("cls")}, 'caption: then None, now .*"class": "TextField"'),
    ],
)
def test_other_options_are_refused_by_name(data, output, options, message):
    before = contents(output)
    with pytest.raises(ConfigError, match=rf"--output: .*out was embedded otherwise: {message}"):
        embed(data, output, **options)
    assert contents(output) == before


def test_options_that_change_no_file_may_change(data, output):
    assert embed(data, output, batch_size=3, num_workers=1).num_kept == 2


def test_another_model_is_refused(data, output):
    plan = plan_of(data, output)
    with pytest.raises(ConfigError, match=r"model: then tiny \(hash \w+\), now tiny \(hash \w+\)"):
        start_collection(plan, tiny_encoder(seed=1), None, plan.open_data())


@pytest.mark.parametrize("counts", [(2, 3), (2, 2, 2)])
def test_other_data_are_refused(tmp_path, output, counts):
    other = write_layout(tmp_path / "other", counts)
    with pytest.raises(ConfigError, match=r"shard: then .*1\.tar|number of shards: then 2, now 3"):
        embed(other, output)


def test_changed_contents_are_refused(tmp_path, output):
    other = write_layout(tmp_path / "other", (2, 2), start=1)
    with pytest.raises(ConfigError, match=r"digest \w+\), now .*other/test/0\.tar"):
        embed(other, output)


def test_the_same_data_elsewhere_continue(tmp_path, data, output):
    other = write_layout(tmp_path / "moved", (2, 2))
    assert embed(other, output).num_kept == 2


def test_pickers_with_the_same_arguments_are_the_same(data, tmp_path):
    for _ in range(2):
        picker = OptionalCaption(JsonFields({"a.b": 1.0}, languages={"en": 1.0}))
        report = embed(data, tmp_path, caption=picker)
    assert report.num_kept == 2
    with pytest.raises(ConfigError, match=r"caption: then .*, now "):
        embed(data, tmp_path, caption=OptionalCaption(JsonFields({"a": 1.0})))


def test_a_folder_with_other_files_is_refused(data, tmp_path):
    (tmp_path / "precious").write_text("work of years")
    with pytest.raises(ConfigError, match=r"expected a new or empty folder.*with precious"):
        embed(data, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def info_of(tmp_path, number: int) -> CollectionInfo:
    return read_info(write_collection(tmp_path / f"of{number}", counts=(number,) * 50))


def test_one_of_several_writers_wins(tmp_path):
    infos = [info_of(tmp_path, number) for number in range(1, 5)]
    for attempt in range(20):
        folder = tmp_path / f"out{attempt}"
        folder.mkdir()
        results: dict[int, bool] = {}
        barrier = threading.Barrier(len(infos))

        def write(number, folder=folder, barrier=barrier, results=results):
            barrier.wait()
            results[number] = create_info(infos[number], folder)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(len(infos))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = [number for number, wrote in results.items() if wrote]
        assert read_info(folder) == infos[winner]
        assert [path.name for path in folder.iterdir()] == ["collection.json"]


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    info = info_of(tmp_path, 1)
    (tmp_path / "out").mkdir()
    assert create_info(info, tmp_path / "out")
    assert read_info(tmp_path / "out") == info


def test_parts_that_start_at_the_same_time_have_one_record(tmp_path, data, monkeypatch):
    """The other part writes the record while this one describes the collection."""
    from clipkit.collection.embedding import claim

    describe, calls = claim.describe_collection, []

    def start_other(*args):
        if not calls:
            calls.append(args)
            embed(data, tmp_path, Part(2, 2))
        return describe(*args)

    monkeypatch.setattr(claim, "describe_collection", start_other)
    report = embed(data, tmp_path, Part(1, 2))
    assert ([shard.number for shard in report.shards], report.num_missing) == ([0], 0)
