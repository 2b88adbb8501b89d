"""``clipkit search query`` and ``build`` from their arguments to tables, files and pages."""

import argparse
import csv
import json

import numpy as np
import pytest
import torch

from clipkit.cli.main import main
from clipkit.cli.search.query import _chosen
from clipkit.collection import Collection
from clipkit.models import CrossAttentionFusion, load_model, save_encoder, with_fusion
from clipkit.models.inputs import tokenizer_of, transform_of
from tests.helpers import tiny
from tests.helpers.evaluation_data import write_layout


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A collection that ``clipkit embed`` wrote, with its model and shards."""
    folder = tmp_path_factory.mktemp("search")
    save_encoder(tiny.encoder(), folder / "model")
    write_layout(folder / "set", (5, 4, 3))
    words = [str(folder / "set"), "--model", str(folder / "model"), "--num-workers", "0"]
    assert main(["embed", *words, "--device", "cpu", "--output", str(folder / "out")]) == 0
    images = Collection(folder / "out")
    (folder / "query.jpg").write_bytes(_image(images, 4))
    return folder


def _image(collection, row):
    from clipkit.collection import CollectionImages

    return CollectionImages(collection).read(row)


def query(world, *words: str) -> int:
    return main(["search", "query", str(world / "out"), *words, "--device", "cpu"])


def test_an_image_file_finds_itself(world, tmp_path, capsys):
    output = tmp_path / "found.json"
    assert query(world, "--image", str(world / "query.jpg"), "--output", str(output)) == 0
    found = json.loads(output.read_text())
    assert (found[0]["row"], round(found[0]["score"], 2)) == (4, 1.0)
    assert len(found) == 12
    assert capsys.readouterr().out == f"12 images: {output}\n"


def test_parts_with_weights_are_the_documented_sum(world, tmp_path):
    output = tmp_path / "found.json"
    words = ["at night", "--weight", "0.5", "--row", "3", "--without", "people", "--weight", "2"]
    assert query(world, *words, "--num-results", "20", "--output", str(output)) == 0
    encoder = load_model(world / "model", "cpu").encoder
    night, people = encoder.encode(["at night", "people"]).texts.numpy()
    rows = Collection(world / "out").images(np.arange(12)).astype(np.float64)
    vector = 0.5 * night + rows[3] / np.linalg.norm(rows[3]) - 2 * people
    scores = rows @ vector / np.linalg.norm(vector)
    expected = [row for row in np.argsort(-scores).tolist() if row != 3]
    found = json.loads(output.read_text())
    np.testing.assert_allclose([each["score"] for each in found], scores[expected], atol=1e-5)


def test_a_table_for_the_terminal(world, capsys):
    assert query(world, "a dog", "--where", "width_pixels>=1", "--num-results", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Score" in lines[1]
    assert len(lines) == 6


def test_csv_and_page(world, tmp_path, capsys):
    words = ["--row", "2", "--output", f"{tmp_path}/a.csv", "--html", f"{tmp_path}/a.html"]
    assert query(world, *words) == 0
    with (tmp_path / "a.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 11
    page = (tmp_path / "a.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 11
    assert "image cannot be read" not in page
    assert f"page: {tmp_path}/a.html" in capsys.readouterr().out


def test_near_duplicates_of_all_and_of_one(world, tmp_path, capsys):
    words = ["--near-duplicates", "--min-score", "0.3", "--html", f"{tmp_path}/a.html"]
    assert query(world, *words, "--output", f"{tmp_path}/a.json") == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert {each["group"] for each in found} == set(range(len({e["group"] for e in found})))
    assert "groups of near duplicates" in capsys.readouterr().out
    assert '<h3 dir="auto">' in (tmp_path / "a.html").read_text()
    assert query(world, "--near-duplicates", "--row", "0", "--output", f"{tmp_path}/b.json") == 0
    assert all(each["score"] >= 0.95 for each in json.loads((tmp_path / "b.json").read_text()))


def test_an_index_is_built_on_request_and_used(world, capsys):
    assert main(["search", "build", str(world / "out")]) == 0
    assert "12 images: exact search needs no index" in capsys.readouterr().out
    assert not (world / "out" / "index").exists()
    words = ["--factory", "IVF2,SQ8", "--num-probes", "2"]
    assert main(["search", "build", str(world / "out"), *words]) == 0
    line = capsys.readouterr().out
    assert line.startswith("IVF2,SQ8, 2 lists per query: recall@10 1.000 for images, 1.000 for")
    assert query(world, "a dog") == 0
    with_index = capsys.readouterr().out
    assert query(world, "a dog", "--exact") == 0
    assert capsys.readouterr().out == with_index


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected a TEXT, --text, --image, --sound or --row"),
        (["--weight", "2"], "expected a part of the query before it"),
        (["a", "--where", "size>3"], "the collection has no column 'size'"),
        (["a", "--output", "a.txt"], "ends in .json or .csv"),
        (["--image", "none.jpg"], "none.jpg cannot be read: No such file"),
        (["--row", "12"], "row 12: expected 0 to 11"),
        (["a", "--model", "none.ckpt"], "none.ckpt"),
        (["--near-duplicates", "--min-score", "2"], "min_score: expected"),
        (["a", "--without", "a"], "cancel each other"),
        (["a", "--num-results", "0"], "num_results, offset"),
    ],
)
def test_errors_are_one_line(world, capsys, monkeypatch, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    assert query(world, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("clipkit: error: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--row", "-1"], ["--row", "a"], ["a", "--weight", "-1"]])
def test_wrong_values_are_refused_by_the_parser(world, capsys, words):
    with pytest.raises(SystemExit, match="2"):
        query(world, *words)
    assert "expected" in capsys.readouterr().err


@pytest.fixture(scope="module")
def joint(world):
    """A joint encoder with other towers than the collection's model."""
    torch.manual_seed(1)
    encoder = with_fusion(tiny.encoder(), CrossAttentionFusion(16, 1, 2))
    save_encoder(encoder, world / "joint")
    return encoder.eval()


