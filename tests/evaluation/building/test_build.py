"""Evaluation sets from a table, from files to what reads the result."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipkit.data import JsonFields, pack
from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.reader import ShardReader
from clipkit.errors import ConfigError, DataError, FaultBudgetExceeded
from clipkit.evaluation import (
    PairChoice,
    Retrieval,
    RetrievalOptions,
    ZeroShotClassification,
    open_choices,
    open_dataset,
)
from clipkit.evaluation.building import (
    DuplicateOptions,
    SampleFields,
    SourceOptions,
    SplitOptions,
    WriteOptions,
    build_evaluation_set,
)
from tests.helpers.evaluation_data import tiny_encoder
from tests.helpers.planted_copies import CLASSES, drawing, write_table

FIELDS = SampleFields(language="json:language", license="json:license")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def built(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "own"
    build_evaluation_set(table, out, fields=FIELDS, split=SplitOptions(test_size=0.3))
    return out


def samples(folder: Path) -> dict[str, dict[str, Any]]:
    """The JSON of each sample of a split, by key."""
    reader = ShardReader(ShardIndex.from_urls(folder))
    raw = [reader.read(number) for number in range(reader.num_samples)]
    return {each.key: json.loads(each.members["json"]) for each in raw}


def content(folder: Path) -> dict[str, str]:
    """A hash of each file, without the index files of readers."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".index.npz")
    }


def test_no_copy_is_in_both_splits(built: Path):
    train, test = ({s["original"] for s in samples(built / n).values()} for n in ("train", "test"))
    assert train & test == set()
    assert train | test == {str(n) for n in range(40)} or train | test == set(range(40))


def test_sizes_and_shares(built: Path):
    facts = json.loads((built / "statistics.json").read_text())
    sizes = {name: split["num_samples"] for name, split in facts["splits"].items()}
    assert sizes["train"] + sizes["test"] == 72
    assert 18 <= sizes["test"] <= 26
    assert facts["stratified_by"] == "class"
    classes = facts["splits"]["test"]["classes"]
    assert set(classes) == set(CLASSES)
    assert facts["leakage"]["num_equal_images"] + facts["leakage"]["num_image_pairs"] >= 32


def test_the_layout_is_that_of_clip_benchmark(built: Path):
    assert (built / "test/nshards.txt").read_text() == "1\n"
    assert (built / "dataset_type.txt").read_text() == "retrieval\n"
    assert (built / "classnames.txt").read_text().splitlines() == sorted(CLASSES)
    templates = (built / "zeroshot_classification_templates.txt").read_text().splitlines()
    assert templates
    assert all(template.format(c="owl") for template in templates)
    data = open_dataset(built)
    assert data.task == "retrieval"
    assert data.class_names == tuple(sorted(CLASSES))
    assert len(open_dataset(built, "train")) + len(data) == 72


def test_evaluators_and_streams_read_it(built: Path):
    encoder = tiny_encoder()
    positives = RetrievalOptions(positives=str(built / "extra_positives.json"))
    for options in (RetrievalOptions(), positives):
        metrics = Retrieval(built, correct=options).run(encoder)
        assert 0 <= metrics["text_to_image/recall_at_1"] <= 1
    assert 0 <= ZeroShotClassification(built).run(encoder)["top1"] <= 1
    assert ShardIndex.from_urls(built / "train").num_samples == len(open_dataset(built, "train"))


def test_the_same_bytes_with_any_number_of_workers(table: Path, built: Path, tmp_path: Path):
    again = tmp_path / "own"
    build_evaluation_set(
        table, again, fields=FIELDS, split=SplitOptions(test_size=0.3),
        reading=SourceOptions(num_workers=4),
    )  # fmt: skip
    assert content(again) == content(built)


def test_the_same_split_from_shards_in_another_order(table: Path, built: Path, tmp_path: Path):
    pack(table, tmp_path / "shards", samples_per_shard=13)
    out = tmp_path / "own"
    build_evaluation_set(tmp_path / "shards", out, fields=FIELDS, split=SplitOptions(test_size=0.3))
    names = [
        {sample["image"] for sample in samples(each / "test").values()} for each in (built, out)
    ]
    assert names[0] == names[1]


def test_several_small_shards(table: Path, tmp_path: Path):
    build_evaluation_set(
        table, tmp_path / "own", writing=WriteOptions(samples_per_shard=10),
        reading=SourceOptions(num_workers=3),
    )  # fmt: skip
    count = int((tmp_path / "own/train/nshards.txt").read_text())
    assert count == len(list((tmp_path / "own/train").glob("*.tar"))) == 6
    assert json.loads((tmp_path / "own/train/sizes.json").read_text())["0.tar"] == 10
    assert len(open_dataset(tmp_path / "own", "train")) >= 51


