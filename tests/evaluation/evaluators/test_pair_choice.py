"""Pair choice: every form of the data, strict comparison, and what ties score."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
import torch

from clipkit.errors import DataError, MetricError
from clipkit.evaluation import (
    ChoiceColumns,
    EmbedOptions,
    PairChoice,
    embed_pairs,
    open_choices,
    open_dataset,
    outcome_metrics,
)
from clipkit.evaluation.evaluators.pair_choice import right_choices
from tests.helpers.evaluation_data import picture, tiny_encoder
from tests.helpers.factories import write_shard
from tests.helpers.ranks import run_ranks

SIZE = 7


def texts(number):
    return f"a cat on mat {number}", f"a mat on cat {number}"


def write_images(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(2 * SIZE):
        (folder / f"{number}.png").write_bytes(picture(number))


def write_csv(root, header, row):
    write_images(root)
    lines = [header, *(row(number) for number in range(SIZE))]
    (root / "t.csv").write_text("\n".join(lines))
    return root / "t.csv"


def write_parquet(path, columns, images):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    arrays = {name: pa.array(values) for name, values in columns.items()}
    for name, numbers in images.items():
        cells = [{"bytes": picture(number), "path": f"{number}.png"} for number in numbers]
        arrays[name] = pa.array(cells, type=kind)
    pq.write_table(pa.table(arrays), path)
    return path


def sugar_crepe(root):
    """The file and folder that CLIP_benchmark reads."""
    write_images(root / "val2017")
    entries = {
        str(10 * n): {"filename": f"{n}.png", "caption": a, "negative_caption": b}
        for n, (a, b) in enumerate(map(texts, range(SIZE)))
    }
    (root / "add_att.json").write_text(json.dumps(entries))
    return root / "add_att.json"


def wds(root):
    samples = [
        (f"s{n}", {"png": picture(n), "txt": "\n".join(texts(n)).encode()}) for n in range(SIZE)
    ]
    write_shard(root / "test" / "0.tar", samples)
    (root / "test" / "nshards.txt").write_text("1")
    (root / "dataset_type.txt").write_text("retrieval")
    return root


def parquet(name):
    rights, wrongs = zip(*map(texts, range(SIZE)), strict=True)
    pairs = [[wrong, right] for right, wrong in map(texts, range(SIZE))]
    columns = {
        "sugar": {"caption": rights, "negative_caption": wrongs},
        "lists": {
            "true_label": rights,
            "tested_labels": pairs,
        },
        "aro": {"true_caption": rights, "false_caption": wrongs, "relation_name": ["on"] * SIZE},
    }[name]
    column = {"sugar": "images", "lists": "image", "aro": "image"}[name]
    return lambda root: write_parquet(root / "t.parquet", columns, {column: range(SIZE)})


FORMS = {
    "SugarCrepe's file": sugar_crepe,
    "CLIP_benchmark's layout": wds,
    "mteb/SUGARCREPE_fmt": parquet("sugar"),
    "HuggingFaceM4/SugarCrepe": parquet("lists"),
    "ARO": parquet("aro"),
    "a table": lambda root: write_csv(
        root, "file_name,caption,negative_caption", lambda n: ",".join([f"{n}.png", *texts(n)])
    ),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Which instances are right, by embeddings of plain retrieval data and a loop."""
    data = open_dataset(wds(tmp_path_factory.mktemp("plain")))
    pairs = embed_pairs(tiny_encoder(), data, EmbedOptions())
    right = []
    for number, image in enumerate(pairs.images.double()):
        first, second = pairs.texts[2 * number : 2 * number + 2].double()
        right.append(float(image @ first) > float(image @ second))
    assert 0 < sum(right) < SIZE
    return right


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same(tmp_path, form, expected):
    evaluation = PairChoice(FORMS[form](tmp_path)).evaluate(tiny_encoder())

    assert evaluation.outcomes[0].columns["acc"].bool().tolist() == expected
    accuracy = sum(expected) / SIZE
    assert evaluation.metrics["text_acc"] == pytest.approx(accuracy)
    assert evaluation.metrics["acc"] == pytest.approx(accuracy)
    assert "image_acc" not in evaluation.metrics  # there is no choice between images
    assert ("group/on/acc" in evaluation.metrics) == (form == "ARO")
    assert len(set(evaluation.outcomes[0].keys)) == SIZE


