"""``clipkit shards filter`` as a user runs it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from clipkit.cli.main import build_parser, main
from clipkit.cli.shards.filter import OPTIONS
from clipkit.curation.filters.named import FILTERS
from clipkit.data import OpenClipTokenizer, PairStream, SampleMask, ShardIndex, ShardReader
from clipkit.models import save_encoder
from tests.helpers.embedded_shards import embed_shards
from tests.helpers.embedding import encoder
from tests.helpers.factories import pair, write_shard, write_shards
from tests.helpers.html import parse


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shards").mkdir()
    first = [(str(n), pair(n)) for n in range(6)]
    second = [(f"copy{n}", pair(n)) for n in range(3)] + [("bad", {"jpg": b"no", "txt": b"x"})]
    write_shard(tmp_path / "shards" / "00000.tar", first)
    write_shard(tmp_path / "shards" / "00001.tar", second)
    embed_shards(tmp_path / "shards", tmp_path / "c")
    return tmp_path


def run(folder: Path, *words: str) -> int:
    return main(["shards", "filter", str(folder / "c"), "--output", str(folder / "m.npz"), *words])


def test_mask_summary_and_page(folder, capsys):
    status = run(
        folder, "--file-duplicates", "--max-per-class", "1", "--summary", str(folder / "s.json"),
        "--page", str(folder / "page"),
    )  # fmt: skip
    assert status == 0
    out = capsys.readouterr()
    assert "one of equal image files" in out.out
    mask = SampleMask.load(folder / "m.npz")
    mask.check(ShardIndex.from_urls(str(folder / "shards")))
    removed_by = mask.removed_by.tolist()
    assert [sorted((removed_by[n] == 2, removed_by[6 + n] == 2)) for n in range(3)] == [
        [False, True]
    ] * 3
    assert removed_by[9] == 1
    assert mask.filters[0] == "readable"
    assert f"{mask.num_kept} of 10 samples kept" in out.out
    summary = json.loads((folder / "s.json").read_text())
    assert summary["mask_fingerprint"] == mask.fingerprint
    assert [each["num_removed"] for each in summary["filters"]][:2] == [1, 3]
    parse((folder / "page" / "filter.html").read_text())


def test_filters_are_applied_in_the_written_order(folder):
    (folder / "f.yaml").write_text("- file_duplicates\n- min_side: 2\n")
    run(folder, "--min-side", "3", "--filters", str(folder / "f.yaml"), "--min-score", "-1")
    assert SampleMask.load(folder / "m.npz").filters == (
        "readable", "shorter side of at least 3 pixels", "one of equal image files",
        "shorter side of at least 2 pixels", "image-text score of at least -1",
    )  # fmt: skip
    run(folder, "--min-score", "-1", "--min-side", "3")
    assert SampleMask.load(folder / "m.npz").filters[1:] == (
        "image-text score of at least -1", "shorter side of at least 3 pixels",
    )  # fmt: skip


def test_two_runs_write_equal_files(folder):
    words = ("--image-duplicates", "--max-per-class", "1", "--embedding-duplicates", "0.99")
    run(folder, *words)
    first = (folder / "m.npz").read_bytes()
    run(folder, *words)
    assert (folder / "m.npz").read_bytes() == first


def test_moved_shards(folder, capsys):
    (folder / "shards").rename(folder / "moved")
    assert run(folder, "--file-duplicates", "--page", str(folder / "p.html")) == 0
    assert "are not on this machine" in capsys.readouterr().err
    mask = SampleMask.load(folder / "m.npz")
    mask.check(ShardIndex.from_urls(str(folder / "moved")))
    shown = "could not be read from the shards: {}."
    assert shown.format(1) not in (folder / "p.html").read_text()
    words = ("--shards", str(folder / "moved"), "--page", str(folder / "p.html"))
    assert run(folder, "--file-duplicates", *words) == 0
    assert "not on this machine" not in capsys.readouterr().err
    assert shown.format(1) in (folder / "p.html").read_text()  # the image that is none


@pytest.mark.parametrize(("words", "message"), [
    ((), "filters: expected at least one, such as --min-score 0.25"),
    (("--min-score", "0.9999999"), "expected filters that keep some samples, got none of 10"),
    (("--min-score", "high"), "min_score: expected a number, got 'high'"),
    (("--filters", "nowhere.yaml"), "nowhere.yaml: No such file"),
    (("--not-in", "nowhere"), "nowhere: expected a collection"),
    (("--predicate", "os:nothing"), "os has no function 'nothing'"),
    (("--file-duplicates", "--shards", "{folder}/elsewhere"), "other data|elsewhere"),
])  # fmt: skip
def test_errors_leave_no_mask(folder, words, message, capsys):
    words = [word.format(folder=folder) for word in words]
    assert run(folder, *words) == 2
    error = capsys.readouterr().err
    assert any(part in error for part in message.split("|")), error
    assert error.count("\n") == 1
    assert not (folder / "m.npz").exists()


def test_the_output_is_checked_first(folder, capsys):
    words = ["shards", "filter", str(folder / "c"), "--file-duplicates", "--output"]
    assert main([*words, str(folder / "mask.txt")]) == 2
    assert "--output: expected a file ending in .npz" in capsys.readouterr().err
    (folder / "taken.npz").mkdir()
    assert main([*words, str(folder / "taken.npz")]) == 2
    assert "--output: expected a file, got the folder" in capsys.readouterr().err


def test_every_filter_is_an_option():
    assert {option.name.replace("-", "_") for option in OPTIONS} == set(FILTERS)
    commands = build_parser()._subparsers._group_actions[0].choices["shards"]
    own = commands._subparsers._group_actions[0].choices["filter"]
    assert isinstance(own, argparse.ArgumentParser)
    assert "order in which they are written" in " ".join(own.format_help().split())


def test_a_predicate_of_the_current_folder(folder, monkeypatch):
    (folder / "rules_of_mine.py").write_text("def keep(row):\n    return row['row'] % 2 == 0\n")
    monkeypatch.chdir(folder)
    assert run(folder, "--predicate", "rules_of_mine:keep") == 0
    kept = np.flatnonzero(SampleMask.load(folder / "m.npz").kept)
    assert kept.tolist() == [0, 2, 4, 6, 8]


def test_from_shards_to_a_stream(tmp_path):
    """What `clipkit embed` wrote is filtered, and a stream has the samples that are kept."""
    write_shards(tmp_path / "shards", [5, 6])
    save_encoder(encoder(), tmp_path / "model")
    words = ["embed", str(tmp_path / "shards"), "--model", str(tmp_path / "model"), "--device"]
    assert main([*words, "cpu", "--num-workers", "0", "--output", str(tmp_path / "c")]) == 0
    entries = tmp_path / "entries.json"
    entries.write_text(json.dumps(["red", "green square", "blue", "yellow", "square"]))
    assert run(
        tmp_path, "--min-side", "4", "--scripts", "Latin", "--best-scores", "0.8",
        "--image-duplicates", "2", "--balance-metadata", str(entries), "100",
        "--page", str(tmp_path / "p.html"),
    ) == 0  # fmt: skip
    mask = SampleMask.load(tmp_path / "m.npz")
    assert 0 < mask.num_kept < 11
    index = ShardIndex.from_urls(str(tmp_path / "shards"))
    reader = ShardReader(index)
    kept = [reader.read(row).key for row in np.flatnonzero(mask.kept)]
    stream = PairStream(
        index.with_mask(mask), tokenizer=OpenClipTokenizer(), batch_size=1, image_size=16
    )
    assert sorted(key for batch in stream for key in batch.keys) == sorted(kept)
    assert "data:image/webp" in (tmp_path / "p.html").read_text()
