"""Packing sounds: class folders, tables, output of audio2dataset; shards of CLAP and AudioSet."""

from __future__ import annotations

import json
import os
import sys
from functools import cache

import numpy as np
import pytest

from clipkit.data import JsonFields, MultiLabels, TableColumns, pack
from clipkit.data.audio import decode
from clipkit.data.packing.images import find_images, find_sounds, member_extension
from clipkit.data.packing.sources import open_source
from clipkit.data.packing.stats import collect_stats
from clipkit.data.packing.verify import verify_shards
from clipkit.data.samples.content import IMAGES_AND_SOUNDS
from clipkit.data.samples.fields import SampleContext
from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.reader import ShardReader
from clipkit.data.text.tokenizers import OpenClipTokenizer
from clipkit.errors import ConfigError, FaultBudgetExceeded
from clipkit.types import Sample
from tests.helpers.factories import image_bytes, write_shard
from tests.helpers.sounds import encoded, id3_tag, sound_bytes, tone, without_count


def samples_in(folder):
    reader = ShardReader(ShardIndex.from_urls(str(folder)))
    return [
        dict(reader.read(number).members)
        for number in range(len(list(reader.table(0).iter_keys())))
    ]


@cache
def files_of_each_kind():
    """The same bytes each time: the serial number of an Ogg stream is random."""
    return {
        "a.wav": sound_bytes(),
        "b.flac": encoded(tone()),
        "c.ogg": encoded(tone(), 8000, "OGG"),
        "d.mp3": encoded(tone(1.0, 16_000), 16_000, "MP3"),
    }


def test_class_folders_of_sounds(tmp_path, caplog):
    source = tmp_path / "source"
    for name in ("dog", "rain"):
        (source / name).mkdir(parents=True)
    sounds = files_of_each_kind()
    for name, data in sounds.items():
        (source / "dog" / name).write_bytes(data)
    (source / "rain" / "without_suffix").write_bytes(sounds["b.flac"])
    (source / "rain" / "notes.md").write_text("no sound")
    report = pack(source, tmp_path / "out")
    assert report.num_samples == 5
    assert "5 sounds; skipped 1 files that are no sounds of a class: 1 .md" in caplog.text
    samples = samples_in(tmp_path / "out")
    expected = [("wav", "a.wav"), ("flac", "b.flac"), ("ogg", "c.ogg"), ("mp3", "d.mp3")]
    for sample, (extension, name) in zip(samples, expected, strict=False):
        assert sample == {extension: sounds[name], "cls": b"0", "txt": b"dog"}
    assert samples[4] == {"flac": sounds["b.flac"], "cls": b"1", "txt": b"rain"}
    assert (tmp_path / "out" / "classnames.txt").read_text().split() == ["dog", "rain"]
    assert verify_shards(str(tmp_path / "out")).faults == ()


def test_images_come_first_in_class_folders(tmp_path):
    (tmp_path / "a.jpg").write_bytes(image_bytes())
    (tmp_path / "a.wav").write_bytes(sound_bytes())
    assert [file.name for file in find_images(tmp_path).files] == ["a.jpg"]
    assert [file.name for file in find_sounds(tmp_path).files] == ["a.wav"]
    assert member_extension(tmp_path / "x.opus", b"nothing") == "opus"  # known names are believed


