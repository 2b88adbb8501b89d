"""Exports of encoders with towers for sounds and series, from the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from clipkit.cli.main import main
from clipkit.errors import CheckpointError, ConfigError
from clipkit.export import export_checkpoint, export_encoder
from clipkit.export import formats as formats_module
from clipkit.export.formats import EXPORTERS
from clipkit.export.model_card import evaluation_result
from clipkit.mel import MelOptions
from clipkit.models import (
    CrossAttentionFusion,
    LinearLabelHead,
    MultimodalEncoder,
    TcnTower,
    load_encoder,
    load_joint_encoder,
    load_multimodal_encoder,
    save_encoder,
    with_fusion,
    with_towers,
)
from tests.helpers import tiny
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.factories import write_shards
from tests.helpers.sounds import sound_bytes

MEL = MelOptions(sample_rate=8000, f_max=4000, hop=160, window=512, num_mels=32, num_frames=50)


def sound_tower(width=16):
    return TcnTower(width, MEL, width=8, num_blocks=1, dropout=0.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Images, texts, sounds, speech and a series, with a head on the sounds."""
    torch.manual_seed(0)
    series = TcnTower(16, input_shape=(2, 9), width=8, num_blocks=1, dropout=0.0)
    head = LinearLabelHead(16, 2)
    head.class_names = ("dog", "rain")
    model = with_towers(
        tiny.encoder(), {"sound": sound_tower(), "speech": sound_tower(), "series": series},
        {"sound": head}, ["sound:text"],
    ).eval()  # fmt: skip
    model.log_pair_scales["sound:text"].data.fill_(2.0)
    folder = tmp_path_factory.mktemp("trained")
    Image.new("RGB", (20, 20), "blue").save(folder / "dog.jpg")
    (folder / "bark.wav").write_bytes(sound_bytes(seconds=0.7))
    return model, write_checkpoint(folder / "last.ckpt", model), folder


@pytest.fixture(scope="module", params=["safetensors", "onnx"])
def exported(request, trained, tmp_path_factory):
    """Files, and the encoder that was written: with fewer towers where tracing them takes long."""
    model, checkpoint, _ = trained
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "onnx":
        pytest.importorskip("onnxruntime")
        towers = {name: model.towers[name] for name in ("text", "sound", "series")}
        heads = {"sound": model.heads["sound"]}
        model = MultimodalEncoder(towers, heads, pair_scales=["sound:text"]).eval()
        model.log_pair_scales["sound:text"].data.fill_(2.0)
        checkpoint = write_checkpoint(folder / "last.ckpt", model)
    words = ["export", "--model", str(checkpoint), "--format", request.param]
    assert main([*words, "--output", str(folder / "model")]) == 0
    return folder / "model", model


def embedded(model, folder):
    rows = {
        "text": lambda: model.encode(text=["a dog", "a cat"])["text"],
        "image": lambda: model.encode(image=[folder / "dog.jpg"])["image"],
        "sound": lambda: model.encode(sound=[folder / "bark.wav"])["sound"],
        "speech": lambda: model.encode_sounds([folder / "bark.wav"], "speech"),
        "series": lambda: model.encode_signal("series", torch.zeros(1, 2, 9)).detach(),
    }
    return {name: rows[name]() for name in model.towers}


def test_all_towers_are_read_again(trained, exported):
    out, model = exported
    again = load_multimodal_encoder(out)
    assert list(again.towers) == list(model.towers)
    assert again.towers["sound"].mel == MEL
    expected, found = embedded(model, trained[2]), embedded(again, trained[2])
    for name, rows in expected.items():
        torch.testing.assert_close(found[name], rows, atol=1e-5, rtol=0)
    torch.testing.assert_close(again.pair_scales["sound:text"], model.pair_scales["sound:text"])
    torch.testing.assert_close(again.logit_scale, model.logit_scale)
    assert again.towers["series"].mel is None
    values = torch.linspace(-2, 3, 36).view(2, 2, 9)
    with torch.no_grad():
        series = [one.encode_signal("series", values) for one in (again, model)]
    torch.testing.assert_close(*series, atol=1e-5, rtol=0)


@pytest.mark.parametrize("exported", ["onnx"], indirect=True)
def test_graphs_describe_themselves_and_cannot_be_trained(exported):
    out, model = exported
    session = pytest.importorskip("onnxruntime").InferenceSession(out / "sound.onnx")
    facts = json.loads(session.get_modelmeta().custom_metadata_map["clipkit"])
    assert facts == json.loads((out / "preprocessing.json").read_text())
    sound = model.towers["sound"]
    assert facts["modalities"]["sound"]["shape"] == list(sound.input_shape)
    assert facts["modalities"]["sound"]["mel"] == sound.mel.config()
    with pytest.raises(ConfigError, match="neither trained"):
        load_multimodal_encoder(out).train()


