"""Texts of data never reach the terminal as its commands, whichever command prints them."""

import json
import unicodedata
from pathlib import Path

import pytest

import clipkit.cli
from clipkit.cli.main import main
from clipkit.cli.printing import cell, say
from clipkit.errors import DataError, SampleError
from clipkit.models import save_encoder
from tests.helpers import tiny
from tests.helpers.collections import set_column
from tests.helpers.factories import pair, write_shard

HOSTILE = "a dog\x1b[2J\x1b]0;title\x07\x9b31m\x7f\r\u202e [red]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A collection whose captions, keys and class names are commands of terminals."""
    folder = tmp_path_factory.mktemp("hostile")
    save_encoder(tiny.encoder(), folder / "model")
    members = [{**pair(n), "txt": HOSTILE.encode(), "cls": b"0"} for n in range(4)]
    members.append({"jpg": HOSTILE.encode(), "txt": b"x"})
    samples = [(f"{n}", each) for n, each in enumerate(members)]
    write_shard(folder / "data" / "00000.tar", samples)
    (folder / "data" / "classnames.txt").write_text("class\x1b[2J\u202e\n")
    words = ["--model", str(folder / "model"), "--num-workers", "0", "--max-bad-fraction", "0.5"]
    assert main(["embed", str(folder / "data"), *words, "--output", str(folder / "out")]) == 0
    set_column(folder / "out", "00000", "key", [f"key{n}\x1b[2J" for n in range(5)])
    return folder


def controls(text: str) -> set[str]:
    """Characters that a terminal obeys."""
    kinds = {each: unicodedata.category(each) for each in set(text) - {"\n"}}
    return {each for each, kind in kinds.items() if kind == "Cc" or each == "\u202e"}


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["search", "query", "{}/out", "--row", "0"], "a dog\\u001b[2J"),
        (["search", "query", "{}/out", "a", "--where", "key=\x1b[2J"], "Score"),
        (["shards", "stats", "{}/data", "--embeddings", "{}/out", "--num-workers", "1"], "\\u009b"),
        (["shards", "filter", "{}/out", "--max-per-class", "2", "--output", "{}/m.npz"], "kept"),
        (["search", "query", "{}/out", "--row", "0", "--where", "\x1b[2J=1"], ""),
        (["search", "query", "{}/none\x1b[2J", "a"], ""),
        (["shards", "filter", "{}/out\x1b[2J", "--min-side", "2", "--output", "{}/m.npz"], ""),
    ],
)
def test_no_command_prints_controls(words, shown, folder, capfd):
    main([word.replace("{}", str(folder)) for word in words])
    out, errors = capfd.readouterr()
    assert shown in out + errors
    assert out + errors
    assert controls(out + errors) == set()
    if words[1] == "stats":
        json.loads(out)


def test_errors_and_reasons_are_one_line_without_controls(monkeypatch, capsys):
    assert controls(str(SampleError(HOSTILE, key="a"))) == set()
    assert SampleError(HOSTILE).reason.startswith("a dog\\u001b[2J")

    def fails():
        raise DataError(f"a.tar: {HOSTILE}")

    monkeypatch.setattr("clipkit.cli.main.build_parser", fails)
    assert main(["runs", "list"]) == 2
    printed = capsys.readouterr().err
    assert controls(printed) == set()
    assert printed.count("\n") == 1


def test_other_characters_stay(capsys):
    text = "Grüße 👩‍💻 日本　語 می‌خواهم\na second line"
    say(text)
    assert capsys.readouterr().out == f"{text}\n"
    assert cell("[b]a\tb") == "\\[b]a\\tb"


def test_tables_are_filled_by_the_function_that_escapes():
    files = Path(clipkit.cli.__file__).parent.rglob("*.py")
    users = {path.name for path in files if "rich.markup" in path.read_text(encoding="utf-8")}
    assert users == {"printing.py"}
