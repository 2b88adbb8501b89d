"""``clipkit evaluate`` and ``clipkit embed`` from their arguments to their files."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import torch

from clipkit.cli import embed
from clipkit.cli.arguments import caption_picker
from clipkit.cli.evaluate import command as evaluate
from clipkit.cli.main import main
from clipkit.errors import CheckpointError, ClipkitError, ConfigError, DataError
from clipkit.evaluation import (
    FewShotProbe,
    LinearProbe,
    NearestNeighbours,
    ProbeSplits,
    Retrieval,
    ZeroShotClassification,
    data_hash,
    load_outcomes,
    make_evaluator,
    open_dataset,
    outcome_metrics,
)
from clipkit.evaluation.comparison import compare_records
from clipkit.models import from_open_clip
from tests.helpers.evaluation_data import CLASSES, OPEN_CLIP, picture, write_layout
from tests.helpers.factories import write_shard
from tests.helpers.open_clip_names import named_config


@pytest.fixture(autouse=True)
def _short_regressions(monkeypatch):
    """Far from the optimum, for the command and for Python alike."""
    monkeypatch.setattr("clipkit.evaluation.probes.logistic._MAX_ITERATIONS", 3)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "set"
    write_layout(root, (36,), split="train", start=50)
    return write_layout(root, (7, 5))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    (folder / "tiny.json").write_text(json.dumps(OPEN_CLIP))
    torch.manual_seed(0)
    import open_clip

    with named_config(folder / "tiny.json") as name:
        torch.save(open_clip.create_model(name).state_dict(), folder / "weights.pt")
    return f"{folder}/tiny.json@{folder}/weights.pt"


@pytest.fixture(scope="module")
def encoder(model):
    return from_open_clip(*model.split("@"))


def call(command, *words: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    name = command.__name__.removesuffix(".command").rpartition(".")[2]
    args = parser.parse_args([name, *map(str, words)])
    return int(args.run(args))


def test_evaluate_takes_the_task_from_the_data_and_writes_what_the_evaluator_says(
    tmp_path, root, model, encoder, capsys
):
    output = tmp_path / "new" / "numbers.json"

    status = call(evaluate, "--model", model, "--data", root, "--output", output)

    record = json.loads(output.read_text())
    assert status == 0
    assert record["tasks"] == ["retrieval"]
    assert record["metrics"] == Retrieval(root).run(encoder)
    assert (record["model"], record["data"], record["split"]) == (model, str(root), "test")
    assert torch.__version__.startswith(record["versions"]["torch"])
    assert datetime.fromisoformat(record["date"]).tzinfo is not None
    names = {path.name for path in output.parent.iterdir()}
    assert names <= {"numbers.json", "numbers.outcomes.npz"}
    assert "text_to_image/recall_at_1" in capsys.readouterr().out


def test_evaluate_runs_several_tasks_under_their_names(tmp_path, root, model, encoder):
    output = tmp_path / "numbers.json"
    tasks = ["--task", "zero-shot", "--task", "linear-probe", "--task", "zero-shot"]

    call(evaluate, "--model", model, "--data", root, "--output", output, *tasks)

    expected = {f"zero-shot/{k}": v for k, v in ZeroShotClassification(root).run(encoder).items()}
    expected |= {f"linear-probe/{k}": v for k, v in LinearProbe(root).run(encoder).items()}
    assert json.loads(output.read_text())["metrics"] == expected


def test_evaluate_writes_outcomes_and_intervals(tmp_path, root, model, encoder, capsys):
    output = tmp_path / "numbers.json"
    words = ["--model", model, "--data", root, "--output", output]

    call(evaluate, *words, "--task", "zero-shot", "--task", "linear-probe")

    record = json.loads(output.read_text())
    outcomes = load_outcomes(tmp_path / "numbers.outcomes.npz")
    values = {name: v for part in outcomes for name, v in outcome_metrics(part).items()}
    assert values.items() <= record["metrics"].items()
    low, high = record["intervals"]["zero-shot/top1"]
    assert low <= record["metrics"]["zero-shot/top1"] <= high
    assert record["data_hashes"]["zero-shot"]
    assert record["primary_metrics"]["zero-shot"] == "zero-shot/top1"
    assert record["templates"]["zero-shot"] == list(ZeroShotClassification(root).templates)
    assert "95 % interval" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "numbers.json", "numbers.outcomes.npz",
    ]  # fmt: skip


def test_outcomes_of_every_class_are_those_of_the_page(tmp_path, root, model):
    words = ["--model", model, "--data", root, "--task", "zero-shot"]

    call(evaluate, *words, "--output", tmp_path / "a.json")
    call(evaluate, *words, "--output", tmp_path / "b.json", "--report", tmp_path / "report")

    first, second = (load_outcomes(tmp_path / f"{name}.outcomes.npz")[0] for name in "ab")
    assert first.keys == second.keys
    assert torch.equal(first.columns["chosen"], second.columns["chosen"])


def test_evaluate_passes_the_options_of_probes(tmp_path, root, model, encoder):
    output = tmp_path / "numbers.json"
    tasks = ["--task", "nearest-neighbours", "--task", "few-shot"]
    numbers = ["--neighbours", 3, "--shots", 1, 2, "--seeds", 2]

    call(evaluate, "--model", model, "--data", root, "--output", output, *tasks, *numbers)

    splits = ProbeSplits(root)
    near = NearestNeighbours(splits, [3]).run(encoder)
    few = FewShotProbe(splits, [1, 2], 2).run(encoder)
    expected = {f"nearest-neighbours/{k}": v for k, v in near.items()}
    expected |= {f"few-shot/{k}": v for k, v in few.items()}
    assert json.loads(output.read_text())["metrics"] == expected
    with pytest.raises(ClipkitError, match="no split 'val'; it has test, train"):
        call(evaluate, "--model", model, "--data", root, *tasks, "--validation-split", "val")
    with pytest.raises(ClipkitError, match="no group in json:patient"):
        call(evaluate, "--model", model, "--data", root, *tasks, "--hold-out-by", "json:patient")
    with pytest.raises(DataError, match="12 images are in both splits test and test"):
        call(evaluate, "--model", model, "--data", root, *tasks, "--train-split", "test")


@pytest.fixture(scope="module")
def tagged(tmp_path_factory) -> Path:
    """Shards with a class, a region and several classes in each sample."""
    root = tmp_path_factory.mktemp("tagged")
    for split, numbers in (("train", range(40)), ("test", range(40, 60))):
        samples = []
        for n in numbers:
            record = {"region": ["asia", "europe"][n % 2], "labels": [n % 3, 3 + n % 2]}
            members = {"png": picture(n), "cls": b"%d" % (n % 6), "txt": b"right\nwrong"}
            samples.append((f"s{n}", {**members, "json": json.dumps(record).encode()}))
        write_shard(root / split / "0.tar", samples)
        (root / split / "nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("\n".join(CLASSES))
    return root


def test_probes_of_several_classes_choices_corruptions_and_fairness(tmp_path, tagged, model):
    output, report = tmp_path / "numbers.json", tmp_path / "page"
    names = ("multi-label-probe", "pair-choice", "corruptions", "fairness")
    tasks = [word for name in names for word in ("--task", name)]
    options = ["--corruptions", "fog", "--strengths", 3, "--group-field", "json:region"]

    call(
        evaluate, "--model", model, "--data", tagged, "--output", output, "--report", report,
        *tasks, *options,
    )  # fmt: skip

    record = json.loads(output.read_text())
    for key in (
        "multi-label-probe/macro_auroc", "pair-choice/acc", "corruptions/fog_3/top1",
        "fairness/worst_group/top1",
    ):  # fmt: skip
        assert 0 <= record["metrics"][key] <= 1
    assert record["primary_metrics"]["corruptions"] == "corruptions/corrupted/top1"
    assert record["details"]["fairness/images/asia"] == 10
    assert record["data_hashes"] == dict.fromkeys(names, data_hash(open_dataset(tagged)))
    assert any(key.startswith("multi-label-probe/threshold/") for key in record["details"])
    assert set(record["intervals"]) <= set(record["metrics"])
    parts = load_outcomes(tmp_path / "numbers.outcomes.npz")
    computed = {k: v for part in parts for k, v in outcome_metrics(part).items()}
    rest = {k: v for k, v in record["metrics"].items() if not k.endswith("/l2")}
    assert computed == pytest.approx(rest)
    assert (report / "report.html").is_file()


def test_compare_refuses_pair_choices_of_other_texts(tmp_path, tagged, model):
    (tmp_path / "image.png").write_bytes(picture(0))
    records = [tmp_path / f"{name}.json" for name in "abc"]
    for record, wrong in zip(records, ("a dog", "a dog", "a bird"), strict=True):
        table = tmp_path / "choices.csv"
        table.write_text(f"id,image,caption,negative_caption\nfirst,image.png,a cat,{wrong}\n")
        call(
            evaluate, "--model", model, "--data", table, "--task", "pair-choice",
            "--output", record,
        )  # fmt: skip

    assert compare_records(records[:2]).pairs[0].num_units == 1
    with pytest.raises(DataError, match=r"c\.json: expected the data of .*a\.json"):
        compare_records(records[::2])


def test_options_of_choices_and_groups_are_checked(tagged, model):
    data = ["--model", model, "--data", tagged]
    with pytest.raises(ConfigError, match="--choice-images, --choice-texts: expected both"):
        call(evaluate, *data, "--task", "pair-choice", "--choice-images", "image")
    with pytest.raises(ConfigError, match="fairness: expected the field"):
        call(evaluate, *data, "--task", "fairness")
    with pytest.raises(ConfigError, match="--group-field: expected one of the tasks"):
        call(evaluate, *data, "--task", "corruptions", "--group-field", "json:region")
    with pytest.raises(ConfigError, match="'smog'"):
        call(evaluate, *data, "--task", "corruptions", "--corruptions", "smog")


def test_the_training_split_is_an_option_of_probes(root):
    with pytest.raises(ConfigError, match=r"train_split.*probe=ProbeOptions\(train_split=...\)"):
        make_evaluator("linear-probe", root, train_split="train")  # type: ignore[call-arg]


def test_widths_are_an_option_of_retrieval(root):
    with pytest.raises(ConfigError, match=r"widths.*correct=RetrievalOptions\(widths=...\)"):
        make_evaluator("retrieval", root, widths=[4])  # type: ignore[call-arg]


def test_evaluate_without_output_only_prints(root, model, capsys):
    assert (
        call(evaluate, "--model", model, "--data", root, "--limit", 4, "--task", "zero-shot") == 0
    )

    assert "mean_per_class_recall" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"--model": "nowhere.ckpt"}, CheckpointError, r"nowhere\.ckpt: no such file"),
        ({"--model": "ViT-B-33"}, ConfigError, "ViT-B-32"),
        ({"--data": "nowhere"}, ClipkitError, "nowhere"),
        ({"--split": "val"}, ClipkitError, "no split 'val'; it has test, train"),
        ({"--device": "abacus"}, ConfigError, "--device: 'abacus' cannot be used"),
        ({"--batch-size": "0"}, ConfigError, "batch_size: expected at least 1"),
    ],
)
def test_what_cannot_work_is_said_and_nothing_is_written(
    tmp_path, root, model, options, error, message
):
    words = {"--model": model, "--data": str(root), "--output": str(tmp_path / "out"), **options}
    for command in (evaluate, embed):
        with pytest.raises(error, match=message):
            call(command, *[word for pair in words.items() for word in pair])

    assert list(tmp_path.iterdir()) == []


def test_a_folder_as_output_is_refused_before_the_work(tmp_path, root):
    with pytest.raises(ConfigError, match="expected a file, got the folder"):
        call(evaluate, "--model", "ViT-B-32", "--data", root, "--output", tmp_path)


def test_an_unknown_task_is_a_usage_error(root, capsys):
    with pytest.raises(SystemExit):
        call(evaluate, "--model", "ViT-B-32", "--data", root, "--task", "juggling")

    assert "zero-shot" in capsys.readouterr().err


def test_help_needs_no_torch():
    code = (
        "import argparse, sys; from clipkit.cli import embed;"
        "from clipkit.cli.evaluate import command as evaluate;"
        "s = argparse.ArgumentParser().add_subparsers();"
        "embed.add_parser(s); evaluate.add_parser(s); assert 'torch' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_evaluate_takes_names_and_prompts_of_classes_from_files(tmp_path, root, model, encoder):
    names = [f"thing {number}" for number in range(6)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    (tmp_path / "prompts.json").write_text(json.dumps({n: [n, f"a {n}"] for n in names}))
    options = ["--classnames", tmp_path / "names.txt", "--templates", tmp_path / "prompts.json"]
    output = tmp_path / "numbers.json"

    call(evaluate, "--model", model, "--data", root, "--task", "zero-shot", "--output", output,
         "--calibration-split", "train", *options)  # fmt: skip

    record = json.loads(output.read_text())
    expected = ZeroShotClassification(
        root, class_names=names, templates=["{}", "a {}"], calibration_split="train"
    )
    assert record["metrics"] == expected.run(encoder)
    assert record["class_names"]["data"] == names


def test_evaluate_refuses_options_of_classes_for_other_tasks(root, model):
    with pytest.raises(
        ConfigError, match=r"--templates: expected one of the tasks zero-shot.*got retrieval"
    ):
        call(evaluate, "--model", model, "--data", root, "--templates", "openai")


def test_evaluate_records_thresholds_temperature_and_reliability(tmp_path, root, model):
    output = tmp_path / "numbers.json"

    call(evaluate, "--model", model, "--data", root, "--task", "zero-shot", "--output", output,
         "--calibration-split", "train", "--limit", 10)  # fmt: skip

    record = json.loads(output.read_text())
    assert record["details"]["temperature"] > 0
    assert set(record["reliability"]) == {"confidence", "calibrated_confidence"}
    diagram = record["reliability"]["confidence"]
    assert sum(diagram["weight"]) == 10
    gaps = [abs(c - a) for c, a in zip(diagram["confidence"], diagram["accuracy"], strict=True)]
    error = sum(w * g for w, g in zip(diagram["weight"], gaps, strict=True)) / 10
    assert record["metrics"]["ece"] == pytest.approx(error)


def test_evaluate_several_classes_per_image(tmp_path, model):
    from tests.evaluation.evaluators.test_multi_label import PAIRS, write_split

    root = write_layout(tmp_path / "set", (1,), task="multilabel")
    write_split(root, "test", range(12))
    write_split(root, "val", range(20, 40))
    (tmp_path / "prompts.json").write_text(json.dumps(PAIRS))
    output = tmp_path / "numbers.json"

    call(evaluate, "--model", model, "--data", root, "--output", output,
         "--templates", tmp_path / "prompts.json", "--calibration-split", "val",
         "--thresholds", "per-class")  # fmt: skip

    record = json.loads(output.read_text())
    assert record["tasks"] == ["zero-shot-multi-label"]
    assert {"macro_auroc", "micro_f1", "mean_average_precision"} <= set(record["metrics"])
    assert "threshold/red" in record["details"]
    assert record["templates"]["zero-shot-multi-label"] == ["a {} picture", "{}", "no {}"]


def test_pickers_of_languages_and_facts_as_yaml(tmp_path):
    (tmp_path / "facts.csv").write_text("name,definition,kind of\ncello,big,instrument\n")
    path = tmp_path / "caption.yaml"
    path.write_text(f"""
