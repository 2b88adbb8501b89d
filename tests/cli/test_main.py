"""The command's frame: quick help, one line an error."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from clipkit.cli.main import build_parser, main
from clipkit.errors import ConfigError
from clipkit.suggestions import one_line

SUBCOMMANDS = (
    "demo", "fit", "validate", "test", "predict", "tune", "evaluate", "embed", "explain",
    "export",
    "consolidate", "shards",
)  # fmt: skip


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clipkit.cli.main", *words], capture_output=True, text=True
    )


def modules_after(*words: str) -> set[str]:
    """The modules that are loaded once the command has run."""
    code = (
        "import sys\nfrom clipkit.cli.main import main\n"
        f"try:\n    main({list(words)!r})\nexcept SystemExit:\n    pass\n"
        "print('MODULES', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rsplit("MODULES", 1)[1].split())


HELP = (*((name, "--help") for name in SUBCOMMANDS), ("shards", "filter", "--help"))


@pytest.mark.parametrize("words", [("--help",), *HELP])
def test_help_imports_no_heavy_library(words):
    heavy = {
        "torch",
        "lightning",
        "jsonargparse",
        "open_clip",
        "transformers",
        "numpy",
        "webdataset",
        "optuna",
    }
    assert not heavy & modules_after(*words)


def test_help_lists_every_subcommand():
    done = run("--help")
    assert done.returncode == 0
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("    ")}
    assert set(SUBCOMMANDS) <= listed


@pytest.mark.parametrize("name", ["fit", "validate", "test", "predict"])
def test_help_of_lightning_subcommands_names_the_ways_to_more(name, capsys):
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    for word in ("-c, --config", "--print_config", "--help_all", "--ckpt_path", "encoder.help"):
        assert word in text
    assert f"clipkit {name} -c" in text


def test_clipkit_error_is_one_line_with_status_2(monkeypatch, capsys):
    def fail(words):
        raise ConfigError("data.train: expected shards, got none")

    monkeypatch.setattr("clipkit.cli.fit.command.run", fail)
    assert main(["fit", "-c", "x.yaml"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "clipkit: error: data.train: expected shards, got none\n"
    assert captured.out == ""


def test_error_names_the_option_as_it_was_typed(tmp_path, capsys):
    (tmp_path / "taken").touch()
    words = ["--model", "ViT-B-32", "--output", str(tmp_path / "taken")]
    assert main(["export", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("clipkit: error: --output: expected a folder")


def test_lines_and_bullets_become_one_line():
    text = "  --a: wrong:\n  - one\n\n\t- --b is missing\n"
    assert one_line(text) == "--a: wrong: one; --b is missing"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (PermissionError(13, "Permission denied", "/x/y"), "/x/y: Permission denied"),
    ],
)
def test_what_the_system_refuses_is_one_line_with_status_2(monkeypatch, capsys, error, line):
    def fail(words):
        raise error

    monkeypatch.setattr("clipkit.cli.fit.command.run", fail)
    assert main(["fit", "-c", "x.yaml"]) == 2
    assert capsys.readouterr().err == f"clipkit: error: {line}\n"


def test_names_that_are_not_utf8_can_be_printed(tmp_path):
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    code = (
        "import os; from clipkit.cli.main import main; main(['shards', 'index', '.']); "
        "print(os.getcwd())"
    )
    words = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(words, capture_output=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"caf\\udce9" in done.stdout


def test_other_errors_keep_their_traceback(monkeypatch):
    def fail(words):
        raise RuntimeError("a bug")

    monkeypatch.setattr("clipkit.cli.fit.command.run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["fit", "-c", "x.yaml"])


@pytest.mark.parametrize(
    "words",
    [
        ("shards", "pack", "", "out"),
        ("shards", "verify", "a.tar", ""),
        ("evaluate", "--model", "m", "--data", ""),
        ("embed", "--model", "", "--data", "d", "--output", "o"),
        ("finetune", "--train", "", "--output", "o"),
        ("export", "--model", "m", "--output", ""),
    ],
)
def test_empty_paths_do_not_mean_the_current_folder(words, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(words)
    assert leaving.value.code == 2
    assert "got an empty text" in capsys.readouterr().err


def test_two_ends_of_options(capsys):
    assert main(["shards", "pack", "--", "--samples-per-shard", "--"]) == 2
    assert "'--' may be given once" in capsys.readouterr().err


def test_unknown_subcommand_is_refused():
    done = run("tarin")
    assert done.returncode == 2
    assert "tarin" in done.stderr


def test_version(capsys):
    with pytest.raises(SystemExit) as leaving:
        build_parser().parse_args(["--version"])
    assert leaving.value.code == 0
    assert capsys.readouterr().out.startswith("clipkit 0.")