def winoground(root):
    rights, wrongs = zip(*map(texts, range(SIZE)), strict=True)
    tags = ["Object" if n % 2 else "Relation" for n in range(SIZE)]
    columns = {
        "id": range(SIZE), "caption_0": rights, "caption_1": wrongs, "collapsed_tag": tags,
    }  # fmt: skip
    images = {"image_0": range(SIZE), "image_1": range(SIZE, 2 * SIZE)}
    return write_parquet(root / "test.parquet", columns, images)


def test_winoground_has_text_image_and_group_score(tmp_path):
    path, encoder = winoground(tmp_path), tiny_encoder()

    evaluation = PairChoice(path, options=EmbedOptions(batch_size=3)).evaluate(encoder)

    write_images(tmp_path / "val")
    rows = [f"{n}.png,{t}" for n in range(SIZE) for t in texts(n)]
    rows += [f"{n}.png,none" for n in range(SIZE, 2 * SIZE)]
    (tmp_path / "val" / "plain.csv").write_text("\n".join(["image,caption", *rows]))
    pairs = embed_pairs(encoder, open_dataset(tmp_path / "val" / "plain.csv"), EmbedOptions())
    text, image = [], []
    for n in range(SIZE):
        s = {
            (i, t): float(pairs.images[n + i * SIZE].double() @ pairs.texts[2 * n + t].double())
            for i, t in product(range(2), range(2))
        }
        text.append(s[0, 0] > s[0, 1] and s[1, 1] > s[1, 0])
        image.append(s[0, 0] > s[1, 0] and s[1, 1] > s[0, 1])
    outcomes, by_tag = evaluation.outcomes
    assert outcomes.columns["text_acc"].bool().tolist() == text
    assert outcomes.columns["image_acc"].bool().tolist() == image
    both = [a and b for a, b in zip(text, image, strict=True)]
    assert outcomes.columns["acc"].bool().tolist() == both
    assert outcomes.keys == tuple(map(str, range(SIZE)))
    assert evaluation.metrics == outcome_metrics(outcomes) | outcome_metrics(by_tag)
    assert evaluation.metrics["group/Object/acc"] == pytest.approx(sum(both[1::2]) / 3)
    limited = PairChoice(path, options=EmbedOptions(limit=3)).evaluate(encoder)
    assert limited.outcomes[0].columns["acc"].tolist() == outcomes.columns["acc"][:3].tolist()