def test_images_and_texts_are_read_alone(trained, tmp_path):
    model, checkpoint, folder = trained
    export_checkpoint(checkpoint, tmp_path / "out", "safetensors")
    dual = load_encoder(tmp_path / "out").encode(["a dog", "a cat"], [folder / "dog.jpg"])
    torch.testing.assert_close(dual.images, embedded(model, folder)["image"], atol=1e-5, rtol=0)


def card_of(folder):
    text = (folder / "README.md").read_text()
    rows = dict(re.findall(r"^\| (.+?) \| (.*) \|$", text, re.MULTILINE))
    return text, yaml.safe_load(text.split("---\n")[1]), rows


def test_the_card_describes_every_modality(exported):
    text, header, rows = card_of(exported[0])
    has_image = "image" in exported[1].towers
    task = "image" if has_image else "audio"
    assert header["pipeline_tag"] == f"zero-shot-{task}-classification"
    assert "audio" in header["tags"]
    inputs = "images, captions, sounds, `speech` and" if has_image else "captions, sounds and"
    assert f"encoder of {inputs} `series`, trained" in text
    assert rows["Sound tower"].startswith("TcnTower, ")
    assert rows["Sounds"].startswith("1 seconds at 8,000 Hz, one channel")
    assert rows.get("Sounds (speech)") == (rows["Sounds"] if has_image else None)
    mel = rows["Sounds: log-mel spectrogram"]
    assert mel.startswith("32 bands x 50 frames; sample_rate 8000, ")
    assert all(option in mel for option in MEL.config())
    assert rows["Series"] == "values of shape 2 x 9"
    assert rows["Logit scale of sound:text"] == "7.389"
    assert "label head of 2 classes on the sound tower" in text
    assert rows["1"] == "rain"


