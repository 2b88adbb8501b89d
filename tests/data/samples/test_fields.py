"""What samples bring for the objective, from the members of a shard to the fields of a batch."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from clipkit.data import (
    CaptionGroup,
    CaptionMask,
    EvalTransform,
    Group,
    JsonFields,
    MultiLabels,
    NegativeCaptions,
    NegativeImages,
    OpenClipTokenizer,
    OptionalCaption,
    ShardIndex,
    TeacherEmbeddings,
    TeacherInputs,
    TrainTransform,
)
from clipkit.errors import ConfigError, DataError, FaultBudgetExceeded
from clipkit.types import TeacherBatch
from tests.helpers.factories import image_bytes, pair, write_shard
from tests.helpers.fakes import flat_stream

TOKENIZER = OpenClipTokenizer(context_length=12)


def npy(values) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(values))
    return out.getvalue()


def facts(**more) -> bytes:
    return json.dumps(more).encode()


def deep(levels: int) -> bytes:
    return b'{"a": ' + b"[" * levels + b"]" * levels + b"}"


def batch_of(tmp_path, samples, *fields, **options):
    """The samples as one batch, in their order."""
    shard = write_shard(
        tmp_path / "0.tar", [(f"{i:03d}", {**pair(i), **more}) for i, more in enumerate(samples)]
    )
    options = {"image_transform": EvalTransform(16), "tokenizer": TOKENIZER, **options}
    stream = flat_stream(
        ShardIndex.from_urls(str(shard)),
        batch_size=len(samples),
        shuffle=False,
        max_bad_fraction=0.0,
        fields=fields,
        **options,
    )
    (batch,) = stream
    return batch


def test_nothing_is_there_where_nobody_asked(tmp_path):
    batch = batch_of(tmp_path, [{}, {}])
    names = ("groups", "pair_mask", "multi_labels", "negatives", "teacher")
    assert [getattr(batch, name) for name in names] == [None] * len(names)


def test_groups_are_numbers_or_texts(tmp_path):
    samples = [{"json": facts(photo=value)} for value in (7, "7", "lake", "tree", "lake", None)]
    groups = batch_of(tmp_path, [*samples, {}], Group("json:photo")).groups.tolist()
    assert groups[0] == groups[1] == 7
    assert groups[2] == groups[4] != groups[3]
    assert min(groups[:5]) >= 0
    assert groups[5:] == [-1, -1]
    assert batch_of(tmp_path, [{"photo": b"lake\n"}], Group("photo")).groups[0] == groups[2]


def test_texts_that_look_like_one_number_are_groups_of_their_own(tmp_path):
    texts = ["7", "007", "07", "+7", "7.0", "\u0667", str(2**62 + 7), str(2**70), "-7", 2**70]
    samples = [{"json": facts(photo=value)} for value in texts]
    groups = batch_of(tmp_path, samples, Group("json:photo")).groups.tolist()
    assert groups[0] == 7
    assert len(set(groups)) == len(texts) - 1  # 2**70 is one group, as a number and as a text
    assert groups[7] == groups[9]
    assert min(groups) >= 0
    members = [{"photo": text.encode()} for text in ("007", "7")]
    assert batch_of(tmp_path, members, Group("photo")).groups.tolist() == [groups[1], 7]


@pytest.mark.parametrize("value", [-7, True, 1.5, [7]])
def test_groups_of_other_types_are_bad_samples(tmp_path, value):
    with pytest.raises(DataError, match="expected an integer of at least 0"):
        batch_of(tmp_path, [{"json": facts(photo=value)}], Group("json:photo"))


def test_groups_that_are_not_utf8_do_not_merge(tmp_path):
    with pytest.raises(DataError, match="member 'photo' is not UTF-8"):
        batch_of(tmp_path, [{"photo": b"\xff"}], Group("photo"))


def test_captions_may_be_missing_and_are_masked(tmp_path):
    samples = [{}, {"txt": b""}, {"txt": b" "}, {"txt": b"a dog"}]
    batch = batch_of(tmp_path, samples, CaptionMask(), caption=OptionalCaption())
    assert batch.pair_mask.tolist() == [True, False, False, True]
    assert batch.captions[1] == ""
    assert batch.labels.tolist() == [0, 1, 2, 3]


def test_multi_labels(tmp_path):
    samples = [{"json": facts(has=[0, 2], no=[1])}, {"json": facts(has=[])}, {"json": facts()}]
    got = batch_of(tmp_path, samples, MultiLabels(4, "json:has")).multi_labels
    assert got.tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [-100] * 4]
    got = batch_of(tmp_path, samples, MultiLabels(4, "json:has", "json:no")).multi_labels
    assert got.tolist() == [[1, 0, 1, -100], [-100] * 4, [-100] * 4]


def test_negatives_are_as_many_as_there_are(tmp_path):
    wrong = ["a blue dog", "a red cat", "a green bird on a roof"]
    samples = [{"json": facts(wrong=wrong)}, {}, {"json": facts(wrong=wrong[:1])}]
    samples[2]["wrong.jpg"] = image_bytes("blue")
    field = NegativeCaptions(JsonFields({"wrong": 1.0}), number=2)
    batch = batch_of(tmp_path, samples, field, NegativeImages(["wrong.jpg", "wrong.png"]))
    known = [TOKENIZER.encode(text) for text in wrong]
    rows = [[i for i in row if i] for row in batch.negatives.tokens.tolist()]
    assert len(rows) == 3
    assert all(row in known for row in rows)
    assert rows[0] != rows[1]
    assert rows[2] == known[0]
    assert batch.negatives.images.shape == (1, 3, 16, 16)
    none = batch_of(tmp_path, [{}, {}], field, NegativeImages(["wrong.jpg"]))
    assert none.negatives.tokens.shape[0] == 0
    assert none.negatives.images.shape == (0, 3, 16, 16)


def test_a_teachers_embeddings(tmp_path):
    samples = [
        {"t_i.npy": npy(np.float16([1, i])), "t_t.npy": npy(np.float64([i, 2, 3]))}
        for i in range(2)
    ]
    batch = batch_of(tmp_path, samples, TeacherEmbeddings("t_i.npy", "t_t.npy"))
    assert batch.teacher.image.tolist() == [[1, 0], [1, 1]]
    assert batch.teacher.text.tolist() == [[0, 2, 3], [1, 2, 3]]
    assert batch.teacher.image.dtype == torch.float32


@pytest.mark.parametrize("odd", [0, 3])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_teachers_embedding_of_another_size_is_a_bad_sample(tmp_path, odd, batch_size):
    """Also the first of the data: most of the first ones say what is right."""
    samples = [
        (f"{i}", {**pair(i), "t_i.npy": npy(np.ones(2 + (i == odd))), "t_t.npy": npy(np.ones(3))})
        for i in range(8)
    ]
    stream = flat_stream(
        ShardIndex.from_urls(write_shard(tmp_path / "0.tar", samples)),
        batch_size=batch_size,
        image_transform=EvalTransform(16),
        tokenizer=TOKENIZER,
        max_bad_fraction=0.2,
        fields=[TeacherEmbeddings("t_i.npy", "t_t.npy")],
    )
    for batch in stream:
        stream.commit(batch)
        assert batch.teacher.image.shape == (batch_size, 2)
        assert str(odd) not in batch.keys
    ((_, _, key, reason),) = stream.state_dict()["bad_samples"]
    assert key == str(odd)
    assert reason.startswith("teacher's embedding of the image: expected 2 numbers")


def test_a_teacher_sees_the_students_crop_in_its_own_size(tmp_path):
    def transform(size):
        return TrainTransform(size, (0.2, 0.4), fast=False)

    teacher = TeacherInputs(transform(32), OpenClipTokenizer(context_length=5))
    batch = batch_of(tmp_path, [{}, {}, {}], teacher, image_transform=transform(16))
    plain = batch_of(tmp_path, [{}, {}, {}], image_transform=transform(16))
    assert torch.equal(batch.images, plain.images)  # a field changes nothing of the sample
    assert batch.teacher.pixels.shape == (3, 3, 32, 32)
    halved = torch.nn.functional.avg_pool2d(batch.teacher.pixels.float(), 2)
    assert float((halved - batch.images.float()).abs().mean()) < 8
    assert batch.teacher.tokens.shape == (3, 5)
    assert batch.tokens.shape[1] > 5


@pytest.mark.parametrize(
    ("field", "members", "message"),
    [
        (Group("json:photo"), {"json": facts(photo=1.5)}, "an integer"),
        (Group("json:photo"), {"json": b"[]"}, "JSON object"),
        (MultiLabels(3, "json:has"), {"json": facts(has=[3])}, "classes from 0 to 2"),
        (MultiLabels(3, "json:has"), {"json": facts(has=2)}, "list of class numbers"),
        (TeacherEmbeddings(), {}, "no member teacher_image.npy"),
        (TeacherEmbeddings("a.npy", "a.npy"), {"a.npy": b"no"}, "no NumPy file"),
        (TeacherEmbeddings("a.npy", "a.npy"), {"a.npy": npy([[1.0]])}, "one axis of floats"),
        (TeacherEmbeddings("a.npy", "a.npy"), {"a.npy": npy([1.0, np.nan])}, "finite numbers"),
        (TeacherEmbeddings("a.npy", "a.npy"), {"a.npy": npy([1e300])}, "finite numbers"),
        (
            TeacherEmbeddings("a.npy", "a.npy"),
            {"a.npy": b"PK\x03\x04" + b"x" * 40},
            "no NumPy file",
        ),
        (
            TeacherEmbeddings("a.npy", "a.npy"),
            {"a.npy": npy([1.0]).replace(b"(1,), }" + b" " * 14, b"(99999999999999999,),}")},
            "no NumPy file",
        ),
        (Group("json:a"), {"json": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"}, "deep"),
        (
            Group("json:a"),
            {"json": b'{"a": ' + b"[" * 700 + b"]" * 700 + b"}"},
            "json:a|deep|Recurs",
        ),
    ],
)
def test_wrong_members_are_faults_of_the_sample(tmp_path, field, members, message):
    with pytest.raises((DataError, FaultBudgetExceeded), match=message):
        batch_of(tmp_path, [members, members], field)


def test_nothing_is_unpickled(tmp_path):
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises((DataError, FaultBudgetExceeded), match="no NumPy file"):
        batch_of(tmp_path, [{"a.npy": out.getvalue()}], TeacherEmbeddings("a.npy", "a.npy"))


def test_options_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="num_classes"):
        MultiLabels(0)
    with pytest.raises(ConfigError, match="number"):
        NegativeCaptions(OptionalCaption(), 0)
    with pytest.raises(ConfigError, match="TeacherInputs"):
        TeacherInputs()


def test_old_names_of_a_batch_are_told(tmp_path):
    batch = batch_of(tmp_path, [{}])
    with pytest.raises(AttributeError, match=r"'teacher_image'; it is batch\.teacher\.image now"):
        batch.teacher_image  # noqa: B018
    moved = replace(batch, teacher=TeacherBatch(text=torch.ones(1, 2))).to("cpu")
    assert moved.teacher.text.tolist() == [[1, 1]]


def test_equal_captions_are_one_group(tmp_path):
    captions = [
        "a dog",
        "A  dog",
        "a cat",
        "a dog " + 20 * "x " + "y",
        "a dog " + 20 * "x ",
        "",
        "",
    ]
    batch = batch_of(
        tmp_path,
        [{"txt": caption.encode()} for caption in captions],
        CaptionGroup(),
        caption=OptionalCaption(),
    )
    first, case, cat, long, longer, empty, other = batch.groups.tolist()
    assert first == case  # the tokenizer ignores case and spaces
    assert long == longer  # truncated
    assert len({first, cat, long}) == 3
    assert empty == other == -1  # match themselves alone