def test_class_folders_of_images_with_sounds(tmp_path, caplog):
    """The sound of an image has its name; sounds of others are counted in a warning."""
    source = tmp_path / "source"
    for name in ("dog", "rain"):
        (source / name / "part").mkdir(parents=True)
    jpg, wav, flac = image_bytes(), sound_bytes(), encoded(tone())
    files = {
        "dog/1.jpg": jpg, "dog/1.wav": wav, "dog/1.FLAC": flac, "dog/2.png": image_bytes("red"),
        "dog/part/2.wav": wav, "dog/notes.md": b"", "rain/3.jpg": jpg, "rain/part/4.jpg": jpg,
        "rain/part/4.mp3": encoded(tone(1.0, 16_000), 16_000, "MP3"),
    }  # fmt: skip
    for name, data in files.items():
        (source / name).write_bytes(data)
    report = pack(source, tmp_path / "out")
    assert report.num_samples == 4
    samples = samples_in(tmp_path / "out")
    kinds = [sorted(sample.keys() - {"cls", "txt"}) for sample in samples]
    assert kinds == [["flac", "jpg"], ["png"], ["jpg"], ["jpg", "mp3"]]
    assert samples[0]["flac"] == flac  # preferred to the .wav
    assert [sample["cls"] for sample in samples] == [b"0", b"0", b"1", b"1"]
    assert "4 images; skipped 3 files that are no images of a class: " in caplog.text
    for kind in ("1 sounds without an image of the same name", "1 further sounds of", "1 .md"):
        assert kind in caplog.text
    assert verify_shards(str(tmp_path / "out")).faults == ()


@pytest.mark.parametrize("allow_outside", [False, True])
def test_sounds_that_cannot_be_taken_leave_the_image(tmp_path, caplog, monkeypatch, allow_outside):
    source, flac = tmp_path / "source", encoded(tone())
    (source / "dog").mkdir(parents=True)
    for number in range(6):
        (source / "dog" / f"{number}.jpg").write_bytes(image_bytes())
    (tmp_path / "outside.flac").write_bytes(flac)
    (source / "dog" / "0.flac").symlink_to(source / "nowhere.flac")
    (source / "dog" / "0.wav").write_bytes(sound_bytes())  # instead of the link
    (source / "dog" / "1.flac").symlink_to(tmp_path / "outside.flac")
    (source / "dog" / "2.flac").symlink_to("2.flac")
    (source / "dog" / "3.flac").symlink_to("3.raw")
    (source / "dog" / "3.raw").write_bytes(flac)
    os.mkfifo(source / "dog" / "4.flac")
    (source / "dog" / "5.flac").write_bytes(flac)
    access = os.access
    monkeypatch.setattr(os, "access", lambda p, m: access(p, m) and p.name != "5.flac")
    report = pack(source, tmp_path / "out", allow_outside=allow_outside)
    assert report.num_samples == 6
    assert not report.faults
    found = [{"wav", "flac"} & sample.keys() for sample in samples_in(tmp_path / "out")]
    outside = {"flac"} if allow_outside else set()
    assert found == [{"wav"}, outside, set(), {"flac"}, set(), set()]
    assert "4 sounds that cannot be read" in caplog.text
    assert ("1 sounds outside of the folder" in caplog.text) != allow_outside


def test_a_folder_of_images_is_packed_as_before_without_sounds(tmp_path):
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "1.jpg").write_bytes(image_bytes())
    before = open_source(tmp_path).fingerprint()
    (tmp_path / "dog" / "2.wav").write_bytes(sound_bytes())
    assert open_source(tmp_path).fingerprint() == before
    (tmp_path / "dog" / "1.wav").write_bytes(sound_bytes())
    assert open_source(tmp_path).fingerprint() != before


@pytest.mark.parametrize("column", ["audio", "file_name", "noise"])
def test_tables_that_name_sounds(tmp_path, column):
    for name, data in files_of_each_kind().items():
        (tmp_path / name).write_bytes(data)
    rows = "".join(f"{name},sound {name}\n" for name in files_of_each_kind())
    (tmp_path / "t.csv").write_text(f"{column},caption\n{rows}")
    columns = TableColumns(sounds=["noise"]) if column == "noise" else TableColumns()
    pack(tmp_path / "t.csv", tmp_path / "out", columns=columns)
    samples = samples_in(tmp_path / "out")
    for sample, (name, data) in zip(samples, files_of_each_kind().items(), strict=True):
        assert sample[name[-4:].lstrip(".")] == data
        assert sample["txt"] == f"sound {name}".encode()


