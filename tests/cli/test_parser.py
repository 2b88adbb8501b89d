"""The parser of runs is built once in a process, and no run leaves anything in it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from clipkit.cli.fit import parser
from clipkit.cli.main import main
from tests.helpers import tiny

SAVER = {"class_path": "clipkit.training.callbacks.SaveCheckpoint"}


def printed(words, capsys) -> str:
    capsys.readouterr()
    assert main(["fit", *words, "--print_config"]) == 0
    return capsys.readouterr().out


def test_a_run_is_parsed_as_by_a_new_parser(tmp_path, capsys):
    words = tiny.words(tmp_path, tmp_path / "run")
    parser.forget("fit")
    expected = printed(words, capsys)
    built = parser._BUILT["fit"]["parser"]
    other = [f"--trainer.callbacks+={json.dumps(SAVER)}", "--data.seed=7", "--model.optimizer.lr=9"]
    assert main(["fit", *words, *other, "--preflight_only"]) == 2  # there are no shards
    assert printed(words, capsys) == expected
    assert parser._BUILT["fit"]["parser"] is built


@pytest.mark.parametrize("wrong", ["--data.seed=x", "--model.optimizer.lrr=1"])
def test_an_error_leaves_nothing_to_print(tmp_path, capsys, wrong):
    words = tiny.words(tmp_path, tmp_path / "run")
    assert main(["fit", *words, "--print_config", wrong]) == 2
    capsys.readouterr()
    assert main(["fit", *words]) == 2  # there are no shards
    said = capsys.readouterr()
    assert "class_path" not in said.out
    assert f"{tmp_path}/train" in said.err


def test_attributes_of_the_first_are_those_of_the_second():
    first, second, calls = SimpleNamespace(kept="own"), SimpleNamespace(kept="own"), []

    def build():
        calls.append(1)
        first.parser = object()

    for cli in (first, second):
        parser.build_once(cli, "of a test", build)
    parser.forget("of a test")
    assert calls == [1]
    assert second.parser is first.parser