def run_example(text, folder, inputs, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for name in ("dog.jpg", "bark.wav"):
        (folder / name).write_bytes((inputs / name).read_bytes())
    monkeypatch.chdir(folder)
    capsys.readouterr()
    try:
        exec(compile(code, "README.md", "exec"), {})
    finally:
        for name in ("dog.jpg", "bark.wav"):
            (folder / name).unlink()
    return [float(x) for x in re.findall(r"-?\d+\.\d*(?:e-?\d+)?", capsys.readouterr().out)]


def test_the_code_of_the_card_gives_the_similarities(trained, exported, monkeypatch, capsys):
    out, model = exported
    printed = run_example(card_of(out)[0], out, trained[2], monkeypatch, capsys)
    rows = embedded(model, trained[2])
    expected = torch.cat([rows[n] @ rows["text"].T for n in model.towers if n != "text"])
    torch.testing.assert_close(torch.tensor(printed), expected.flatten(), atol=1e-3, rtol=0)


def test_formats_of_images_and_texts_name_what_they_leave_out(trained, tmp_path, capsys):
    model, checkpoint, folder = trained
    out = tmp_path / "out"
    assert main(["export", "--model", str(checkpoint), "--output", str(out)]) == 0
    left_out = "sound, speech, series, label head on sound"
    line = f"the format open_clip has no place for all parts; left out: {left_out} ("
    assert line in capsys.readouterr().out
    text, header, rows = card_of(out)
    assert f"not part of these files: {left_out}." in text
    assert "label head of 2 classes on the sound tower, which is not part of these files" in text
    assert "A dual encoder of images and captions" in text
    assert "Sound tower" not in rows
    assert header["tags"] == ["clip", "clipkit"]
    dual = load_encoder(out).encode(["a dog"], [folder / "dog.jpg"])
    torch.testing.assert_close(dual.texts, embedded(model, folder)["text"][:1])


def test_an_encoder_of_texts_and_sounds(tmp_path, monkeypatch, capsys, trained):
    text = tiny.encoder().text_tower
    model = MultimodalEncoder({"text": text, "sound": sound_tower()}).eval()
    with pytest.raises(ConfigError, match="got text, sound; the format open_clip has no others"):
        export_encoder(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    exported = export_encoder(model, tmp_path / "out", "safetensors")
    assert exported.reader == f"clipkit.models.load_multimodal_encoder('{tmp_path}/out')"
    assert exported.hub_reader == "clipkit.models.load_multimodal_encoder('hf-hub:OWNER/NAME')"
    assert exported.left_out == ()
    card, header, _ = card_of(tmp_path / "out")
    assert header["pipeline_tag"] == "zero-shot-audio-classification"
    assert "An encoder of captions and sounds" in card
    assert len(run_example(card, tmp_path / "out", trained[2], monkeypatch, capsys)) == 2


def test_recalls_are_measured_of_images_and_texts(tmp_path, capsys):
    text = tiny.encoder().text_tower
    path = write_checkpoint(
        tmp_path / "last.ckpt", MultimodalEncoder({"text": text, "sound": sound_tower()})
    )
    write_shards(tmp_path / "data", [2])
    words = ["export", "--model", str(path), "--format", "onnx", "--output", str(tmp_path / "out")]
    assert main([*words, "--measure", str(tmp_path / "data")]) == 2
    assert f"but {path} has no image tower (it has text, sound)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_sounds_alone(tmp_path, monkeypatch, capsys, trained):
    model = MultimodalEncoder({"sound": sound_tower()})
    export_encoder(model, tmp_path / "out", "safetensors")
    card, header, _ = card_of(tmp_path / "out")
    assert header["pipeline_tag"] == "feature-extraction"
    assert "Embeddings of similar sounds" in card
    assert run_example(card, tmp_path / "out", trained[2], monkeypatch, capsys) == [
        pytest.approx(1.0)
    ]
    assert EXPORTERS["onnx"].reader(model, Path("out")).endswith("('out/sound.onnx')")


def test_a_fusion_is_part_of_safetensors_alone(tmp_path):
    model = with_fusion(tiny.encoder(), CrossAttentionFusion(width=16, depth=1, num_heads=2)).eval()
    kept = export_encoder(model, tmp_path / "own", "safetensors")
    assert kept.reader == f"clipkit.models.load_joint_encoder('{tmp_path}/own')"
    assert kept.left_out == ()
    again = load_joint_encoder(tmp_path / "own").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    card, _, rows = card_of(tmp_path / "own")
    assert rows["Fusion"].startswith("CrossAttentionFusion, ")
    assert "load_joint_encoder(" in card
    assert export_encoder(model, tmp_path / "other").left_out == ("fusion",)
    assert "not part of these files: fusion." in card_of(tmp_path / "other")[0]
    towers = load_encoder(tmp_path / "other").image_tower.state_dict()
    assert all(torch.equal(towers[n], v) for n, v in model.image_tower.state_dict().items())


def test_a_sound_tower_that_differs_is_noticed(trained, tmp_path, monkeypatch):
    save = save_encoder

    def disturbed(encoder, folder):
        save(encoder, folder)
        other = load_multimodal_encoder(folder)
        next(other.towers["sound"].parameters()).data.mul_(1.5)
        save(other, folder)

    monkeypatch.setattr(formats_module, "save_encoder", disturbed)
    with pytest.raises(CheckpointError, match="clipkit's sound embeddings differ by"):
        export_checkpoint(trained[1], tmp_path / "out", "safetensors")
    assert not list(tmp_path.iterdir())


def test_the_hub_tells_recalls_of_other_modalities_apart():
    result = evaluation_result("esc/sound_to_text/recall_at_1", 0.5)
    assert (result.task_type, result.task_name) == ("sound-text-retrieval", "Sound-text retrieval")
    assert evaluation_result("recall_at_1", 0.5).task_type == "image-text-retrieval"


@pytest.mark.parametrize(
    ("name", "task", "dataset", "metric"),
    [
        ("esc/mic_2_to_text/recall_at_1", "mic_2-text", "esc", "mic_2_to_text/recall_at_1"),
        ("text_to_sound/recall_at_1", "sound-text", "validation", "text_to_sound/recall_at_1"),
        ("text_to_image/recall_at_1", "image-text", "validation", "text_to_image/recall_at_1"),
        ("esc/Depth_to_image/recall_at_5", "Depth-image", "esc", "Depth_to_image/recall_at_5"),
        ("a/b/sound_to_text/recall_at_1", "sound-text", "a", "b/sound_to_text/recall_at_1"),
        ("val/recall_at_1", "image-text", "val", "recall_at_1"),
        ("reranked/text_to_image/recall_at_1", "image-text", "validation",
         "reranked/text_to_image/recall_at_1"),
        ("photos/reranked/text_to_image/recall_at_1", "image-text", "photos",
         "reranked/text_to_image/recall_at_1"),
        ("day_to_night/sound_to_text/recall_at_1", "sound-text", "day_to_night",
         "sound_to_text/recall_at_1"),
    ],
)  # fmt: skip
def test_names_of_recalls(name, task, dataset, metric):
    result = evaluation_result(name, 0.5)
    assert result.task_type == f"{task}-retrieval"
    assert (result.dataset_name, result.metric_name) == (dataset, metric)
    assert evaluation_result(f"{dataset}/mean_per_class_recall", 0.5).task_type == (
        "image-classification"
    )


@pytest.mark.parametrize("format", ["open_clip", "safetensors"])
def test_heads_that_a_format_does_not_have_are_named(format, tmp_path):
    model = with_towers(tiny.encoder(), {}, {"text": LinearLabelHead(16, 3)}).eval()
    is_kept = format == "safetensors"
    exported = export_encoder(model, tmp_path / "out", format)
    assert exported.left_out == (() if is_kept else ("label head on text",))
    text = card_of(tmp_path / "out")[0]
    assert ("not part of these files: label head on text." in text) != is_kept
    assert "label head of 3 classes on the text tower" in text