def test_tables_with_image_and_sound(tmp_path):
    (tmp_path / "a.jpg").write_bytes(image_bytes())
    (tmp_path / "a.wav").write_bytes(sound_bytes())
    (tmp_path / "b.wav").write_bytes(sound_bytes(seed=1))
    (tmp_path / "t.csv").write_text(
        "image,audio,echo,caption\na.jpg,a.wav,b.wav,with both\na.jpg,a.wav,b.wav,again\n"
    )
    columns = TableColumns(sounds=["audio", "echo"])
    pack(tmp_path / "t.csv", tmp_path / "out", columns=columns)
    (sample,) = samples_in(tmp_path / "out")
    assert sample["jpg"] == image_bytes()
    assert sample["wav"] == sound_bytes()
    assert sample["echo.wav"] == sound_bytes(seed=1)
    assert sample["txt"] == b"with both\nagain"


def test_sounds_inside_a_table(tmp_path):
    """As data sets on the Hub store audio: a struct of bytes and path."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    sounds = list(files_of_each_kind().values())
    cells = [{"bytes": data, "path": name} for name, data in files_of_each_kind().items()]
    cells[1]["path"] = None  # recognised by its content
    table = {"audio": cells, "text": ["a", "b", "c", "d"], "label": [0, 1, 0, 1]}
    parquet.write_table(pa.table(table), tmp_path / "t.parquet")
    pack(tmp_path / "t.parquet", tmp_path / "out")
    samples = samples_in(tmp_path / "out")
    kinds = ["wav", "flac", "ogg", "mp3"]
    assert [sample[kind] for sample, kind in zip(samples, kinds, strict=True)] == sounds
    assert [sample["cls"] for sample in samples] == [b"0", b"1", b"0", b"1"]


def test_faults_of_tables_are_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(image_bytes())
    (tmp_path / "b.txt").write_text("no sound")
    (tmp_path / "c.wav").write_bytes(sound_bytes())
    (tmp_path / "t.csv").write_text("audio,caption\na.jpg,one\nb.txt,two\nc.wav,three\n")
    with pytest.raises(FaultBudgetExceeded, match=r"column audio: expected a sound, got \.jpg"):
        pack(tmp_path / "t.csv", tmp_path / "out")
    report = pack(tmp_path / "t.csv", tmp_path / "out", max_bad_samples=2)
    assert report.num_samples == 1
    assert "nor a sound (flac, wav, ogg, opus, mp3)" in report.faults[1][1]


def test_output_of_audio2dataset(tmp_path):
    """Its folders have the layout of img2dataset, with sounds."""
    (tmp_path / "00000").mkdir()
    (tmp_path / "00000_stats.json").write_text("{}")
    for number, data in enumerate(files_of_each_kind().values()):
        name = ["a.wav", "b.flac", "c.ogg", "d.mp3"][number]
        (tmp_path / "00000" / name).write_bytes(data)
        (tmp_path / "00000" / f"{name[0]}.json").write_text(json.dumps({"caption": name}))
    pack(tmp_path, tmp_path / "out")
    samples = samples_in(tmp_path / "out")
    assert [json.loads(sample["json"])["caption"][0] for sample in samples] == list("abcd")


CLAP = {"text": ["a dog barks", "barking"], "tag": ["dog"], "original_data": {"title": "x"}}
AUDIOSET = {"text": "The sounds of dog and rain.", "labels": [2, 0], "video_id": "-0RWZT-miFs"}


def write_clap_shard(folder):
    path = folder / "0.tar"
    content = [{"flac": encoded(tone(1.5, 48_000), 48_000), "json": json.dumps(CLAP).encode()}]
    content += [{"flac": encoded(tone(0.5)), "json": json.dumps(AUDIOSET).encode()}]
    return write_shard(path, [(str(number), members) for number, members in enumerate(content)])


def test_shards_of_clap_and_audioset_are_read_as_they_are(tmp_path):
    write_clap_shard(tmp_path)
    clap, audioset = samples_in(tmp_path)
    pick = JsonFields({"text": 1.0})
    assert {candidate.text for candidate in pick.candidates(clap)} == set(CLAP["text"])
    assert [candidate.text for candidate in pick.candidates(audioset)] == [AUDIOSET["text"]]
    context = SampleContext(audioset, np.random.default_rng(0), None, b"", None, None)
    sample = MultiLabels(num_classes=3).add(Sample("0", None, None), context)
    assert sample.multi_labels.tolist() == [1, 0, 1]


def test_verify_and_stats_of_sounds(tmp_path):
    write_clap_shard(tmp_path)
    assert verify_shards(str(tmp_path)).faults == ()
    summary = collect_stats(str(tmp_path), OpenClipTokenizer(context_length=77)).summary()
    assert summary["sound_seconds"]["count"] == 2
    assert (summary["sound_seconds"]["min"], summary["sound_seconds"]["max"]) == (0.5, 1.5)
    assert summary["sound_sample_rates"] == {"8000": 1, "48000": 1}
    assert summary["sound_channels"] == {"1": 2}
    assert summary["image_width_pixels"] == {}


def test_an_mp3_without_a_count_is_no_fault(tmp_path):
    data = id3_tag(50_000) + without_count(encoded(tone(1.0, 16_000), 16_000, "MP3"))
    write_shard(tmp_path / "0.tar", [("0", {"mp3": data, "txt": b"tagged"})])
    assert verify_shards(str(tmp_path)).faults == ()
    stats = collect_stats(str(tmp_path), OpenClipTokenizer(context_length=77))
    assert stats.faults == []
    assert stats.seconds == []  # unknown without decoding
    assert stats.summary()["sound_sample_rates"] == {"16000": 1}


def test_broken_sounds_are_faults(tmp_path):
    flac = encoded(tone())
    members = [
        {"flac": flac[: len(flac) // 2], "txt": b"truncated"},
        {"mp3": b"no sound", "txt": b"none"},
        {"wav": b"", "txt": b"empty"},
        {"txt": b"neither"},
    ]
    write_shard(tmp_path / "0.tar", [(str(number), each) for number, each in enumerate(members)])
    report = verify_shards(str(tmp_path))
    reasons = [fault.reason for fault in report.faults]
    assert reasons[0].startswith("flac: flac sound is damaged")
    assert reasons[1].startswith("mp3: not a sound of a known format")
    assert reasons[2] == "wav: sound is empty (0 bytes)"
    assert reasons[3] == "no image or sound, only txt"
    stats = collect_stats(str(tmp_path), OpenClipTokenizer(context_length=77))
    assert [fault.key for fault in stats.faults] == ["1", "2"]  # headers only


@pytest.mark.parametrize("has_image", [True, False])
def test_sounds_beside_images_need_no_packages(tmp_path, monkeypatch, caplog, has_image):
    decode._reader_class.cache_clear()
    monkeypatch.setitem(sys.modules, "soundfile", None)
    image = {"jpg": image_bytes()} if has_image else {}
    members = {**image, "wav": sound_bytes(), "mp3": b"ID3", "txt": b"a dog"}
    write_shard(tmp_path / "0.tar", [("a", members), ("b", members)])

    def stats():
        return collect_stats(str(tmp_path), OpenClipTokenizer())

    def report():
        return verify_shards(str(tmp_path))

    for examine in (report, stats):
        caplog.clear()
        if has_image:
            assert list(examine().faults) == []
            assert caplog.text.count("4 sounds next to images were not examined") == 1
        else:
            with pytest.raises(ConfigError, match=r"pip install 'clipkit\[audio\]'"):
                examine()
    decode._reader_class.cache_clear()


def test_captions_are_read_without_the_sounds(tmp_path):
    write_shard(tmp_path / "0.tar", [("0", {"wav": sound_bytes(), "txt": b"a", "jpg": b"b"})])
    reader = ShardReader(ShardIndex.from_urls(str(tmp_path)))
    assert set(reader.read(0, leave_out=IMAGES_AND_SOUNDS).members) == {"txt"}
