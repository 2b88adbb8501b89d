"""Prompts: lists by name, files in CLIP_benchmark's and open_clip's form, prompts of each class."""

from __future__ import annotations

import json
from types import SimpleNamespace

import open_clip
import pytest

from clipkit.data import Concept, FactTable
from clipkit.errors import ConfigError
from clipkit.evaluation.datasets.queries import IMAGES
from clipkit.evaluation.prompts.class_prompts import (
    GENERIC_TEMPLATES,
    TEMPLATE_LISTS,
    ClassPrompts,
    resolve_prompts,
)

NAMES = ("wren", "sparrow")


def data(name="birds", templates=()):
    return SimpleNamespace(name=name, class_names=NAMES, templates=templates, modality=IMAGES)


@pytest.mark.parametrize("name", ["openai", "simple"])
def test_lists_are_the_functions_of_open_clip(name):
    functions = getattr(open_clip, f"{name.upper()}_IMAGENET_TEMPLATES")
    expected = tuple(tuple(function(bird) for function in functions) for bird in NAMES)
    assert resolve_prompts(name, NAMES, data()) == ClassPrompts(expected)
    assert len(expected[0]) == {"openai": 80, "simple": 7}[name]


def test_without_templates_those_of_the_data_are_used():
    assert resolve_prompts(None, NAMES, data(templates=("a {c}",))).positive == (
        ("a wren",), ("a sparrow",),
    )  # fmt: skip
    generic = resolve_prompts(None, NAMES, data())
    assert generic == resolve_prompts("generic", NAMES, data())
    assert len(generic.positive[0]) == len(GENERIC_TEMPLATES)
    assert set(TEMPLATE_LISTS) == {"openai", "simple", "generic", "sound", "clap"}


def test_files_in_every_form(tmp_path):
    (tmp_path / "t.txt").write_text("a {c}\nthe {}\n")
    (tmp_path / "t.json").write_text(
        json.dumps({"imagenet1k": ["x {c}"], "birds": ["a {c}", "the {}"]})
    )
    by_class = {"wren": ["a wren", "the wren"], "sparrow": ["a {}", "the {c}"]}
    (tmp_path / "c.json").write_text(json.dumps({"birds": by_class}))
    (tmp_path / "c.yaml").write_text(json.dumps(by_class))
    expected = (("a wren", "the wren"), ("a sparrow", "the sparrow"))
    for file in ("t.txt", "t.json", "t.json:birds", "c.json", "c.yaml"):
        assert resolve_prompts(f"{tmp_path}/{file}", NAMES, data()).positive == expected
    assert resolve_prompts(by_class, NAMES, data()).positive == expected
    # a class may have the name of the data
    assert resolve_prompts(f"{tmp_path}/c.yaml", NAMES, data("wren")).positive == expected


def test_pairs_of_prompts():
    templates = {"positive": ["a {}", "{}"], "negative": ["no {}"]}
    pairs = resolve_prompts(templates, NAMES, data())
    assert pairs.positive == (("a wren", "wren"), ("a sparrow", "sparrow"))
    assert pairs.negative == (("no wren",), ("no sparrow",))
    of_class = {
        "wren": {"positive": ["a {}", "{}"], "negative": ["no wren"]},
        "sparrow": {"positive": ["a sparrow", "sparrow"], "negative": ["no {}"]},
    }
    assert resolve_prompts(of_class, NAMES, data()) == pairs
    # two classes with these names are classes
    names = ("negative", "positive")
    signs = {"positive": ["a positive test"], "negative": ["a negative test"]}
    assert resolve_prompts(signs, names, data()) == ClassPrompts(
        (("a negative test",), ("a positive test",))
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a bird"], "expected '{}' in every template, got 'a bird'"),
        ([], "at least one template"),
        ("opena", "did you mean 'openai'"),
        ("none.json", "there is no file"),
        ({"wren": ["a"]}, r"got none of 1 \(sparrow\)"),
        ({"wren": ["a"], "sparrow": []}, "sparrow: expected at least one prompt"),
        ({"wren": ["a"], "sparrow": [" "]}, "sparrow: .* none that is empty"),
        ({"wren": ["a"], "sparrow": [3]}, "sparrow: expected a list of texts"),
        ({"wren": ["a"], "sparrow": "a b"}, "sparrow: expected a list of texts"),
        ({"wren": ["a"], "sparrow": {"negative": ["b"]}}, "the keys positive and negative"),
        (
            {"wren": ["a"], "sparrow": {"positive": ["a"], "negative": ["b"]}},
            "those of 1 of 2 classes",
        ),
        ({"positive": ["a {}"], "negative": ["no"]}, "negative: expected '{}' in every template"),
    ],
)
def test_hostile_prompts_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        resolve_prompts(given, NAMES, data())


def test_prompts_of_other_classes_are_reported(caplog):
    resolve_prompts({"wren": ["a"], "sparrow": ["b"], "owl": ["c"]}, NAMES, data())
    assert "prompts of 1 other classes are not used" in caplog.text


def test_classes_with_the_same_prompts_are_found():
    prompts = resolve_prompts(["a {}"], ["missile", "tank", "missile", "missile"], data())
    assert prompts.repeated() == {2: 0, 3: 0}


def table(**definitions):
    return FactTable([Concept(name, {"definition": text}) for name, text in definitions.items()])


def test_definitions_are_added_to_every_prompt(tmp_path, caplog):
    (tmp_path / "facts.csv").write_text("name,definition\nWren,a small bird\nrobin,red\n")
    found = resolve_prompts(["a {}.", "{c}"], NAMES, data(), str(tmp_path / "facts.csv"))
    assert found.positive == (
        ("a wren, a small bird", "wren, a small bird"),
        ("a sparrow.", "sparrow"),
    )
    assert found.templates == tuple(text for texts in found.positive for text in texts)
    assert "no definition of 1 of 2 classes (sparrow)" in caplog.text
    pairs = {"positive": ["a {}"], "negative": ["no {}"]}
    of_pairs = resolve_prompts(pairs, NAMES, data(), table(wren="a bird"))
    assert of_pairs.negative == (("no wren, a bird",), ("no sparrow",))
    own = resolve_prompts({"wren": ["it"], "sparrow": ["x"]}, NAMES, data(), table(sparrow="y"))
    assert own.positive == (("it",), ("x, y",))


def test_the_longest_concept_of_a_class_name_is_defined():
    facts = FactTable([
        Concept("crane", {"definition": "a bird"}),
        Concept("tower crane", {"definition": "a machine"}),
        Concept("old tower crane", {"kind of": "kind of machine"}),
    ])  # fmt: skip
    found = resolve_prompts(["{}"], ("small tower crane", "crane"), data(), facts)
    assert found.positive == (("small tower crane, a machine",), ("crane, a bird",))


def test_a_table_without_any_of_the_classes_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"facts: facts: expected definitions .* \(wren, sparrow"):
        resolve_prompts(None, NAMES, data(), table(robin="a bird"))
    with pytest.raises(ConfigError, match="there is no file"):
        resolve_prompts(None, NAMES, data(), str(tmp_path / "gone.csv"))
