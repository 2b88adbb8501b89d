"""Filters by script and language."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from clipkit.curation.candidates import Candidates
from clipkit.curation.filters import GroupCount, LanguageFilter, ScriptFilter
from clipkit.errors import ConfigError
from tests.helpers.given_collections import collection_of

CAPTIONS = [["two dogs"], ["две собаки", "two dogs"], ["42"], [], ["две", "собаки", "dogs"], None]


@pytest.fixture
def candidates(tmp_path):
    return Candidates(collection_of(tmp_path / "c", [4, 2], captions=CAPTIONS))


def test_at_least_half_of_the_captions_are_in_a_script(candidates):
    decision = ScriptFilter(("Latin",)).decide(candidates)
    assert decision.removed.tolist() == [False, False, True, True, True, True]
    groups = {"Latin": (3, 2), "Cyrillic": (3, 1), "none": (1, 0)}
    assert set(decision.groups) == {GroupCount(name, *n) for name, n in groups.items()}
    both = ScriptFilter(("Cyrillic", "none")).decide(candidates)
    assert both.removed.tolist() == [True, False, False, True, False, True]


def fake_langid(monkeypatch):
    """A py3langid that knows English and Russian."""
    identifier = SimpleNamespace(
        labels=["en", "ru"], classify=lambda text: ("en" if text.isascii() else "ru", -1.0)
    )
    module = ModuleType("py3langid.langid")
    vars(module).update(
        MODEL_FILE="data/model.npz.xz",
        LanguageIdentifier=SimpleNamespace(from_model_file=lambda name: identifier),
    )
    monkeypatch.setitem(sys.modules, "py3langid", ModuleType("py3langid"))
    monkeypatch.setitem(sys.modules, "py3langid.langid", module)


def test_languages(candidates, monkeypatch):
    fake_langid(monkeypatch)
    decision = LanguageFilter(("en",)).decide(candidates)
    assert decision.removed.tolist() == [False, False, True, True, True, True]
    with pytest.raises(ConfigError, match=r"expected codes that py3langid knows .*, got 'english'"):
        LanguageFilter(("english",)).decide(candidates)


def test_real_languages(tmp_path):
    pytest.importorskip("py3langid")
    texts = {
        "en": "a brown dog runs through the green grass",
        "de": "ein brauner Hund läuft durch das grüne Gras",
        "fr": "un chien brun court dans l'herbe verte",
        "zh": "一只棕色的狗在绿色的草地上奔跑",
    }
    collection = collection_of(tmp_path / "c", [4], captions=[[text] for text in texts.values()])
    for place, code in enumerate(texts):
        decision = LanguageFilter((code,)).decide(Candidates(collection))
        assert decision.removed.tolist() == [other != place for other in range(4)]


def test_a_missing_library_names_the_extra(candidates, monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(ConfigError, match=r"pip install 'clipkit\[languages\]'"):
        LanguageFilter(("en",)).decide(candidates)


def test_names_are_needed():
    for kind in (ScriptFilter, LanguageFilter):
        for names in ((), ("",)):
            with pytest.raises(ConfigError, match="expected at least one name"):
                kind(names)