def collapse(encoder):
    """Let the encoder map every image and text to one point."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
        for tower in (encoder.image_tower, encoder.text_tower):
            tower.register_forward_hook(lambda module, args, out: torch.ones_like(out))
    return encoder


@pytest.mark.parametrize("form", [sugar_crepe, winoground])
def test_a_collapsed_model_scores_zero(tmp_path, form):
    metrics = PairChoice(form(tmp_path)).run(collapse(tiny_encoder()))

    assert set(metrics.values()) == {0.0}
    assert "acc" in metrics


def test_several_wrong_texts_and_images():
    assert right_choices(torch.tensor([[0.5, 0.4, 0.1]])) == (True, True)
    assert right_choices(torch.tensor([[0.5, 0.4, 0.5]])) == (False, True)
    assert right_choices(torch.tensor([[0.5], [0.4], [0.6]])) == (True, False)
    assert right_choices(torch.tensor([[0.5, 0.1], [0.6, 0.7]])) == (True, False)
    with pytest.raises(MetricError, match="NaN"):
        right_choices(torch.tensor([[float("nan"), 0.1]]))


def test_images_to_choose_from_one_text(tmp_path):
    names = ["correct_image", *(f"false_image_{n}" for n in range(1, 10))]
    images = {name: [n % 14, (n + 3) % 14] for n, name in enumerate(names)}
    path = write_parquet(tmp_path / "t.parquet", {"text": ["a cat", "a dog"]}, images)

    assert set(PairChoice(path).run(tiny_encoder())) == {"image_acc", "acc"}


def test_columns_can_be_named(tmp_path):
    path = write_csv(tmp_path, "photo,yes,no", lambda n: ",".join([f"{n}.png", *texts(n)]))
    with pytest.raises(
        DataError,
        match=r"expected the columns of a data set of pair choices .*"
        r"got photo, yes, no; name others with --choice-images",
    ):
        open_choices(path)
    with pytest.raises(DataError, match="no column 'phot'; did you mean 'photo'"):
        open_choices(path, columns=ChoiceColumns(["phot"], ["yes", "no"]))
    data = open_choices(path, columns=ChoiceColumns(["photo"], ["yes", "no"], "yes"))
    assert (len(data), data.texts(2), data.category(2)) == (SIZE, texts(2), texts(2)[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,caption,negative_caption\n", "no samples found"),
        ("image,caption,negative_caption\n0.png,a,\n", "row 1: expected texts in caption, neg"),
        ("image,caption,negative_caption\n,a,b\n", "row 1 has no image in column image"),
        ("image,caption,negative_caption\n../x.png,a,b\n", "outside of"),
        ("image,caption,negative_caption\nno.png,a,b\n", "no such file"),
    ],
)
def test_bad_tables_are_named(tmp_path, content, message):
    write_images(tmp_path)
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        PairChoice(tmp_path / "t.csv").run(tiny_encoder())


@pytest.mark.parametrize("content", ["[]", "{", '{"0": {"filename": "0.png"}}', "{}"])
def test_bad_files_of_sugar_crepe_are_named(tmp_path, content):
    (tmp_path / "add_att.json").write_text(content)
    with pytest.raises(DataError, match=r"add_att\.json"):
        open_choices(tmp_path / "add_att.json")


def test_the_category_of_shards_is_a_json_field(tmp_path):
    samples = [
        (f"s{n}", {"png": picture(n), "txt": b"a\nb", "json": b'{"kind": "k%d"}' % (n % 2)})
        for n in range(4)
    ]
    write_shard(tmp_path / "0.tar", samples)
    metrics = PairChoice(tmp_path, columns=ChoiceColumns((), (), "kind")).run(tiny_encoder())
    assert {"group/k0/acc", "group/k1/acc", "worst_group/acc"} <= set(metrics)


def test_a_data_set_of_the_hub(tmp_path, hub):
    path = winoground(tmp_path)
    files = {"default/test/0000.parquet": path.read_bytes()}
    hub.data_set("owner/winoground").commit(files, "refs/convert/parquet")
    remote = PairChoice("hf://datasets/owner/winoground/default/test").evaluate(tiny_encoder())
    local = PairChoice(path).evaluate(tiny_encoder())
    assert remote.metrics == local.metrics


def test_an_instance_without_a_choice_is_named(tmp_path):
    write_shard(tmp_path / "0.tar", [("s0", {"png": picture(0), "txt": b"alone"})])
    with pytest.raises(DataError, match=r"s0: expected a choice, .*got 1 texts for 1 images"):
        PairChoice(tmp_path).run(tiny_encoder())


def choose_on_rank(rank: int, world_size: int, path: Path, workers: int):
    options = EmbedOptions(batch_size=2, num_workers=workers)
    outcomes = PairChoice(path, options=options).evaluate(tiny_encoder()).outcomes[0]
    return {name: column.tolist() for name, column in outcomes.columns.items()}, outcomes.keys


def test_ranks_and_workers_choose_as_one_process(tmp_path):
    path = winoground(tmp_path)
    alone = choose_on_rank(0, 1, path, 0)

    assert run_ranks(choose_on_rank, 2, path, 0) == [alone, alone]
    assert choose_on_rank(0, 1, path, 2) == alone
