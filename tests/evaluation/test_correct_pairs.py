"""Several captions of an image, several images of a caption, and pairs of a file."""

from __future__ import annotations

import json

import pytest
import torch

from clipkit.cli.main import main
from clipkit.errors import DataError
from clipkit.evaluation import EmbedOptions, Retrieval, RetrievalOptions, embed_pairs, open_dataset
from clipkit.evaluation.correct_pairs import match_candidates
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.evaluation_data import picture, tiny_encoder
from tests.helpers.factories import write_shard

CAPTIONS = {
    "a": ["red", "a red square", "red"],
    "b": ["blue"],
    "c": ["red"],
    "d": ["blue", "a blue square"],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    samples = [
        (key, {"png": picture(number), "txt": "\n".join(texts).encode()})
        for number, (key, texts) in enumerate(CAPTIONS.items())
    ]
    write_shard(folder / "0.tar", samples)
    return folder


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder()


@pytest.fixture(scope="module")
def embedded(root, encoder):
    return embed_pairs(encoder, open_dataset(root), EmbedOptions())


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def named(candidates):
    return {
        (candidates.image_keys[image], candidates.text_keys[text])
        for image, text in candidates.pairs.tolist()
    }


def test_each_caption_has_its_image_only(embedded):
    candidates = match_candidates(embedded, RetrievalOptions())
    assert candidates.text_keys == ("a", "a#2", "a#3", "b", "c", "d", "d#2")
    assert named(candidates) == {(key[0], key) for key in candidates.text_keys}
    assert candidates.text_groups == ("a", "a", "a", "b", "c", "d", "d")


def test_equal_captions_are_one_text_of_several_images(embedded):
    candidates = match_candidates(embedded, RetrievalOptions(merge_captions=True))
    assert candidates.text_keys == ("a", "a#2", "b", "d#2")
    assert named(candidates) == {
        ("a", "a"), ("c", "a"), ("a", "a#2"), ("b", "b"), ("d", "b"), ("d", "d#2"),
    }  # fmt: skip
    for row, caption in zip(candidates.texts, ("red", "a red square", "blue"), strict=False):
        torch.testing.assert_close(row, embedded.texts[embedded.captions.index(caption)])


def test_a_file_adds_pairs(embedded, tmp_path):
    path = write(
        tmp_path / "more.json",
        {"text_to_image": {"a#2": ["c", "a"]}, "image_to_text": {"b": ["d#2", "d"]}},
    )
    candidates = match_candidates(embedded, RetrievalOptions(path))
    further = {("c", "a#2"), ("b", "d#2"), ("b", "d")}
    assert named(candidates) == further | named(match_candidates(embedded, RetrievalOptions()))
    merged = match_candidates(embedded, RetrievalOptions(path, merge_captions=True))
    assert {("c", "a#2"), ("b", "d#2"), ("b", "b")} <= named(merged)


def test_metrics_follow_from_all_pairs(root, encoder, embedded, tmp_path):
    path = write(tmp_path / "more.json", {"text_to_image": {"a#2": ["c"]}})
    options = RetrievalOptions(path, merge_captions=True)
    evaluation = Retrieval(root, ks=(1, 2), correct=options).evaluate(encoder)

    candidates = match_candidates(embedded, options)
    correct = set(map(tuple, candidates.pairs.tolist()))
    scores = (candidates.texts.double() @ candidates.images.double().T).tolist()
    hits, precisions = [], []
    for text, row in enumerate(scores):
        order = torch.tensor(row).argsort(descending=True).tolist()
        right = [(image, text) in correct for image in order]
        hits.append(right[0])
        precisions.append(sum(right[: sum(right)]) / sum(right))
    metrics = evaluation.metrics
    assert metrics["text_to_image/recall_at_1"] == pytest.approx(sum(hits) / 4)
    assert metrics["text_to_image/r_precision"] == pytest.approx(sum(precisions) / 4)
    assert evaluation.outcomes[1].keys == candidates.text_keys
    assert Retrieval(root, ks=(1, 2), correct=options).run(encoder) == metrics


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected an object with image_to_text or text_to_image, got list"),
        ({"i2t": {}}, "expected an object with .* got keys i2t"),
        ({"image_to_text": ["a"]}, r"image_to_text: expected an object of lists, got \['a'\]"),
        ({"image_to_text": {"a": [3]}}, "image_to_text: 'a': expected a list of names"),
        ({"image_to_text": {"x": ["a"]}}, "the data have no image 'x'; expected the key"),
        ({"image_to_text": {"a": ["a#9"]}}, "the data have no caption 'a#9'; expected the key"),
    ],
)
def test_a_wrong_file_is_refused(embedded, tmp_path, content, message):
    path = write(tmp_path / "bad.json", content)
    with pytest.raises(DataError, match=rf"bad\.json: {message}"):
        match_candidates(embedded, RetrievalOptions(path))


def test_a_torn_file_is_refused(embedded, tmp_path):
    (tmp_path / "torn.json").write_text('{"image_to_text": {"a": ["')
    with pytest.raises(DataError, match=r"torn\.json: expected a JSON file of correct pairs"):
        match_candidates(embedded, RetrievalOptions(str(tmp_path / "torn.json")))
    with pytest.raises(DataError, match=r"absent\.json: expected a JSON file of correct pairs"):
        match_candidates(embedded, RetrievalOptions(str(tmp_path / "absent.json")))


def test_a_limit_leaves_out_pairs_of_other_samples(root, encoder, tmp_path):
    path = write(tmp_path / "more.json", {"image_to_text": {"a": ["b"], "d": ["a"]}})
    retrieval = Retrieval(
        root, options=EmbedOptions(limit=2), correct=RetrievalOptions(positives=path)
    )
    assert retrieval.evaluate(encoder).outcomes[0].keys == ("a", "b")


def test_the_command_takes_them(root, tmp_path, capsys):
    model = write_checkpoint(tmp_path / "last.ckpt", tiny_encoder())
    path = write(tmp_path / "more.json", {"text_to_image": {"a#2": ["c"]}})
    output = tmp_path / "out.json"
    words = ["--task", "retrieval", "--positives", path, "--merge-captions"]
    assert main(["evaluate", "--model", str(model), "--data", str(root), *words,
                 "--output", str(output)]) == 0  # fmt: skip
    metrics = json.loads(output.read_text())["metrics"]
    assert metrics["text_to_image/map_at_r"] <= metrics["text_to_image/r_precision"] <= 1
    shown = capsys.readouterr().out
    assert "median_rank" in shown
    line = next(line for line in shown.splitlines() if "text_to_image/median_rank" in line)
    assert "%" not in line
    assert main(["evaluate", "--model", str(model), "--data", str(root), "--task", "zero-shot",
                 "--positives", path]) == 2  # fmt: skip
    assert "--positives: expected the task retrieval, got zero-shot" in capsys.readouterr().err
