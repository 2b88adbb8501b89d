"""What can be trained on can be evaluated on: formats, captions, labels and broken samples."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from clipkit.cli.main import main
from clipkit.data import JsonFields, ShardIndex
from clipkit.data.images.formats import IMAGE_EXTENSIONS
from clipkit.data.packing.verify import verify_shards
from clipkit.data.text.tokenizers import OpenClipTokenizer
from clipkit.errors import SampleError
from clipkit.evaluation import (
    LinearProbe,
    MultiLabelClassification,
    ProbeSplits,
    Retrieval,
    ZeroShotClassification,
    embed_pairs,
    open_dataset,
)
from clipkit.evaluation.inference import EmbedOptions
from clipkit.losses import CombinedLoss, ContrastiveLoss, LabelLoss
from tests.helpers import tiny
from tests.helpers.factories import COLORS, write_shard
from tests.helpers.fakes import flat_stream

PILLOW = {"jpg": "JPEG", "jpeg": "JPEG", "tif": "TIFF", "image": "PNG"}
TITLES = ["title", "tags"]
CAPTION = JsonFields({"title": 1.0, "tags": 1.0})
PICKER = "{class_path: clipkit.data.JsonFields, init_args: {fields: {title: 1, tags: 1}}}"


def sample(index: int, extension: str) -> dict[str, bytes]:
    out = io.BytesIO()
    pixels = np.full((24, 20, 3), 10 * index, dtype=np.uint8)
    Image.fromarray(pixels).save(out, PILLOW.get(extension, extension.upper()))
    number = index % 4
    facts = {"title": f"image {index}", "tags": ["one", "two"][: index % 3], "kind": number,
             "has": [number]}  # fmt: skip
    return {extension: out.getvalue(), "json": json.dumps(facts).encode()}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Two images of every format, with captions and classes in JSON, and no .txt or .cls."""
    root = tmp_path_factory.mktemp("odd")
    samples = [
        (f"{i:03d}", sample(i, extension)) for i, extension in enumerate(2 * IMAGE_EXTENSIONS)
    ]
    for split in ("train", "test"):
        write_shard(root / split / "0.tar", samples)
    (root / "classnames.txt").write_text("\n".join(list(COLORS)[:4]) + "\n")
    return root


@pytest.fixture(scope="module")
def trained(shards):
    encoder = tiny.encoder(labels=True)
    stream = flat_stream(
        ShardIndex.from_urls(shards / "train"), tokenizer=OpenClipTokenizer(context_length=16),
        batch_size=4, image_size=16, caption=CAPTION, label_field="json:kind",
    )  # fmt: skip
    loss = CombinedLoss(ContrastiveLoss(), LabelLoss(), label_weight=0.5)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    labels = []
    for batch in stream:
        terms = loss(encoder(batch), batch)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        stream.commit(batch)
        labels += batch.labels.tolist()
    assert sorted(labels) == sorted(i % 4 for i in range(2 * len(IMAGE_EXTENSIONS)))
    return encoder


def test_every_sample_that_was_trained_on_is_evaluated(shards, trained):
    data = open_dataset(shards, caption=CAPTION, label_field="json:kind")

    pairs = embed_pairs(trained, data, EmbedOptions(batch_size=8))

    count = 2 * len(IMAGE_EXTENSIONS)
    assert len(pairs.images) == count
    assert pairs.labels.tolist() == [i % 4 for i in range(count)]
    expected = [t for i in range(count) for t in [f"image {i}", *["one", "two"][: i % 3]]]
    assert list(pairs.captions) == expected
    assert Retrieval(data).run(trained)
    assert ZeroShotClassification(data).run(trained)
    assert MultiLabelClassification(data, positives="json:has").run(trained)
    splits = ProbeSplits(
        shards, validation_split="test", label_field="json:kind", allow_overlap=True
    )
    assert LinearProbe(splits).run(trained)
    assert not verify_shards(str(shards / "train")).faults


def test_the_command_line_takes_the_same_captions_and_labels(shards, trained, tmp_path, capsys):
    from clipkit.models import save_encoder

    save_encoder(trained, tmp_path / "model")
    words = ["--model", str(tmp_path / "model"), "--data", str(shards), "--caption", PICKER]
    output = tmp_path / "numbers.json"
    assert main(["evaluate", *words, "--label-field", "json:kind", "--task", "retrieval",
                 "--task", "label-head", "--output", str(output)]) == 0  # fmt: skip
    data = open_dataset(shards, caption=CAPTION, label_field="json:kind")
    metrics = json.loads(output.read_text())["metrics"]
    for key, value in Retrieval(data).run(trained.eval()).items():
        assert metrics[f"retrieval/{key}"] == pytest.approx(value)
    assert main(["evaluate", *words[:-1], "json:title.x", "--task", "retrieval"]) == 2
    assert "fields title.x of member 'json' is missing or empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    "members",
    [
        {"json": b"{}"},
        {**sample(0, "png"), "json": b"{"},
        {**sample(0, "png"), "json": b'{"title": 3}'},
        {**sample(0, "png"), "json": b'{"title": "a", "kind": "x"}'},
        {"png": b"no image", "json": b'{"title": "a"}'},
    ],
    ids=["no image", "no JSON", "caption", "label", "pixels"],
)
def test_training_and_evaluation_give_the_same_reason(tmp_path, members, caplog):
    write_shard(tmp_path / "0.tar", [("fine", sample(1, "bmp")), ("bad", members)])
    stream = flat_stream(
        ShardIndex.from_urls(tmp_path), tokenizer=OpenClipTokenizer(context_length=16),
        batch_size=1, image_size=16, caption=CAPTION, label_field="json:kind",
        max_bad_fraction=1.0, shuffle=False,
    )  # fmt: skip
    for batch in stream:
        stream.commit(batch)
    data = open_dataset(tmp_path, caption=CAPTION, label_field="json:kind")

    with pytest.raises(SampleError) as caught:
        embed_pairs(tiny.encoder(), data, EmbedOptions())

    assert caught.value.key == "bad"
    assert caplog.messages[0].endswith(f"bad: {caught.value.reason}")
