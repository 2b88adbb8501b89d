"""Classification of sounds: zero-shot, label head, probes, in a fit's YAML, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from torchmetrics.functional import classification as oracle

from clipkit.cli.main import main
from clipkit.data import EvalSoundTransform, Sounds
from clipkit.data.packing.packed_cache import pack_to_cache
from clipkit.errors import ConfigError, DataError
from clipkit.evaluation import (
    GENERIC_TEMPLATES,
    SOUND_TEMPLATES,
    EmbedOptions,
    Evaluator,
    LabelHeadClassification,
    LinearProbe,
    ProbeOptions,
    ProbeSplits,
    ZeroShotClassification,
    ZeroShotMultiLabel,
    cached_embeddings,
    embed_pairs,
    evaluating,
    make_evaluator,
    open_dataset,
)
from clipkit.evaluation.report import evaluate_with_report
from clipkit.mel import MelOptions
from clipkit.models import save_encoder, with_towers
from tests.helpers.evaluation_data import tiny_encoder, write_layout
from tests.helpers.factories import write_shard
from tests.helpers.series import CHANNELS, LENGTH, Series, SeriesTower, npy
from tests.helpers.sound_sets import (
    MEL,
    sound_encoder,
    write_esc50,
    write_fsd50k,
    write_urbansound8k,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_esc50(tmp_path_factory.mktemp("sets") / "ESC-50")


@pytest.fixture(scope="module")
def encoder():
    return sound_encoder().eval()


def opened(root, split="fold1"):
    return open_dataset(root, split, modality="sound")


def files(root, fold=1):
    table = (root / "meta" / "esc50.csv").read_text().splitlines()[1:]
    return [
        root / "audio" / line.split(",")[0] for line in table if line.split(",")[1] == str(fold)
    ]


def test_embeddings_are_those_of_the_files(root, encoder):
    pairs = embed_pairs(encoder, opened(root), EmbedOptions(batch_size=5), captions=False)
    torch.testing.assert_close(pairs.images, encoder.encode_sounds(files(root)))
    assert len(pairs.keys) == 12


def test_zero_shot_metrics_are_those_of_a_loop_and_of_torchmetrics(root, encoder):
    evaluator = ZeroShotClassification(opened(root))
    predictions, evaluation = evaluator.measure(encoder)
    assert evaluator.class_names == ("dog", "crackling fire", "chainsaw")
    assert evaluator.templates == SOUND_TEMPLATES
    prompts = [[t.replace("{}", name) for t in SOUND_TEMPLATES] for name in evaluator.class_names]
    means = [encoder.dual().encode(texts=texts).texts.mean(0) for texts in prompts]
    classes = torch.nn.functional.normalize(torch.stack(means), dim=1)
    expected = encoder.encode_sounds(files(root)) @ classes.T
    torch.testing.assert_close(predictions.scores, expected, atol=1e-5, rtol=0)
    assert predictions.logit_scale == pytest.approx(np.e, rel=1e-5)
    scores, labels = predictions.scores, predictions.labels
    assert labels.bincount().tolist() == [4, 4, 4]
    metrics = evaluation.metrics
    assert metrics["top1"] == pytest.approx(float((scores.argmax(1) == labels).double().mean()))
    macro = oracle.multiclass_recall(scores, labels, 3, average="macro")
    assert metrics["mean_per_class_recall"] == pytest.approx(float(macro), abs=1e-6)


def test_label_head_on_sounds(root, encoder):
    predictions = LabelHeadClassification(opened(root)).predict(encoder)
    values = torch.stack([EvalSoundTransform(MEL).of_file(f.read_bytes()) for f in files(root)])
    with torch.no_grad():
        expected = encoder.heads["sound"].score(encoder.towers["sound"](values), None)
    torch.testing.assert_close(predictions.scores, expected, atol=1e-5, rtol=1e-4)
    of_head = {0: 2, 12: 1, 41: 0}  # dog, crackling fire, chainsaw by their numbers in ESC-50
    numbers = [int(f.stem.rpartition("-")[2]) for f in files(root)]
    assert predictions.labels.tolist() == [of_head[number] for number in numbers]


def test_probes_fit_on_some_folds_and_measure_another(root, encoder):
    options = ProbeOptions(
        train_split="except-fold1", group_field="json:recording", shots=(1, 2), seeds=2,
        neighbours=(3,),
    )  # fmt: skip
    for task, key in {
        "linear-probe": "top1", "few-shot": "shots_2/top1", "nearest-neighbours": "k_3/top1",
    }.items():  # fmt: skip
        evaluator = make_evaluator(task, root, "fold1", probe=options, modality="sound")
        assert evaluator.run(encoder)[key] > 0.5  # the classes are tones of their own


def test_several_classes_of_a_sound(tmp_path, encoder):
    root = write_fsd50k(tmp_path / "FSD50K")
    data = open_dataset(root, "eval", modality="sound")
    assert data.task == "zero-shot-multi-label"
    evaluator = make_evaluator(data.task, root, "eval", modality="sound")
    assert isinstance(evaluator, ZeroShotMultiLabel)
    scores, targets = evaluator.predict(encoder)
    assert targets.tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    expected = oracle.multilabel_average_precision(scores, targets, 3, average="macro")
    assert evaluator.run(encoder)["mean_average_precision"] == pytest.approx(float(expected))


def test_a_folder_of_a_set_is_no_split_unless_it_has_its_shards(root, tmp_path):
    """None of them measures the complete set."""
    urban = write_urbansound8k(tmp_path / "UrbanSound8K")
    fsd50k = write_fsd50k(tmp_path / "FSD50K")
    for of, folder in (
        (root, "audio"), (root, "."), (urban, "audio"), (urban, "audio/fold1"),
        (fsd50k, "FSD50K.eval_audio"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=f"has no split '{folder}'; expected"):
            opened(of, folder)
    packed = pack_to_cache(urban / "fold2")
    (urban / "fold2").mkdir()
    with pytest.raises(DataError, match=r"fold2: expected shards .* is a split of UrbanSound8K"):
        opened(urban, "fold2")
    shutil.copytree(packed.shards[0].parent, urban / "fold2", dirs_exist_ok=True)
    data = opened(urban, "fold2")
    assert {data.value(number, "json:fold") for number in range(len(data))} == {"2"}
    assert data.class_names == ("air conditioner", "car horn")
    assert len(opened(urban, "all")) == 4
    assert data.with_split("fold1").value(0, "json:fold") == "1"


def test_an_address_that_names_a_split_has_no_other(root, tmp_path):
    assert {opened(root / "fold2", name).name for name in ("fold2", "test")} == {"fold2"}
    urban = write_urbansound8k(tmp_path / "UrbanSound8K")
    packed = pack_to_cache(urban / "fold2")
    shutil.copytree(packed.shards[0].parent, urban / "fold2")
    for data in (root, urban):
        with pytest.raises(DataError, match=r"fold2: names .*'fold2', but .*'fold1' is asked for"):
            opened(data / "fold2", "fold1")
        with pytest.raises(DataError, match=f"expected {data} as data and fold2 or fold1"):
            opened(data / "fold2").with_split("fold1")
    with pytest.raises(DataError, match="has no split 'fold9'"):
        opened(root, "fold9")


def test_prompts_are_those_of_sounds_whatever_the_name_of_the_field(root):
    field = Sounds(EvalSoundTransform(MEL), name="bark")
    heard = ZeroShotClassification(open_dataset(root, "fold1", modality=field))
    assert heard.templates == SOUND_TEMPLATES
    other = ZeroShotClassification(open_dataset(root, "fold1", modality=Series("sound")))
    assert other.templates == GENERIC_TEMPLATES


def test_a_field_reads_another_piece_or_another_modality(root, encoder):
    field = Sounds(EvalSoundTransform(MEL, crop="start", padding="zero"))
    data = open_dataset(root, "fold1", modality=field)
    pairs = embed_pairs(encoder, data, EmbedOptions(), captions=False)
    values = torch.stack([field.read(f.read_bytes(), None) for f in files(root)])
    with torch.no_grad():
        torch.testing.assert_close(pairs.images, encoder.encode_signal("sound", values))
    other = Sounds(EvalSoundTransform(MelOptions(num_mels=16, num_frames=20)))
    with pytest.raises(ConfigError, match="expected the spectrograms of the sound_tower"):
        embed_pairs(encoder, open_dataset(root, "fold1", modality=other), EmbedOptions())


def test_another_modality_is_measured_with_its_own_field_and_tower(tmp_path):
    rng = np.random.default_rng(0)
    series = [rng.normal(size=(CHANNELS, LENGTH)) for _ in range(6)]
    samples = [
        (f"s{n}", {"npy": npy(values), "cls": str(n % 2).encode()})
        for n, values in enumerate(series)
    ]
    write_shard(tmp_path / "test" / "0.tar", samples)
    (tmp_path / "classnames.txt").write_text("up\ndown\n")
    model = with_towers(tiny_encoder(), {"series": SeriesTower(24)})
    data = open_dataset(tmp_path, modality=Series())
    pairs = embed_pairs(model, data, EmbedOptions(), captions=False)
    read = [Series().read(npy(values), np.random.default_rng(0)) for values in series]
    with evaluating(model):
        expected = model.encode_signal("series", torch.stack(read))
    torch.testing.assert_close(pairs.images, expected)
    evaluator = ZeroShotClassification(data, templates=["{}"])
    assert evaluator.predict(model).labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_a_cache_tells_sounds_from_images(root, encoder, tmp_path):
    with cached_embeddings(encoder, tmp_path):
        first = embed_pairs(encoder, opened(root), EmbedOptions(), captions=False)
        again = embed_pairs(encoder, opened(root), EmbedOptions(), captions=False)
        assert len(list(tmp_path.rglob("*.npz"))) == 1
        field = Sounds(EvalSoundTransform(MEL))
        embed_pairs(encoder, open_dataset(root, "fold1", modality=field), EmbedOptions())
        assert len(list(tmp_path.rglob("*.npz"))) == 2  # and the captions, but no new sounds
    torch.testing.assert_close(first.images, again.images)


def test_the_callback_of_a_fit_takes_a_data_set_from_yaml(root, encoder):
    parser = ArgumentParser()
    parser.add_argument("--evaluators", type=dict[str, Evaluator])
    data = {
        "class_path": "clipkit.evaluation.open_dataset",
        "init_args": {"source": str(root), "split": "fold1", "modality": "sound"},
    }
    config = {
        "esc": {
            "class_path": "clipkit.evaluation.ZeroShotClassification",
            "init_args": {"data": data, "templates": "clap"},
        }
    }
    parsed = parser.parse_args([f"--evaluators={json.dumps(config)}"])
    evaluator = parser.instantiate(parsed).evaluators["esc"]
    assert evaluator.templates == ("this is a sound of {}",)
    assert evaluator.run(encoder.train()) == evaluator.run(encoder.eval())


def test_report_has_classes_and_confusion(root, encoder, tmp_path):
    evaluators = {"zero-shot": ZeroShotClassification(opened(root))}
    metrics = evaluate_with_report(encoder, evaluators, tmp_path, title="Sounds")
    assert "recall/crackling fire" in metrics["zero-shot"]
    assert (tmp_path / "confusion-zero-shot.png").is_file()
    assert "crackling fire" in (tmp_path / "report.html").read_text()


def test_command_measures_sounds(root, tmp_path, capsys):
    save_encoder(sound_encoder(), tmp_path / "model")
    arguments = [
        "evaluate", "--model", str(tmp_path / "model"), "--data", str(root), "--modality", "sound",
        "--device", "cpu", "--split", "esc10-fold2", "--train-split", "esc10-except-fold2",
        "--hold-out-by", "json:recording", "--output", str(tmp_path / "out.json"),
        "--task", "zero-shot", "--task", "linear-probe", "--report", str(tmp_path / "report"),
    ]  # fmt: skip
    assert main(arguments) == 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["modality"] == "sound"
    assert record["class_names"]["data"] == ["dog", "chainsaw"]
    assert 0 <= record["metrics"]["zero-shot/top1"] <= 1
    assert "linear-probe/top1" in capsys.readouterr().out


def test_what_has_no_sounds_is_refused(root, encoder, tmp_path):
    with pytest.raises(ConfigError, match="a sound_tower, got the towers image, text"):
        ZeroShotClassification(opened(root)).run(tiny_encoder())
    with pytest.raises(DataError, match="no split 'fold4'"):
        opened(root, "fold4")
    with pytest.raises(DataError, match=r"\d+ sounds are in both splits fold1 and fold1"):
        LinearProbe(ProbeSplits(root, "fold1", "fold1", modality="sound")).run(encoder)
    with pytest.raises(ConfigError, match="modality: expected image or sound"):
        open_dataset(root, "fold1", modality="smell")
    with pytest.raises(ConfigError, match="'corruptions' measures images, got 'sound'"):
        make_evaluator("corruptions", root, "fold1", modality="sound")
    images = write_layout(tmp_path / "images", (4,), task="classification")
    with pytest.raises(DataError, match="no sound: expected a member flac, wav"):
        ZeroShotClassification(open_dataset(images, modality="sound")).run(encoder)
    with pytest.raises(DataError, match=r"no image, but a sound .*--modality sound"):
        ZeroShotClassification(open_dataset(root, "fold1")).run(encoder)