@torch.no_grad()
def test_the_best_images_are_reranked(world, joint, tmp_path, capsys):
    words = ["a red square", "--num-results", "6", "--output"]
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    assert query(world, *words, str(before)) == 0
    page = tmp_path / "page.html"
    more = ["--rerank", "4", "--reranker", str(world / "joint"), "--html", str(page)]
    assert query(world, *words, str(after), *more) == 0
    rows, reranked = ([each["row"] for each in json.loads(p.read_text())] for p in (before, after))
    assert reranked[4:] == rows[4:]
    assert "re-ranked 4 images in" in capsys.readouterr().err
    text = page.read_text()
    assert "The 6 most similar, of which the first 4 are in the order in which a joint" in text
    text = joint.read_text(tokenizer_of(joint.text_tower)(["a red square"]))
    scores = {}
    for row in rows[:4]:
        pixels = transform_of(joint.image_tower).of_file(_image(Collection(world / "out"), row))
        image = joint.read_image(pixels[None])
        fused = joint.fuse({"image": image.tokens, "text": text.tokens})
        cosine = image.embedding[0] @ text.embedding[0]
        scores[row] = float(joint.match(fused.pooled) + joint.logit_scale * cosine)
    assert reranked[:4] == sorted(scores, key=lambda row: -scores[row])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--row", "1", "--rerank", "4"], "--rerank: expected a query of one text"),
        (["a dog", "--rerank", "0"], "--rerank: expected at least 1, got 0"),
        (["a dog", "--reranker", "x"], "--reranker: expected --rerank K"),
        (["a dog", "--rerank", "3"], "expected a joint encoder, got a DualEncoder"),
    ],
)
def test_what_cannot_be_reranked_is_one_line(world, capsys, words, message):
    assert query(world, *words) == 2
    assert message in capsys.readouterr().err


def test_scores_that_are_not_finite_are_refused(world, joint, capsys, monkeypatch):
    from clipkit.search.reranking import hits

    def broken(joint, images, texts, pairs, **_):
        return torch.full((len(pairs),), torch.nan)

    monkeypatch.setattr(hits, "pair_scores", broken)
    assert query(world, "a dog", "--rerank", "2", "--reranker", str(world / "joint")) == 2
    assert "rerank: expected finite scores from the joint encoder" in capsys.readouterr().err


def test_a_page_names_its_order():
    given = argparse.Namespace(rerank=None)
    assert _chosen(3, 3, given) == "The 3 most similar"
    given.rerank = 5
    assert _chosen(3, 5, given).startswith("The first 3 of the 5 most similar, in the order")
