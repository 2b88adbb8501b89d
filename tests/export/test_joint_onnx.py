"""A joint encoder as ONNX graphs: tokens of the towers, and matching logits of the fusion."""

from __future__ import annotations

import json
import re
from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image

from clipkit.errors import CheckpointError, ConfigError
from clipkit.export import export_encoder, onnx
from clipkit.export.formats import EXPORTERS
from clipkit.export.onnx import check_onnx, save_onnx
from clipkit.export.onnx_graphs import graphs_of
from clipkit.models import (
    CrossAttentionFusion,
    DualEncoder,
    LinearLabelHead,
    MergedFusion,
    TcnFusion,
    TcnTower,
    WordHead,
    load_encoder,
    load_towers,
    match_pairs,
    with_fused_head,
    with_fusion,
    with_towers,
)
from tests.helpers import tiny
from tests.helpers.onnx_programs import trace_once
from tests.helpers.tiny_models import captions, pixels

onnxruntime = pytest.importorskip("onnxruntime")


def joint(fusion=None, words=True):
    encoder = tiny.encoder()
    torch.manual_seed(1)
    fusion = CrossAttentionFusion(16, 1, 2) if fusion is None else fusion
    model = with_fusion(encoder, fusion, WordHead(16, 49408) if words else None)
    for part in model.fusion.parameters():  # logits that differ from pair to pair
        part.data += 0.2 * torch.randn_like(part)
    return model.eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Files in float32 below ``fp32``, in lower precisions in folders of their names."""
    folder = tmp_path_factory.mktemp("onnx")
    model = joint()
    with pytest.MonkeyPatch.context() as patch:
        trace_once(patch)
        done = export_encoder(model, folder / "fp32", "onnx")
        for precision in ("fp16", "int8"):
            save_onnx(model, folder / precision, precision=precision)
    return model, done


def outputs(path, **inputs):
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def logits_of(folder, images, tokens):
    """Run the three graphs one after the other, as a program without torch does."""
    image = outputs(folder / "image.onnx", pixels=images.numpy())
    text = outputs(folder / "text.onnx", tokens=tokens.numpy())
    facts = json.loads((folder / "preprocessing.json").read_text())["fusion"]
    given = {name: (image | text)[name] for name in facts["inputs"]}
    return torch.from_numpy(outputs(folder / facts["file"], **given)[facts["output"]])


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 5])
def test_any_number_of_pairs_and_any_length(exported, count):
    model, done = exported
    images = pixels(count, 16)
    for length in (16, 10):
        tokens = captions(count, length)
        parts = {"image": model.read_image(images).tokens, "text": model.read_text(tokens).tokens}
        expected = model.match(model.fuse(parts).pooled)
        found = logits_of(done.folder, images, tokens)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert count == 1 or expected.std() > 0.01


def test_what_is_left_out_and_what_is_read_again(exported, caplog):
    model, done = exported
    assert done.left_out == ("word head",)
    assert "fusion.onnx" in done.reader
    again = load_encoder(done.folder)
    assert type(again) is type(load_towers(done.folder, "cpu").encoder) is DualEncoder
    images = pixels(2, 16)
    with torch.no_grad():
        torch.testing.assert_close(
            again.encode_image(images), model.encode_image(images), atol=1e-5, rtol=0
        )
    assert not caplog.records


def test_the_code_of_the_card_matches_an_image_with_texts(exported, monkeypatch, capsys):
    model, done = exported
    (code,) = re.findall(r"```python\n(.*?)```", (done.folder / "README.md").read_text(), re.DOTALL)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    monkeypatch.chdir(done.folder)
    photo.save("dog.png")
    exec(compile(code.replace("dog.jpg", "dog.png"), "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()[-1]
    expected = match_pairs(model, [photo, photo], ["a dog", "a cat"])
    found = torch.tensor([float(x) for x in re.findall(r"-?\d+\.\d*(?:e-?\d+)?", printed)])
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    (done.folder / "dog.png").unlink()


def test_a_fusion_that_differs_is_noticed(exported):
    model, done = exported
    other = deepcopy(model)
    other.matching.weight.data.mul_(1.5)
    with pytest.raises(CheckpointError, match=r"matching_logit in fusion\.onnx differ"):
        check_onnx(other, done.folder, 1e-4)
    other = deepcopy(model)
    other.image_tower.visual.ln_post.weight.data.mul_(1.5)
    other.image_tower.visual.conv1.weight.data.mul_(1.5)
    with pytest.raises(CheckpointError, match=r"in image\.onnx differ"):
        check_onnx(other, done.folder, 1e-4)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precisions(exported, precision):
    model, done = exported
    folder = done.folder.parent / precision
    check_onnx(model, folder, 1e-4, precision)
    exact = logits_of(done.folder, pixels(3, 16), captions(3))
    found = logits_of(folder, pixels(3, 16), captions(3))
    limit = {"fp16": 0.01, "int8": 0.3}[precision]
    torch.testing.assert_close(found, exact, atol=limit, rtol=0)
    sizes = [(path / "fusion.onnx").stat().st_size for path in (folder, done.folder)]
    assert sizes[0] < sizes[1]


def test_a_fusion_over_all_tokens(tmp_path, monkeypatch):
    model = joint(MergedFusion(16, 1, 2))
    head = LinearLabelHead(16, 3)
    torch.nn.init.normal_(head.linear.weight)
    head.class_names = ("yes", "no", "2")
    model = with_fused_head(model, head).eval()
    (fusion,) = graphs_of(model)[-1:]
    monkeypatch.setattr(onnx, "graphs_of", lambda encoder: [fusion])
    save_onnx(model, tmp_path)
    check_onnx(model, tmp_path, 1e-4)
    assert [path.name for path in tmp_path.glob("*.onnx")] == ["fusion.onnx"]
    given = {name: torch.randn(2, *values.shape[1:]) for name, values in fusion.examples.items()}
    given["text_mask"] = torch.ones(given["text_mask"].shape, dtype=torch.bool)
    inputs = {name: value.numpy() for name, value in given.items()}
    found = outputs(tmp_path / "fusion.onnx", **inputs)
    facts = json.loads((tmp_path / "preprocessing.json").read_text())["fusion"]
    assert facts["class_names"] == ["yes", "no", "2"]
    classes = torch.from_numpy(found[facts["class_output"]])
    torch.testing.assert_close(classes, fusion.run(given)["class_logits"], atol=1e-5, rtol=1e-5)
    assert classes.shape == (2, 3)


def test_heads_of_towers_are_left_out_and_those_of_the_fusion_are_kept():
    encoder = tiny.encoder(labels=True)
    model = with_fused_head(
        with_fusion(encoder, MergedFusion(16, 1, 2)), LinearLabelHead(16, 3)
    )  # fmt: skip
    kept = {name: EXPORTERS["onnx"].keeps_head(name) for name in model.heads}
    assert kept == {"image": False, "fused": True}
    assert all(map(EXPORTERS["safetensors"].keeps_head, model.heads))
    assert not any(map(EXPORTERS["open_clip"].keeps_head, model.heads))


def test_series_have_no_mask(tmp_path):
    torch.manual_seed(0)
    series = {n: TcnTower(16, input_shape=(2, 9), width=8, num_blocks=1) for n in ("a", "b")}
    encoder = with_towers(tiny.encoder(), series)
    model = with_fusion(encoder, TcnFusion(16, 1, modalities=("a", "b"))).eval()
    graph = graphs_of(model)[-1]
    assert list(graph.examples) == ["a_tokens", "b_tokens"]
    assert [g.outputs for g in graphs_of(model)][1] == ("text_embedding",)
    values = torch.randn(3, 2, 9)
    with torch.no_grad():
        tokens = [model.read_signal(name, values).tokens.values for name in ("a", "b")]
        expected = model.match(model.fuse({n: model.read_signal(n, values).tokens for n in "ab"})
                               .pooled)  # fmt: skip
    torch.testing.assert_close(graph.run(dict(zip("ab", tokens, strict=True)))["matching_logit"],
                               expected)  # fmt: skip


def test_a_modality_with_the_name_of_the_graph_is_refused():
    tower = TcnTower(16, input_shape=(2, 9), width=8, num_blocks=1)
    model = with_fusion(with_towers(tiny.encoder(), {"fusion": tower}), CrossAttentionFusion(16))
    with pytest.raises(ConfigError, match=r"towers\.fusion: expected another name"):
        graphs_of(model)
