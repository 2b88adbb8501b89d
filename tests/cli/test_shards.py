"""``clipkit shards`` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clipkit.cli.main import main
from clipkit.curation.overview.stats_page import render_page
from tests.helpers.data_pages import full_data_page
from tests.helpers.embedded_shards import embed_shards
from tests.helpers.factories import image_bytes, pair, write_shard, write_shards
from tests.helpers.html import parse
from tests.helpers.report_content import HOSTILE


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(tmp_path / "shards", [3, 4])
    return tmp_path / "shards"


def with_broken_samples(folder: Path) -> Path:
    good = pair(0)
    samples = [
        ("good", good),
        ("halfimage", {**good, "jpg": good["jpg"][:500]}),
        ("emptytext", {**good, "txt": b" "}),
        ("latin", {**good, "txt": b"caf\xe9"}),
        ("nojson", {**good, "json": b"{"}),
        ("badlabel", {**good, "cls": b"dog"}),
        ("noimage", {"txt": b"words"}),
        ("nocaption", {"jpg": good["jpg"]}),
        ("two", {**good, "jpg": b"", "cls": b"-3"}),
    ]
    write_shard(folder / "00002.tar", samples)
    return folder


def test_pack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "tree" / "red"
    folder.mkdir(parents=True)
    for number in range(5):
        (folder / f"{number}.jpg").write_bytes(image_bytes(seed=number))
    words = ["shards", "pack", str(tmp_path / "tree"), str(tmp_path / "out")]
    assert main([*words, "--samples-per-shard", "2", "--image-size", "16"]) == 0
    assert "5 samples in 3 shards" in capsys.readouterr().err
    assert len(list((tmp_path / "out").glob("*.tar"))) == 3
    assert main(["shards", "verify", str(tmp_path / "out")]) == 0
    assert main(words) == 2  # other options
    assert "choose another folder" in capsys.readouterr().err


def test_pack_in_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "t.csv"
    table.write_text("image,class_name\n0.jpg,cat\n1.jpg,dog\n2.jpg,cat\n")
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(image_bytes(seed=number))
    out = str(tmp_path / "out")
    words = ["shards", "pack", str(table), out, "--samples-per-shard", "1"]
    assert main([*words, "--part", "2/2"]) == 0
    assert "part 2/2: 2 samples in 2 shards in" in (said := capsys.readouterr().err)
    assert "1 of 2 parts to go" in said
    assert main(["shards", "index", out]) == 2
    assert "parts that are not packed yet: 1; run" in capsys.readouterr().err
    assert main([*words, "--part", "1/2"]) == 0
    assert "all parts are complete" in capsys.readouterr().err
    (tmp_path / "out" / "sizes.json").unlink()  # as if two parts had ended in the same moment
    assert main(["shards", "index", out]) == 0
    assert "3 samples in 3 shards" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "sizes.json").read_text())["00002.tar"] == 1
    assert main([*words, "--part", "3/2"]) == 2
    assert "part: expected 1/N to N/N, got 3/2" in capsys.readouterr().err
    assert main(["shards", "pack", out, str(tmp_path / "two"), "--part", "1/2"]) == 2
    assert "got shards, which are parts already" in capsys.readouterr().err


def test_index(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "index", str(shards)]) == 0
    assert "7 samples in 2 shards" in capsys.readouterr().err
    assert (shards / "00001.tar.index.npz").exists()
    (shards / "00001.tar").write_bytes((shards / "00001.tar").read_bytes()[:3000])
    assert main(["shards", "index", str(shards)]) == 2
    assert main(["shards", "index", str(shards), "--max-bad-shards", "1"]) == 0
    assert "skipped: " in capsys.readouterr().err


def test_verify_finds_nothing_in_good_shards(
    shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", "verify", str(shards), "--num-workers", "2"]) == 0
    assert "7 samples in 2 shards read, 0 faults" in capsys.readouterr().err


def test_verify_names_everything_that_is_broken(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_broken_samples(shards)
    damaged = shards / "00001.tar"
    assert main(["shards", "index", str(shards)]) == 0
    data = bytearray(damaged.read_bytes())
    data[0] ^= 1  # the index file beside it still calls it good
    damaged.write_bytes(bytes(data))
    output = tmp_path / "found.json"
    assert main(["shards", "verify", str(shards), "--output", str(output)]) == 1
    found = json.loads(output.read_text())
    assert found["num_shards"] == 3
    assert found["num_samples"] == 3 + 9
    reasons = [(fault["key"], fault["reason"]) for fault in found["faults"]]
    assert reasons[0][0] == ""
    assert str(damaged) in reasons[0][1]
    expected = [
        ("halfimage", "jpg: "),
        ("emptytext", "txt: caption is empty"),
        ("latin", "txt: member 'txt' is not UTF-8"),
        ("nojson", "json: member 'json' is not JSON"),
        ("badlabel", "cls: label cls: expected an integer"),
        ("noimage", "no image or sound, only txt"),
        ("nocaption", "no caption, only jpg"),
        ("two", "jpg: image is empty"),
        ("two", "cls: label cls: expected at least 0"),
    ]
    assert len(reasons) == 1 + len(expected)
    for (key, reason), (wanted_key, start) in zip(reasons[1:], expected, strict=True):
        assert key == wanted_key
        assert reason.startswith(start)
    assert f"broken: {shards / '00002.tar'}: latin: txt:" in capsys.readouterr().err


def test_stats(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = pair(0, label=False) | {"txt": b"a\nlonger caption here"}
    write_shard(shards / "00002.tar", [("000001", again)])
    output = tmp_path / "page"
    assert main(["shards", "stats", str(shards), "--output", str(output)]) == 0
    stats = json.loads((output / "stats.json").read_text())
    assert json.loads(capsys.readouterr().out) == stats
    assert stats["num_samples"] == 8
    assert stats["num_bytes"] > 8 * 500
    assert stats["image_width_pixels"]["max"] == 40
    assert stats["image_height_pixels"]["median"] == 32
    assert stats["caption_tokens"]["count"] == 9
    assert stats["caption_tokens"]["min"] == 3  # start, "a", end
    assert stats["labelled_share"] == 7 / 8
    assert stats["labels"] == {"0": 2, "1": 2, "2": 2, "3": 1}
    assert stats["num_duplicate_keys"] == 1
    assert stats["duplicate_keys"] == {"000001": 2}
    assert stats["num_faults"] == 0


def test_stats_of_an_embedded_collection(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = embed_shards(shards, tmp_path / "embedded")
    output = tmp_path / "page"
    words = ["shards", "stats", str(shards), "--embeddings", str(folder), "--num-clusters", "3"]
    assert main([*words, "--output", str(output)]) == 0
    stats = json.loads((output / "stats.json").read_text())
    assert json.loads(capsys.readouterr().out) == stats
    assert stats["num_samples"] == stats["collection"]["num_samples"] == 7
    assert sum(cluster["size"] for cluster in stats["collection"]["clusters"]) == 7
    page = (output / "stats.html").read_text()
    assert page.count("data:image/webp;base64,") > 7
    assert [name for name in parse(page).ids if not name.startswith(("tab", "panel"))] == [
        "main", "overview", "clusters", "scores", "mismatched", "duplicates", "captions",
        "numbers", "histograms", "tip",
    ]  # fmt: skip


def test_stats_refuse_a_collection_of_other_shards(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = embed_shards(shards, tmp_path / "embedded")
    words = ["shards", "stats", str(shards), "--embeddings", str(folder)]
    assert main(["shards", "stats", str(shards / "00000.tar"), *words[3:]]) == 2
    assert "embedded: expected the 2 shards that were embedded" in capsys.readouterr().err
    write_shard(shards / "00001.tar", [("000001", pair(1))])
    assert main(words) == 2
    assert "00001.tar: expected 4 samples, got 1" in capsys.readouterr().err
    assert main(["shards", "stats", str(shards), "--embeddings", str(tmp_path / "nope")]) == 2
    assert "expected a collection that `clipkit embed` wrote" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "8"])
def test_numbers_of_clusters_that_cannot_be(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: str
) -> None:
    words = ["shards", "stats", str(shards), "--num-clusters", number]
    assert main(words) == 2
    assert "--num-clusters: expected --embeddings DIR with it" in capsys.readouterr().err
    folder = embed_shards(shards, tmp_path / "embedded")
    assert main([*words, "--embeddings", str(folder)]) == 2
    assert "num_clusters: expected 1 to 7, the number of images" in capsys.readouterr().err


def test_the_data_page_escapes_captions() -> None:
    page = full_data_page()
    parsed = parse(page)
    assert parsed.tags.count("script") == 1
    assert HOSTILE not in page
    assert HOSTILE in parsed.text
    assert parsed.tags.count("article") == 14 + 3 + 1


@pytest.mark.parametrize("command", ["index", "verify", "stats"])
def test_statuses_of_what_is_absent_or_empty(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name in ("nope", "nope.tar", "empty.tar", "folder", "*.tar.gz"):
        assert main(["shards", command, str(tmp_path / name)]) in (1, 2), name
        assert capsys.readouterr().err.count(name.removeprefix("*")) >= 1


def test_stats_of_which_a_part_is_missing(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", "stats", str(shards), str(tmp_path / "nope.tar")]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["num_samples"] == 7
    assert "nope.tar: no such file" in captured.err


def test_the_page_is_complete_and_self_contained() -> None:
    hostile = "<script>alert(1)</script> {{ 7 * 7 }}"
    page = render_page(
        {"num_samples": 1234, "labels": {hostile: 1}, hostile: hostile},
        {f"Widths {hostile}": [1, 2, 2, 9], hostile: []},
    )
    parsed = parse(page)
    assert parsed.ids == ["main", "numbers", "histograms", "tip"]
    assert parsed.tags.count("figure") == 1
    assert parsed.tags.count("polygon") == 9
    assert parsed.tags.count("script") == 1
    assert "num samples" in parsed.text
    assert "1,234" in parsed.text
    assert f"{hostile}: 1" in parsed.text
    assert f"No values: {hostile}." in parsed.text
    assert "src=" not in page


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "verify", str(tmp_path / "*.tar")]) == 2
    assert main(["shards", "stats", str(tmp_path), "--tokenizer", "nonsense"]) == 2
    write_shards(tmp_path, [1])
    assert main(["shards", "verify", str(tmp_path), "--num-workers", "0"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3
    assert all(line.startswith("clipkit: error: ") for line in lines)


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from clipkit.cli.main import main\n"
        "try: main(['shards', 'pack', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--samples-per-shard" in done.stdout
