"""``clipkit evaluate --suite`` from its arguments to its status."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipkit.cli.main import main
from clipkit.models import save_encoder
from tests.helpers.evaluation_data import tiny_encoder, write_layout


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    save_encoder(tiny_encoder(), tmp_path / "a")
    write_layout(tmp_path / "data" / "wds_x-pairs", (5,))
    text = "root: nowhere/{name}\ndatasets: [wds/x/pairs, {name: gone, data: gone, language: de}]\n"
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(*words: str) -> int:
    return main(["evaluate", "--device", "cpu", *words])


SUITE = ("--suite", "mine.yaml", "--data-root", "data/wds_{name}", "--output", "out")


def test_the_status_reports_failures_by_name(folder, capsys):
    status = evaluate("--model", "a", "--model", "b.ckpt", *SUITE, "--embedding-cache", "cache")

    out = capsys.readouterr().out
    assert status == 1
    assert "a on wds/x/pairs: text_to_image/recall_at_1 " in out
    assert "failed: a on gone (de): " in out
    assert "failed: b.ckpt on wds/x/pairs: the model cannot be loaded: b.ckpt: no such file" in out
    assert "1 results measured, 0 kept, 3 failed: out/results.csv" in out
    assert list(Path("cache").rglob("*.npz"))
    assert Path("out/x_pairs_a_clipkit_en_zeroshot_retrieval.json").is_file()

    assert evaluate("--model", "a", *SUITE, "--language", "en") == 0
    assert "0 results measured, 1 kept, 0 failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "a", *SUITE, "--data", "x"), "--data: cannot be used here: the data sets of"),
        (("--model", "a", *SUITE, "--task", "zero-shot"), "--task: cannot be used here"),
        (("--model", "a", *SUITE, "--modality", "sound"), "--modality: cannot be used here"),
        (("--model", "a", *SUITE, "--split", "train"), "--split: cannot be used here"),
        (("--model", "a", *SUITE, "--templates", "clap"), "--templates: cannot be used here"),
        (("--model", "a", *SUITE, "--shots", "1"), "--shots: cannot be used here"),
        (("--model", "a", "--suite", "mine.yaml"), "--output: expected a folder"),
        (("--model", "a", *SUITE, "--language", "fr"), "got 'fr'"),
        (("--model", "a", "--suite", "retrievel", "--output", "o"), "did you mean 'retrieval'?"),
        (("--model", "a"), "--data: expected evaluation data, or --suite"),
        (("--model", "a", "--data", "x", "--language", "de"), "--language: cannot be used here"),
        (("--model", "a", "--model", "b", "--data", "x"), "several models need --suite"),
        (("--model", "a", *SUITE[:4], "--output", "mine.yaml"), "--output: expected a folder"),
    ],
)
def test_what_does_not_fit_together_is_refused(folder, capsys, words, message):
    assert evaluate(*words) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


def test_embeddings_are_kept_without_a_suite(folder):
    words = ("--model", "a", "--data", "data/wds_x-pairs", "--embedding-cache", "cache")
    assert evaluate(*words) == evaluate(*words) == 0
    assert len(list(Path("cache").rglob("*.npz"))) == 2
