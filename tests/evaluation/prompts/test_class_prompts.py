"""Prompts: lists by name, files in CLIP_benchmark's and open_clip's form, prompts of each class."""

from __future__ import annotations

import json
from types import SimpleNamespace

import open_clip
import pytest

from clipkit.errors import ConfigError
from clipkit.evaluation.prompts.class_prompts import (
    GENERIC_TEMPLATES,
    TEMPLATE_LISTS,
    ClassPrompts,
    resolve_prompts,
)

NAMES = ("wren", "sparrow")


def data(name="birds", templates=()):
    return SimpleNamespace(name=name, class_names=NAMES, templates=templates)


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
    assert set(TEMPLATE_LISTS) == {"openai", "simple", "generic"}


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