class_path: clipkit.data.KnowledgeCaptions
init_args:
  facts: {tmp_path}/facts.csv
  probability: 1.0
  kinds: {{kind of: 1.0}}
  captions:
    class_path: clipkit.data.LanguageCaptions
    init_args: {{place: "txt.{{language}}", languages: {{en: 1.0}}}}
""")
    found = caption_picker(str(path)).candidates({"txt.en": b"a cello", "txt.de": b"ein Cello"})
    assert found == [("a cello, kind of instrument", 1.0, "en")]
    assert caption_picker("txt.{language}").place == "txt.{language}"


def test_definitions_in_prompts(model, root, tmp_path, capsys):
    rows = [f"{name},a thing of {name}" for name in CLASSES[:2]]
    (tmp_path / "facts.csv").write_text("\n".join(["name,definition", *rows]))
    words = ["evaluate", "--model", model, "--data", str(root), "--facts", f"{tmp_path}/facts.csv"]
    assert main([*words, "--task", "zero-shot", "--output", f"{tmp_path}/a.json"]) == 0
    record = json.loads((tmp_path / "a.json").read_text())
    assert f"{CLASSES[0]}, a thing of {CLASSES[0]}" in record["templates"]["zero-shot"]
    assert main([*words, "--task", "retrieval"]) == 2
    assert "--facts: expected one of the tasks zero-shot" in capsys.readouterr().err