def test_fields_stay_in_one_split(table: Path, tmp_path: Path):
    build_evaluation_set(
        table, tmp_path / "own",
        split=SplitOptions(test_size=0.3, groups=("json:patient",), stratify="none"),
    )  # fmt: skip
    patients = [
        {sample["patient"] for sample in samples(tmp_path / "own" / name).values()}
        for name in ("train", "test")
    ]
    assert patients[0] & patients[1] == set()
    assert all(patients)


def test_samples_without_a_field_of_groups_are_counted(tmp_path: Path):
    table = write_table(tmp_path / "source", 12, 0, classes=False)
    table.write_text(table.read_text().replace(",p0", ","))
    built = build_evaluation_set(
        table, tmp_path / "own", split=SplitOptions(test_size=4, groups=("json:patient",))
    )
    assert built.facts["leakage"]["num_without_field"] == {"json:patient": 3}
    assert "3 samples have no `json:patient`" in (tmp_path / "own/README.md").read_text()


def test_negatives_are_other_captions_of_the_test_split(built: Path):
    test = samples(built / "test")
    captions = {caption for sample in test.values() for caption in sample["captions"]}
    originals = {key: sample["original"] for key, sample in test.items()}
    for sample in test.values():
        assert len(sample["negative_captions"]) == 5
        assert set(sample["negative_captions"]) <= captions - set(sample["captions"])
        assert {originals[key] for key in sample["negative_images"]} - {sample["original"]}
        assert all(originals[key] != sample["original"] for key in sample["negative_images"])
    assert all("negative_captions" not in sample for sample in samples(built / "train").values())


def test_pair_choice_reads_the_negatives(built: Path):
    choices = open_choices(built)
    test = samples(built / "test")
    for number in range(len(choices)):
        sample = test[choices.key(number)]
        assert choices.texts(number) == (sample["captions"][0], *sample["negative_captions"])
    metrics = PairChoice(built).run(tiny_encoder())
    assert 0 <= metrics["acc"] == metrics["text_acc"] <= 1


def test_copies_are_extra_positives(built: Path):
    test = samples(built / "test")
    by_original: dict[Any, set[str]] = {}
    for key, sample in test.items():
        by_original.setdefault(sample["original"], set()).add(key)
    expected = {
        key: sorted(by_original[sample["original"]] - {key})
        for key, sample in test.items()
        if len(by_original[sample["original"]]) > 1
    }
    listed = json.loads((built / "extra_positives.json").read_text())["text_to_image"]
    assert {key: sorted(images) for key, images in listed.items()} == expected


def test_a_model_finds_negatives_and_near_duplicates(table: Path, tmp_path: Path):
    built = build_evaluation_set(
        table,
        tmp_path / "own",
        encoder=tiny_encoder(),
        duplicates=DuplicateOptions(image_distance=None, embedding_similarity=0.999),
        split=SplitOptions(test_size=0.3, stratify="none"),
    )
    assert built.facts["description"]["has_model"]
    assert built.facts["leakage"]["num_embedding_pairs"] >= 8
    test = samples(tmp_path / "own/test")
    assert all(len(sample["negative_captions"]) == 5 for sample in test.values())
    assert all(len(sample["negative_images"]) == 5 for sample in test.values())


