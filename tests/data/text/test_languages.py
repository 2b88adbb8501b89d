"""Captions by language: weights, places, and what is refused."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from clipkit.data import (
    JsonFields,
    LanguageCaptions,
    MixedCaptions,
    OptionalCaption,
    ShardIndex,
    TableColumns,
    TemplatedCaptions,
    TextField,
    pack,
)
from clipkit.data.shards.reader import ShardReader
from clipkit.data.text.languages import named_picker
from clipkit.errors import ConfigError, SampleError
from tests.helpers.factories import image_bytes, write_shard
from tests.helpers.fakes import ByteTokenizer, NoisyTransform, flat_stream

TEXTS = {"en": "a dog", "de": "ein Hund", "ar": "كلب", "pt-BR": "um cão", "ja": "犬🐕"}
MEMBERS = {f"txt.{code.lower()}": text.encode() for code, text in TEXTS.items()}
COLUMNS = {"json": json.dumps({f"caption_{c}": t for c, t in TEXTS.items()}).encode()}
NESTED = {"json": json.dumps({"a": {"names": TEXTS}}).encode()}
PLACES = [
    ("txt.{language}", MEMBERS),
    ("json:caption_{language}", COLUMNS),
    ("json:a.names.{language}", NESTED),
]


def shares(picker, members, draws=4000):
    rng = np.random.default_rng(0)
    counts = Counter(picker(members, rng) for _ in range(draws))
    return {text: count / draws for text, count in counts.items()}


@pytest.mark.parametrize(("place", "members"), PLACES)
def test_weights_of_languages(place, members):
    weights = {"de": 1.0, "ar": 2.0, "pt-BR": 1.0, "sv": 50.0, "en": 0.0}
    found = shares(LanguageCaptions(place, weights), members)
    expected = {TEXTS["de"]: 0.25, TEXTS["ar"]: 0.5, TEXTS["pt-BR"]: 0.25}
    assert found.keys() == expected.keys()
    assert all(abs(found[text] - share) < 0.03 for text, share in expected.items())


@pytest.mark.parametrize(("place", "members"), PLACES)
def test_all_languages_have_equal_weights(place, members):
    found = LanguageCaptions(place).candidates({**members, "txt": b"other", "jpg": b"\xff"})
    names = {c.lower() for c in TEXTS} if members is MEMBERS else set(TEXTS)
    assert {candidate.language for candidate in found} == names
    assert {candidate.text for candidate in found} == set(TEXTS.values())
    assert {candidate.weight for candidate in found} == {1.0}


def test_several_captions_of_a_language_share_its_weight():
    members = {"txt.en": b"one\n\ntwo\n", "txt.de": b"eins"}
    found = LanguageCaptions("txt.{language}", {"en": 1.0, "de": 1.0}).candidates(members)
    assert [(c.text, c.weight, c.language) for c in found] == [
        ("one", 0.5, "en"), ("two", 0.5, "en"), ("eins", 1.0, "de"),
    ]  # fmt: skip


def test_other_pickers_keep_the_language():
    mixed = MixedCaptions([LanguageCaptions("txt.{language}", {"ja": 1.0}), TextField()])
    picker = OptionalCaption(TemplatedCaptions(mixed, ["<{}>"]))
    found = picker.candidates({**MEMBERS, "txt": b"plain"})
    assert [(c.text, c.language) for c in found] == [("<犬🐕>", "ja"), ("<plain>", "")]
    of_object = JsonFields({"a.names": 1.0}, {"de": 1.0, "ar": 1.0}).candidates(NESTED)
    assert [(c.text, c.language) for c in of_object] == [("ein Hund", "de"), ("كلب", "ar")]


def test_other_fields_are_no_languages():
    members = {"json": b'{"caption_en": "a dog", "caption_": "x", "caption_number": 3, "en": 4}'}
    assert shares(LanguageCaptions("json:caption_{language}"), members, 5) == {"a dog": 1.0}


@pytest.mark.parametrize(
    ("place", "members", "reason"),
    [
        (
            "json:caption_{language}",
            {"json": b'{"caption_id": 7}'},
            "json:caption_id': expected text, got 7",
        ),
        ("json:caption_{language}", {"json": b"{"}, "'json' is not JSON"),
        ("json:caption_{language}", {"json": b"[1]"}, "no caption: json:caption_{language} is"),
        ("json:a.b.{language}", {"json": b'{"a": {"b": "text"}}'}, "missing or empty"),
        ("txt.{language}", {"txt.de": b"caf\xe9"}, "'txt.de' is not UTF-8"),
        ("txt.{language}", {"txt": b"a dog"}, "missing or empty"),
        ("txt.{language}", {}, "missing or empty"),
    ],
)
def test_bad_samples(place, members, reason):
    with pytest.raises(SampleError, match=reason):
        LanguageCaptions(place)(members, np.random.default_rng(0))


@pytest.mark.parametrize("place", ["txt", "", "json:{language}.title", "{language} x", "a{b}"])
def test_bad_places(place):
    with pytest.raises(ConfigError, match="place: expected a member or JSON field"):
        LanguageCaptions(place)


@pytest.mark.parametrize("place", ["json:{language}", "{language}"])
def test_a_language_alone_needs_names(place):
    with pytest.raises(ConfigError, match=r"id and url would be languages too, .*\{de: 1\.0"):
        LanguageCaptions(place)
    found = LanguageCaptions("json:{language}", {"de": 1.0}).candidates(
        {"json": b'{"id": 3, "url": "https://a", "de": "ein Hund"}'}
    )
    assert [(c.text, c.language) for c in found] == [("ein Hund", "de")]


def test_members_that_are_read():
    assert LanguageCaptions("json:caption_{language}").members == {"json"}
    assert LanguageCaptions("txt.{language}").members is None


def test_bad_weights():
    with pytest.raises(ConfigError, match="languages: expected weights"):
        LanguageCaptions("txt.{language}", {"en": -1.0})


def test_short_names():
    picker = named_picker("txt.{language}")
    assert isinstance(picker, LanguageCaptions)
    assert picker.place == "txt.{language}"
    assert named_picker("caption.yaml") is None
    assert isinstance(named_picker("txt.de"), TextField)


def test_columns_of_a_packed_table(tmp_path):
    (tmp_path / "a.jpg").write_bytes(image_bytes())
    rows = ["file,caption_en,caption_ar,caption_he", "a.jpg,a dog,كلب,"]
    (tmp_path / "t.csv").write_text("\n".join(rows), encoding="utf-8")
    columns = {"captions": ["caption_en", "caption_ar", "caption_he"]}
    pack(tmp_path / "t.csv", tmp_path / "out", columns=TableColumns(**columns))
    index = ShardIndex.from_urls(str(tmp_path / "out"))
    members = ShardReader(index).read(0).members
    found = LanguageCaptions("json:caption_{language}").candidates(members)
    assert {c.language: c.text for c in found} == {"en": "a dog", "ar": "كلب"}


def test_the_stream_draws_the_same_language_again(tmp_path):
    samples = [(f"s{n}", {"jpg": image_bytes(seed=n), **MEMBERS}) for n in range(12)]
    write_shard(tmp_path / "0.tar", samples)

    def tokens(epoch):
        stream = flat_stream(
            ShardIndex.from_urls(str(tmp_path)), tokenizer=ByteTokenizer(), batch_size=4,
            image_transform=NoisyTransform(), caption=LanguageCaptions("txt.{language}"),
        )  # fmt: skip
        stream.set_epoch(epoch)
        return [row for batch in stream for row in batch.tokens.tolist()]

    assert tokens(0) == tokens(0)
    assert sorted(tokens(0)) != sorted(tokens(1))
