"""Which caption is chosen, how often, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from clipkit.data.text.captions import (
    Candidate,
    CaptionPicker,
    JsonFields,
    MixedCaptions,
    OptionalCaption,
    TextField,
)
from clipkit.data.text.templates import LabelTemplates, TemplatedCaptions
from clipkit.errors import ConfigError, SampleError

RECORD = {
    "name": "dog",
    "keywords": ["pet", "animal", " "],
    "names": {"de": "Hund", "fr": ["chien", "toutou"], "en": "dog face"},
    "deep": {"er": {"title": "a good dog"}},
    "empty": "",
    "nothing": None,
}
SAMPLE = {"txt": b"ein Hund \n", "cls": b"1", "json": json.dumps(RECORD).encode()}


def shares(
    picker: CaptionPicker, members: Mapping[str, bytes] = SAMPLE, draws: int = 4000
) -> dict[str, float]:
    rng = np.random.default_rng(0)
    counts = Counter(picker(members, rng) for _ in range(draws))
    return {text: count / draws for text, count in counts.items()}


def close(found: dict[str, float], expected: dict[str, float]) -> bool:
    return found.keys() == expected.keys() and all(
        abs(found[text] - share) < 0.03 for text, share in expected.items()
    )


def test_text_field() -> None:
    assert TextField()(SAMPLE, np.random.default_rng(0)) == "ein Hund"
    with_mark = {"txt": b"\xef\xbb\xbfa dog"}
    assert TextField()(with_mark, np.random.default_rng(0)) == "a dog"


def test_one_caption_a_line() -> None:
    members = {"txt": b"one\n\n two \nthree\n"}
    assert close(
        shares(TextField(one_per_line=True), members), {"one": 1 / 3, "two": 1 / 3, "three": 1 / 3}
    )
    assert TextField()(members, np.random.default_rng(0)).count("\n") == 3
    listed = {**members, "json": json.dumps({"captions": ["one", "two", "three"]}).encode()}
    assert close(shares(TextField(), listed), {"one": 1 / 3, "two": 1 / 3, "three": 1 / 3})
    assert (
        shares(TextField(one_per_line=False), listed).keys() == shares(TextField(), members).keys()
    )


@pytest.mark.parametrize(
    "note", [b"", b"not JSON", b"[]", b'{"captions": "one"}', b'{"captions": ["one", "two"]}']
)
def test_lines_that_nothing_lists_are_one_caption(note: bytes) -> None:
    members = {"txt": b"one\ntwo\nthree", "json": note}
    assert TextField()(members, np.random.default_rng(0)) == "one\ntwo\nthree"
    assert TextField().joins_lines(members)
    assert not TextField(one_per_line=True).joins_lines(members)
    assert not TextField().joins_lines({"txt": b"one"})


def test_json_fields_by_weight() -> None:
    picker = JsonFields({"name": 3.0, "keywords": 1.0, "empty": 5.0, "nothing": 5.0, "gone": 5.0})
    assert close(shares(picker), {"dog": 0.75, "pet": 0.125, "animal": 0.125})


def test_nested_fields_and_zero_weights() -> None:
    picker = JsonFields({"name": 0.0, "deep.er.title": 1.0})
    assert shares(picker) == {"a good dog": 1.0}


def test_languages_by_weight() -> None:
    picker = JsonFields({"names": 1.0}, languages={"de": 1.0, "fr": 1.0, "sv": 8.0})
    assert close(shares(picker), {"Hund": 0.5, "chien": 0.25, "toutou": 0.25})
    everything = shares(JsonFields({"names": 1.0}))
    assert close(everything, {"Hund": 1 / 3, "chien": 1 / 6, "toutou": 1 / 6, "dog face": 1 / 3})


def test_label_templates(tmp_path: Path) -> None:
    names = tmp_path / "classnames.txt"
    names.write_text("cat\ndog\n")
    for source in (["cat", "dog"], str(names)):
        picker = LabelTemplates(source, ["a {}", "two {}s"])
        assert close(shares(picker), {"a dog": 0.5, "two dogs": 0.5})
    with pytest.raises(SampleError, match=r"less than 2.*got 7"):
        picker({"cls": b"7"}, np.random.default_rng(0))
    with pytest.raises(SampleError, match="no caption: label 'cls' is missing"):
        picker({}, np.random.default_rng(0))


def test_pickers_name_the_members_that_they_read() -> None:
    class Own(CaptionPicker):
        source = "any"

        def candidates(self, members: Mapping[str, bytes]) -> list[Candidate]:
            return []

    title = JsonFields({"title": 1.0}, member="meta")
    labels = LabelTemplates(["a"], ["{}"], field="json:category")
    assert TextField().members == {"txt", "json"}
    assert TextField("caption", one_per_line=True).members == {"caption"}
    assert MixedCaptions([TextField("a", True), OptionalCaption(title)]).members == {"a", "meta"}
    assert TemplatedCaptions(labels, ["a {}"]).members == {"json"}
    assert MixedCaptions([title, Own()]).members is None


def test_mixtures_leave_out_what_a_sample_lacks() -> None:
    picker = MixedCaptions(
        [TextField(), TemplatedCaptions(JsonFields({"keywords": 1.0}), ["an icon of {}"])],
        weights=[1.0, 3.0],
    )
    assert close(
        shares(picker), {"ein Hund": 0.25, "an icon of pet": 0.375, "an icon of animal": 0.375}
    )
    assert shares(picker, {"txt": b"only this"}) == {"only this": 1.0}
    with pytest.raises(SampleError, match="member 'txt' or fields keywords of member 'json'"):
        picker({"jpg": b""}, np.random.default_rng(0))


def test_the_choice_depends_on_the_generator_alone() -> None:
    picker = JsonFields({"names": 1.0, "keywords": 1.0})
    first = [picker(SAMPLE, np.random.default_rng(seed)) for seed in range(30)]
    again = [picker(SAMPLE, np.random.default_rng(seed)) for seed in reversed(range(30))]
    assert first == again[::-1]
    assert len(set(first)) > 3


def test_one_random_number_is_drawn_however_many_captions() -> None:
    after = set()
    for members in (SAMPLE, {"txt": b"x"}, {"txt": b"one\ntwo"}):
        rng = np.random.default_rng(5)
        TextField(one_per_line=True)(members, rng)
        after.add(rng.random())
    assert len(after) == 1


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"txt": b"caf\xe9"}, "not UTF-8: byte 0xe9 at 3"),
        ({"txt": b" \n "}, "missing or empty"),
        ({}, "missing or empty"),
    ],
)
def test_bad_texts(members: dict[str, bytes], reason: str) -> None:
    with pytest.raises(SampleError, match=reason):
        TextField()(members, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "'json' is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[1, 2]", "missing or empty"),
        (b'{"name": 3}', "field 'name': expected text, got 3"),
        (b'{"name": ["a", {}]}', "field 'name': expected text, got {}"),
        (b'{"name": {"de": 4}}', r"field 'name\.de': expected text, got 4"),
        (b'{"name": []}', "missing or empty"),
    ],
)
def test_bad_json(data: bytes, reason: str) -> None:
    with pytest.raises(SampleError, match=reason):
        JsonFields({"name": 1.0})({"json": data}, np.random.default_rng(0))


def test_bad_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fields: expected weights"):
        JsonFields({"name": -1.0})
    with pytest.raises(ConfigError, match="fields: expected weights"):
        JsonFields({"name": 0.0})
    with pytest.raises(ConfigError, match="languages: expected weights"):
        JsonFields({"name": 1.0}, languages={"de": float("nan")})
    with pytest.raises(ConfigError, match="one for each of the 1 pickers, got 2"):
        MixedCaptions([TextField()], [1.0, 2.0])
    with pytest.raises(ConfigError, match=r"templates: expected '\{\}'"):
        LabelTemplates(["cat"], ["a photo"])
    with pytest.raises(ConfigError, match="templates"):
        TemplatedCaptions(TextField(), [])
    with pytest.raises(ConfigError, match="classnames: expected at least one name"):
        LabelTemplates([], ["a {}"])
    with pytest.raises(ConfigError, match="classnames: cannot read"):
        LabelTemplates(str(tmp_path / "gone.txt"), ["a {}"])