def test_a_model_that_distinguishes_nothing_is_refused(table: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("clipkit.evaluation.building.embeddings._MOST_PAIRS_PER_IMAGE", 16)
    with pytest.raises(ConfigError, match=r"embedding_similarity: .* does not distinguish"):
        build_evaluation_set(
            table, tmp_path / "own", encoder=tiny_encoder(),
            duplicates=DuplicateOptions(embedding_similarity=0.3),
        )  # fmt: skip


def test_class_folders_are_classification_data(tmp_path: Path):
    for number in range(12):
        folder = tmp_path / "photos" / CLASSES[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        drawing(number).save(folder / f"{number}.png")
    build_evaluation_set(tmp_path / "photos", tmp_path / "own", split=SplitOptions(test_size=6))
    assert (tmp_path / "own/dataset_type.txt").read_text() == "classification\n"
    assert not (tmp_path / "own/extra_positives.json").exists()
    facts = json.loads((tmp_path / "own/statistics.json").read_text())
    assert facts["splits"]["test"]["classes"] == {"cat": 2, "dog": 2, "owl": 2}
    assert facts["leakage"]["num_generic_captions_in_both"] == 3


def test_the_card_is_one_that_the_hub_reads(built: Path):
    text = (built / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    metadata = yaml.safe_load(header)
    assert metadata["license"] == "cc-by-4.0"
    assert sorted(metadata["language"]) == ["de", "en"]
    assert metadata["size_categories"] == ["n<1K"]
    (config,) = metadata["configs"]
    assert [each["path"] for each in config["data_files"]] == ["train/*.tar", "test/*.tar"]
    assert "## Known limits" in body
    assert "| de |" in body
    page = (built / "data_card.html").read_text()
    assert page.count("<img ") >= 18
    assert "Known limits" in page


def test_names_cannot_change_the_page(tmp_path: Path):
    table = write_table(tmp_path / "source", 8, 0)
    text = table.read_text().replace("chair 7 near", "<script>alert(1)</script>")
    table.write_text(text.replace("cat,", "cat,").replace("cc-by-4.0", "<b>|x"))
    build_evaluation_set(table, tmp_path / "own", fields=FIELDS, split=SplitOptions(test_size=5))
    page = (tmp_path / "own/data_card.html").read_text()
    assert "<script>alert" not in page
    assert "<b>|x" not in page
    assert "&lt;b>\\|x" in (tmp_path / "own/README.md").read_text()


def test_captions_from_another_field_are_written_as_lines(tmp_path: Path):
    table = write_table(tmp_path / "source", 10, 0, classes=False)
    fields = SampleFields(caption=JsonFields({"language": 1.0, "caption": 1.0}))
    build_evaluation_set(table, tmp_path / "own", fields=fields, split=SplitOptions(test_size=4))
    captions = open_dataset(tmp_path / "own").sample(0).captions
    assert len(captions) == 2
    assert captions[0] in {"en", "de"}


def test_several_ranks_are_refused(table: Path, tmp_path: Path, monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="by one process, got 2 ranks"):
        build_evaluation_set(table, tmp_path / "own")


def test_an_existing_folder_is_kept_unless_it_is_to_be_replaced(table: Path, tmp_path: Path):
    out = tmp_path / "own"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        build_evaluation_set(table, out)
    with pytest.raises(ConfigError, match="is no evaluation set"):
        build_evaluation_set(table, out, writing=WriteOptions(overwrite=True))
    assert (out / "mine.txt").read_text() == "mine"
    (out / "mine.txt").unlink()
    build_evaluation_set(table, out)
    (out / "old.txt").write_text("old")
    build_evaluation_set(table, out, writing=WriteOptions(overwrite=True))
    assert not (out / "old.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_a_set_that_a_killed_build_had_moved_away_comes_back(table: Path, tmp_path: Path):
    out = tmp_path / "own"
    build_evaluation_set(table, out)
    before = content(out)
    out.rename(tmp_path / ".own.0123abcd.former")
    with pytest.raises(ConfigError, match="exists already"):
        build_evaluation_set(table, out)
    assert content(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_a_failing_build_leaves_nothing(table: Path, tmp_path: Path, monkeypatch):
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clipkit.evaluation.building.build.write_card", fail)
    with pytest.raises(OSError, match="No space"):
        build_evaluation_set(table, tmp_path / "own")
    assert list(tmp_path.iterdir()) == []


def test_broken_samples(tmp_path: Path):
    table = write_table(tmp_path / "source", 12, 0, classes=False)
    folder = table.parent
    (folder / "003-own.png").unlink()
    (folder / "004-own.png").write_bytes(b"no image")
    text = table.read_text().splitlines()
    text[6] = text[6].replace(text[6].split(",")[1], "")  # no caption
    table.write_text("\n".join(text) + "\n")
    with pytest.raises(FaultBudgetExceeded, match=r"max_bad_samples=0\):\n.*003-own.png: no such"):
        build_evaluation_set(table, tmp_path / "own")
    built = build_evaluation_set(table, tmp_path / "own", reading=SourceOptions(max_bad_samples=3))
    assert built.facts["num_faults"] == 3
    assert sum(split["num_samples"] for split in built.facts["splits"].values()) == 9
    assert "3 samples were left out" in (tmp_path / "own/README.md").read_text()


def test_all_samples_broken(tmp_path: Path):
    table = write_table(tmp_path / "source", 3, 0)
    for image in table.parent.glob("*.png"):
        image.write_bytes(b"")
    with pytest.raises(DataError, match="no usable samples"):
        build_evaluation_set(table, tmp_path / "own", reading=SourceOptions(max_bad_samples=9))


def test_all_images_are_copies_of_one(tmp_path: Path):
    table = write_table(tmp_path / "source", 1, 1)
    with pytest.raises(DataError, match="no test samples"):
        build_evaluation_set(table, tmp_path / "own")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": SplitOptions(stratify="language")}, "expects the field of the language"),
        ({"split": SplitOptions(test_size=5000)}, "test_size: expected 1 to 72 samples"),
        ({"fields": SampleFields(label="json:nothing"), "split": SplitOptions(stratify="class")},
         "expects samples with a class"),
        ({"split": SplitOptions(groups=("json:pateint",))}, "json:pateint: no sample has this"),
        ({"fields": SampleFields(language="json:lang")}, "json:lang: no sample has this"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_the_data(table: Path, tmp_path: Path, options, message):
    with pytest.raises(ConfigError, match=message):
        build_evaluation_set(table, tmp_path / "own", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options", [{"image_distance": 65}, {"caption_similarity": 0.1}, {"embedding_similarity": 2.0}]
)
def test_limits_out_of_range(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        DuplicateOptions(**options)
