"""Class names: ImageNet's by WordNet id, files, and lists whose numbers cannot be right."""

from __future__ import annotations

import json
import random
import re
from types import SimpleNamespace

import pytest
from timm.data import ImageNetInfo

from clipkit.errors import ConfigError, DataError
from clipkit.evaluation.prompts.class_lists import resolve_class_names
from clipkit.evaluation.prompts.wnids import are_wnids, imagenet_names, names_of_wnids


def data(*class_names, name="birds"):
    return SimpleNamespace(name=name, class_names=class_names, templates=())


def words(text):
    return set(re.findall("[a-z]+", text.lower()))


def test_every_wordnet_id_gets_the_name_of_its_own_class():
    info = ImageNetInfo()
    wnids = info.label_names()
    assert wnids == sorted(wnids)
    assert len(set(wnids)) == 1000
    names = names_of_wnids(wnids, "data")
    assert names == imagenet_names()
    # WordNet's own words are the oracle: a list that is shifted by one agrees almost nowhere
    described = [info.index_to_description(n, detailed=True) for n in range(1000)]
    agree = [bool(words(a) & words(b)) for a, b in zip(names, described, strict=True)]
    shifted = [bool(words(a) & words(b)) for a, b in zip(names[1:], described, strict=False)]
    assert sum(agree) > 930
    assert sum(shifted) < 350


def test_known_ids_have_known_names():
    pairs = {
        "n01440764": "tench", "n02012849": "crane bird", "n03126707": "construction crane",
        "n03710637": "tights", "n15075141": "toilet paper",
    }  # fmt: skip
    assert names_of_wnids(list(pairs), "data") == tuple(pairs.values())


@pytest.mark.parametrize("subset", ["imagenet_a", "imagenet_r", "mini_imagenet"])
def test_subsets_in_any_order_get_the_names_of_their_own_ids(subset):
    text = ImageNetInfo.__init__.__globals__["pkgutil"].get_data(
        "timm.data", f"_info/{subset}_synsets.txt"
    )
    wnids = text.decode().split()
    random.Random(0).shuffle(wnids)
    all_names = dict(zip(ImageNetInfo().label_names(), imagenet_names(), strict=True))
    for given in (None, "imagenet"):
        assert resolve_class_names(given, data(*wnids)) == tuple(all_names[w] for w in wnids)


def test_other_wordnet_ids_are_named():
    with pytest.raises(DataError, match=r"1 of 2 classes are WordNet ids outside.*\(n00007846\)"):
        resolve_class_names(None, data("n01440764", "n00007846"))
    assert not are_wnids(())
    assert not are_wnids(["n0144076", "n01440764"])


def test_imagenet_is_refused_for_other_numbers_of_classes_and_other_orders():
    assert resolve_class_names("imagenet", data()) == imagenet_names()
    assert resolve_class_names("imagenet", data(*imagenet_names())) == imagenet_names()
    with pytest.raises(DataError, match=r"expected 2 class names.*got 1000"):
        resolve_class_names("imagenet", data("tench", "goldfish"))
    alphabetical = sorted(imagenet_names())
    with pytest.raises(DataError, match=r"which is number .* of the class names that were given"):
        resolve_class_names("imagenet", data(*alphabetical))
    wordnet = ImageNetInfo().label_descriptions()
    assert resolve_class_names("imagenet", data(*wordnet)) == imagenet_names()
    with pytest.raises(DataError, match=r"which is number"):
        resolve_class_names("imagenet", data(*sorted(wordnet)))


@pytest.mark.parametrize("key", ["birds", "wds/birds", None])
def test_files_in_every_form(tmp_path, key):
    names = ["wren", "sparrow"]
    (tmp_path / "n.txt").write_text("\ufeffwren\nsparrow\n\n", encoding="utf-8")
    content = names if key is None else {"imagenet1k": ["tench"], key: names}
    (tmp_path / "n.json").write_text(json.dumps(content))
    (tmp_path / "n.yaml").write_text("b: sparrow\na: wren\nc: other\n")
    of = data("a", "b", name="wds_birds" if key == "birds" else "birds")
    addresses = [tmp_path / "n.txt", tmp_path / "n.yaml"]
    if key != "wds/birds":
        addresses.append(tmp_path / "n.json")
    if key is not None:
        addresses.append(f"{tmp_path}/n.json:{key}")
    for address in addresses:
        assert resolve_class_names(str(address), of) == ("wren", "sparrow")


def test_the_hub_name_of_a_data_set_finds_its_entry(tmp_path):
    (tmp_path / "n.json").write_text('{"pets": ["cat", "dog"], "vtab/dtd": ["a", "b"]}')
    of = [data(name="wds_vtab-pets"), data(name="wds_vtab-dtd")]
    assert [resolve_class_names(f"{tmp_path}/n.json", d)[0] for d in of] == ["cat", "a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"other": ["a"]}', "expected a list of texts, got a mapping with the keys other"),
        ('{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        ("[1, 2]", "expected a list of texts"),
        ("[", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "at least one name"),
    ],
)
def test_hostile_files_are_refused(tmp_path, content, message):
    (tmp_path / "n.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        resolve_class_names(f"{tmp_path}/n.json", data("x", "y"))


def test_missing_files_keys_and_kinds_are_named(tmp_path):
    (tmp_path / "n.json").write_text('{"pets": ["a"]}')
    with pytest.raises(ConfigError, match="no key 'pet'; did you mean 'pets'"):
        resolve_class_names(f"{tmp_path}/n.json:pet", data())
    with pytest.raises(ConfigError, match="there is no file"):
        resolve_class_names(f"{tmp_path}/none.txt", data())
    with pytest.raises(ConfigError, match="expected a name of a list or a file"):
        resolve_class_names("imagent", data())
    (tmp_path / "n.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="cannot read"):
        resolve_class_names(f"{tmp_path}/n.txt", data())


def test_lists_of_another_length_or_order_are_refused():
    with pytest.raises(DataError, match=r"expected 3 class names.*got 2"):
        resolve_class_names(["a", "b"], data("a", "b", "c"))
    with pytest.raises(DataError, match="class 0 is 'Old_Horse', which is number 1"):
        resolve_class_names(["dog", "old horse"], data("Old_Horse", "dog"))
    assert resolve_class_names(["chien", "cheval"], data("dog", "horse")) == ("chien", "cheval")


def test_folders_that_are_called_by_numbers_keep_their_numbers(tmp_path):
    folders = sorted(map(str, range(1000)))  # 0, 1, 10, 100, ...: ImageNet-V2
    names = resolve_class_names("imagenet", data(*folders))
    assert [names[folders.index(str(n))] for n in range(1000)] == list(imagenet_names())
    assert resolve_class_names("imagenet", data("10", "2")) == (
        imagenet_names()[10], imagenet_names()[2],
    )  # fmt: skip
    assert resolve_class_names(["zero", "one"], data("0", "1")) == ("zero", "one")
    assert resolve_class_names(None, data("0", "1")) == ("0", "1")
    with pytest.raises(DataError, match="has a class '2', expected class names for the numbers"):
        resolve_class_names(["one", "two"], data("1", "2"))
    (tmp_path / "n.yaml").write_text("'1': one\n'2': two\n")
    assert resolve_class_names(f"{tmp_path}/n.yaml", data("1", "2")) == ("one", "two")
