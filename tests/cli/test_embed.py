"""``clipkit embed`` from its arguments to its files and lines."""

from __future__ import annotations

import numpy as np
import pytest

from clipkit.cli.main import main
from clipkit.collection import Collection, read_info
from clipkit.models import save_encoder
from tests.helpers.embedding import arrays, contents, encoder, oracle
from tests.helpers.evaluation_data import sample, write_layout
from tests.helpers.factories import write_shard


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embed")
    save_encoder(encoder(), folder / "model")
    write_layout(folder / "set", (5, 4, 3))
    return folder


def embed(folder, output, *words: str, source: tuple[str, ...] | None = None) -> int:
    source = (str(folder / "set"),) if source is None else source
    model = ["--model", str(folder / "model"), "--device", "cpu", "--num-workers", "0"]
    return main(["embed", *source, *model, "--output", str(output), *words])


def test_files_of_all_shards(folder, tmp_path, capsys):
    output = tmp_path / "deep" / "out"
    assert embed(folder, output, "--columns", "cls", "txt") == 0
    expected = "12 images and 24 texts of 3 shards embedded, 0 shards were complete"
    assert capsys.readouterr().out == f"{expected}: {output}\n"
    pairs = oracle(folder / "set")
    np.testing.assert_allclose(arrays(output, "images"), pairs.images.numpy(), atol=3e-4)
    info = read_info(output)
    assert (info.model, info.columns) == (str(folder / "model"), ("cls", "txt"))
    assert info.versions["torch"]
    assert Collection(output).table(["txt"]).column("txt")[0].as_py() == pairs.captions[0]


def test_the_same_command_continues(folder, tmp_path, capsys):
    embed(folder, tmp_path / "all")
    for part in ("2/2", "1/2"):
        assert embed(folder, tmp_path / "out", "--part", part) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "2 shards of other parts are missing"
    assert "2 shards embedded, 0 shards were complete" in lines[3]
    assert embed(folder, tmp_path / "out") == 0
    assert "0 images and 0 texts of 0 shards embedded, 3 shards were" in capsys.readouterr().out
    assert contents(tmp_path / "out") == contents(tmp_path / "all")


def test_a_script_of_the_previous_version_names_data(folder, tmp_path):
    assert embed(folder, tmp_path / "out", source=("--data", str(folder / "set"))) == 0


@pytest.mark.parametrize("source", [(), ("{set}", "--data", "{set}")])
def test_one_source_is_expected(folder, tmp_path, capsys, source):
    words = tuple(word.format(set=folder / "set") for word in source)
    assert embed(folder, tmp_path / "out", source=words) == 2
    assert "SOURCE: expected one source of the data, got " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--part", "3/2"), "part: expected 1/N to N/N, got 3/2"),
        (("--part", "x"), "part: expected I/N, such as 1/8, got 'x'"),
        (("--columns", "key"), "columns: expected different fields"),
        (("--limit", "0"), "limit: expected at least 1, got 0"),
        (("--max-bad-fraction", "2"), "max_bad_fraction: expected 0 to 1, got 2.0"),
        (("--max-bad-shards", "-1"), "max_bad_shards: expected at least 0, got -1"),
        (("--num-workers", "-1"), "num_workers: expected at least 0, got -1"),
        (("--split", "val"), "has no split 'val'"),
    ],
)
def test_wrong_options_write_nothing(folder, tmp_path, capsys, words, message):
    assert embed(folder, tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_as_output_is_refused(folder, tmp_path, capsys):
    (tmp_path / "out").write_text("work of years")
    assert embed(folder, tmp_path / "out") == 2
    assert "--output: expected a folder, got the file" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "work of years"


def test_bad_samples_and_shards_are_reported(folder, tmp_path, capsys):
    bad = {"jpg": b"x"}
    for number, members in enumerate(([bad, sample(1)], [bad, bad, bad])):
        samples = [(f"s{n}", each) for n, each in enumerate(members)]
        write_shard(tmp_path / "set" / f"{number}.tar", samples)
    words = ("--max-bad-fraction", "0.5", "--max-bad-shards", "1")
    status = embed(folder, tmp_path / "out", *words, source=(str(tmp_path / "set"),))
    captured = capsys.readouterr()
    assert status == 1
    assert "1 samples have no embedding, or not all; the column 'error'" in captured.out
    assert "not embedded: " in captured.err
    assert "1.tar: more than 2 bad samples of 3" in captured.err


def test_a_truncated_shard_is_refused_before_the_work(folder, tmp_path, capsys):
    write_layout(tmp_path / "set", (5, 4))
    shard = tmp_path / "set" / "test" / "1.tar"
    shard.write_bytes(shard.read_bytes()[:9000])
    assert embed(folder, tmp_path / "out", source=(str(tmp_path / "set"),)) == 2
    assert "1.tar: truncated" in capsys.readouterr().err
