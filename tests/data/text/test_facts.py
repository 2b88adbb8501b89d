"""Tables of facts, the concepts that a text mentions, and captions with a fact."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from clipkit.data import (
    Concept,
    FactTable,
    JsonFields,
    KnowledgeCaptions,
    LabelTemplates,
    LanguageCaptions,
    TextField,
)
from clipkit.data.text.facts import words_of
from clipkit.errors import ConfigError, DataError, SampleError

ROWS: list[dict] = [
    {"name": "cello", "definition": "a large string instrument", "kind of": ["instrument"]},
    {"name": "Red Panda", "definition": "a mammal; it eats bamboo", "aliases": ["firefox"]},
    {"name": "panda", "definition": "a bear", "lives_in": ["China", "zoos"]},
    {"name": "熊猫", "definition": "一种熊"},
    {"name": "كلب", "definition": "حيوان أليف"},
]


def write_csv(folder, separator=","):
    path = folder / ("facts.csv" if separator == "," else "facts.tsv")
    names = ["name", "definition", "aliases", "kind of", "lives_in"]
    lines = [separator.join(names)]
    for row in ROWS:
        cells = [row.get(name, "") for name in names]
        lines.append(separator.join(";".join(c) if isinstance(c, list) else c for c in cells))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def write_json(folder):
    (folder / "facts.json").write_text(json.dumps(ROWS), encoding="utf-8")
    return folder / "facts.json"


def write_mapping(folder):
    content: dict = {row["name"]: {k: v for k, v in row.items() if k != "name"} for row in ROWS}
    content["熊猫"] = "一种熊"
    path = folder / "by_name.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def write_parquet(folder):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist([
        {name: row.get(name) for name in ("name", "definition", "aliases", "kind of", "lives_in")}
        for row in ROWS
    ]), folder / "facts.parquet")  # fmt: skip
    return folder / "facts.parquet"


@pytest.mark.parametrize(
    "write", [write_csv, lambda f: write_csv(f, "\t"), write_json, write_mapping, write_parquet]
)
def test_every_format_gives_the_same_table(tmp_path, write):
    table = FactTable.from_file(write(tmp_path))
    assert [c.name for c in table.concepts] == ["cello", "Red Panda", "panda", "熊猫", "كلب"]
    assert table.concepts[0].facts == {
        "definition": "a large string instrument", "kind of": "kind of instrument",
    }  # fmt: skip
    assert table.concepts[1].facts == {"definition": "a mammal; it eats bamboo"}
    assert table.concepts[2].facts["lives_in"] == "lives in China, zoos"
    assert table.concepts[1].aliases == ("firefox",)
    assert table.digest == FactTable.from_file(write_json(tmp_path)).digest


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return FactTable.from_file(write_json(tmp_path_factory.mktemp("facts")))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("A CELLO, played", ["cello"]),
        ("cellos and a cellophane bag", []),
        ("a red-panda and a panda", ["Red Panda", "panda"]),
        ("panda red", ["panda"]),
        ("the firefox sleeps", ["Red Panda"]),
        ("一只小熊猫在睡觉", ["熊猫"]),
        ("熊和猫", []),
        ("هذا كلب صغير", ["كلب"]),
        ("panda panda Panda", ["panda"]),
        ("ｐａｎｄａ", ["panda"]),
        ("", []),
        ("🐼", []),
    ],
)
def test_concepts_in_a_text(table, text, names):
    assert [concept.name for concept in table.concepts_in(text)] == names


def test_concepts_equal_those_of_a_search_for_every_span(table):
    """Random texts against a search that knows no table by words."""
    rng = np.random.default_rng(0)
    names = {words_of(n): c.name for c in table.concepts for n in (c.name, *c.aliases)}
    vocabulary = ["red", "panda", "cello", "a", "firefox", "熊", "猫", "كلب"]
    for _ in range(200):
        words = [vocabulary[i] for i in rng.integers(0, len(vocabulary), rng.integers(0, 9))]
        found, at = [], 0
        while at < len(words):
            spans = [s for s in range(1, len(words) - at + 1) if tuple(words[at : at + s]) in names]
            if spans:
                found.append(names[tuple(words[at : at + max(spans)])])
            at += max(spans, default=1)
        got = [concept.name for concept in table.concepts_in(" ".join(words))]
        assert got == list(dict.fromkeys(found))


def shares(picker, members, draws=4000):
    rng = np.random.default_rng(0)
    counts = Counter(picker(members, rng) for _ in range(draws))
    return {text: count / draws for text, count in counts.items()}


def test_facts_by_probability_and_kind(table):
    kinds = {"definition": 1.0, "lives_in": 3.0}
    picker = KnowledgeCaptions(table, TextField(one_per_line=True), 0.8, kinds)
    found = shares(picker, {"txt": b"a panda.\nno animal"})
    expected = {
        "no animal": 0.5, "a panda.": 0.1, "a panda, a bear": 0.1,
        "a panda, lives in China, zoos": 0.3,
    }  # fmt: skip
    assert found.keys() == expected.keys()
    assert all(abs(found[text] - share) < 0.03 for text, share in expected.items())


def test_probabilities_at_the_ends(table):
    members = {"txt": b"a cello and a panda"}
    assert shares(KnowledgeCaptions(table, probability=0.0), members, 20).keys() == {
        "a cello and a panda"
    }
    always = KnowledgeCaptions(table, probability=1.0)
    assert shares(always, members, 100).keys() == {
        "a cello and a panda, a large string instrument", "a cello and a panda, a bear",
    }  # fmt: skip
    total = sum(c.weight for c in KnowledgeCaptions(table, probability=0.3).candidates(members))
    assert total == pytest.approx(1.0)


def test_one_random_number_is_drawn(table):
    after = set()
    for text in (b"a cello", b"no concept"):
        rng = np.random.default_rng(5)
        KnowledgeCaptions(table)({"txt": text}, rng)
        after.add(rng.random())
    assert len(after) == 1


def test_labels_and_languages(table):
    labels = LabelTemplates(["cat", "cello"], ["a photo of a {}."])
    picker = KnowledgeCaptions(table, labels, probability=1.0)
    assert picker({"cls": b"1"}, np.random.default_rng(0)) == (
        "a photo of a cello, a large string instrument"
    )
    of_languages = KnowledgeCaptions(table, LanguageCaptions("txt.{language}"), probability=1.0)
    found = of_languages.candidates({"txt.ar": "كلب".encode(), "txt.en": b"a dog"})
    assert [(c.text, c.language) for c in found] == [("كلب, حيوان أليف", "ar"), ("a dog", "en")]


def test_members_are_those_of_the_picker(table):
    assert KnowledgeCaptions(table).members == TextField().members == {"txt", "json"}
    fields = KnowledgeCaptions(table, JsonFields({"a": 1.0}, member="meta"))
    assert fields.members == {"meta"}
    assert KnowledgeCaptions(table, LanguageCaptions("txt.{language}")).members is None


def test_other_errors_are_those_of_the_picker(table):
    with pytest.raises(SampleError, match="no caption: member 'txt' is missing"):
        KnowledgeCaptions(table)({}, np.random.default_rng(0))
    with pytest.raises(SampleError, match="'json' is not JSON"):
        KnowledgeCaptions(table, JsonFields({"a": 1.0})).candidates({"json": b"{"})


@pytest.mark.parametrize(
    ("name", "content", "error", "reason"),
    [
        ("a.txt", b"x", ConfigError, r"expected a table \(.csv, .tsv, .json, .parquet\), got"),
        ("a.csv", None, ConfigError, "there is no file"),
        ("a.csv", b"", DataError, "expected a header with the column 'name'.*got none"),
        ("a.csv", b"word,definition\nx,y\n", DataError, "got 'word', 'definition'"),
        ("a.csv", b"name,name\nx,y\n", DataError, "no column twice"),
        ("a.csv", b"name,definition\na,b,c\n", DataError, "line 2: expected 2 cells, got 3"),
        ("a.csv", b"name,definition\n,b\n", DataError, "line 2: column 'name'.*got ''"),
        ("a.csv", b"name,definition\na,\n", DataError, "line 2: 'a': expected a definition"),
        ("a.csv", b"name,definition\na,b\nA!,c\n", DataError, "got 'A!' and 'a'; join"),
        ("a.csv", b"name,definition\n...,b\n", DataError, r"got '\.\.\.', without a word"),
        ("a.csv", b"name,definition\n", DataError, "at least one concept, got none"),
        ("a.csv", b"name,definition\ncaf\xe9,b\n", DataError, "expected UTF-8, got byte 0xe9"),
        ("a.csv", b"name,definition\na," + b"x" * 3000, DataError, "at most 2,000 characters"),
        (
            "a.csv",
            b'name,definition\n"' + b"x" * 200_000,
            DataError,
            "line [12]: (field larger|column 'name')",
        ),
        ("a.json", b"{", DataError, "not JSON"),
        ("a.json", b"[" * 100_000, DataError, "not JSON"),
        ("a.json", b"3", DataError, "expected a list of objects with a name.*got int"),
        ("a.json", b"[3]", DataError, "item 1: expected a list of objects.*got 3"),
        ("a.json", b'{"a": 3}', DataError, "'a': expected a list of objects.*got 3"),
        ("a.json", b'[{"name": 3}]', DataError, "item 1: column 'name'.*got 3"),
        ("a.json", b'{"a": {"kind of": [3]}}', DataError, "'a': column 'kind of'.*got 3"),
        ("a.parquet", b"PAR1 and no table", DataError, "not a complete Parquet file"),
    ],
)
def test_bad_tables(tmp_path, name, content, error, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=reason):
        FactTable.from_file(tmp_path / name)


def test_bad_options(table):
    with pytest.raises(ConfigError, match="probability: expected a number from 0 to 1"):
        KnowledgeCaptions(table, probability=1.5)
    with pytest.raises(ConfigError, match="did you mean 'definition'"):
        KnowledgeCaptions(table, kinds={"definitions": 1.0})
    with pytest.raises(ConfigError, match="kinds: expected weights"):
        KnowledgeCaptions(table, kinds={"definition": -1.0})


def test_a_name_wins_against_an_alias():
    facts = {"definition": "x"}
    table = FactTable([Concept("a", facts, ("b",)), Concept("b", {"definition": "y"})])
    assert table.concepts_in("b")[0].facts["definition"] == "y"
