"""ONNX graphs in 16-bit floats and 8-bit integers, and their use as an encoder."""

from __future__ import annotations

import json

import pytest
import torch

from clipkit.cli.main import main
from clipkit.errors import CheckpointError, ConfigError
from clipkit.evaluation import Retrieval
from clipkit.export import export_encoder
from clipkit.export.onnx import check_onnx, onnx_facts, save_onnx
from clipkit.models import from_checkpoint, interpolate, load_encoder
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.factories import write_shards
from tests.helpers.onnx_programs import trace_once
from tests.helpers.tiny_models import TEXT, VIT, captions, encoder, pixels

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
SHALLOW = {**VIT, "layers": 1}
WIDE = {**TEXT, "vocab_size": 49408, "layers": 1}
KINDS = {"fp16": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.UINT8}
BOTH_WAYS = {**WIDE, "no_causal_mask": True, "pool_type": "last", "proj_bias": True}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A text tower that reads its padding, and a bias; traced once for all tests."""
    ours = encoder(SHALLOW, BOTH_WAYS, init_logit_bias=-10, custom_text=True)
    folder = tmp_path_factory.mktemp("onnx")
    with pytest.MonkeyPatch.context() as patch:
        trace_once(patch)
        for precision in ("fp32", "fp16", "int8"):
            save_onnx(ours, folder / precision, precision=precision)
        yield ours, folder


@torch.no_grad()
@pytest.mark.parametrize(("precision", "cosine"), [("fp16", 0.99999), ("int8", 0.99)])
def test_smaller_files_with_nearly_the_same_embeddings(exported, precision, cosine):
    ours, folder = exported
    theirs = load_encoder(folder / precision)
    for exact, smaller in (
        (ours.encode_image(pixels(5)), theirs.encode_image(pixels(5))),
        (ours.encode_text(captions(4)), theirs.encode_text(captions(4))),
    ):
        assert smaller.dtype == torch.float32
        assert torch.cosine_similarity(exact, smaller).min() > cosine
        torch.testing.assert_close(
            smaller.norm(dim=-1), torch.ones(len(smaller)), atol=1e-5, rtol=0
        )
    full_size = (folder / "fp32" / "text.onnx").stat().st_size
    share = {"fp16": 0.55, "int8": 0.3}[precision]
    assert (folder / precision / "text.onnx").stat().st_size < share * full_size
    assert sorted(file.name for file in (folder / precision).iterdir()) == [
        "image.onnx", "preprocessing.json", "text.onnx",
    ]  # fmt: skip


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_graphs_still_describe_themselves(exported, precision):
    ours, folder = exported
    facts = onnx_facts(ours, "open_clip:ViT-B-32", precision)
    for name in ("image.onnx", "text.onnx"):
        graph = onnx.load(folder / precision / name)
        assert {"clipkit": json.dumps(facts)} == {p.key: p.value for p in graph.metadata_props}
        kinds = {tensor.data_type for tensor in graph.graph.initializer if len(tensor.dims) == 2}
        assert {"fp16": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.UINT8}[
            precision
        ] in kinds
    assert json.loads((folder / precision / "preprocessing.json").read_text()) == facts


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_weights_are_noticed(exported, precision):
    ours, folder = exported
    check_onnx(ours, folder / precision, 1e-4, precision)
    other = encoder(
        SHALLOW, text=ours.text_tower.config()["model"]["model_cfg"]["text_cfg"], quick_gelu=True
    )
    with torch.no_grad():
        for parameter in other.text_tower.parameters():
            parameter.add_(torch.randn_like(parameter))
    with pytest.raises(CheckpointError, match=r"cosine similarity of .* at least"):
        check_onnx(other, folder / precision, 1e-4, precision)


def test_unknown_precision(tmp_path):
    with pytest.raises(ConfigError, match="expected one of fp32, fp16, int8, got 'int4'"):
        save_onnx(encoder(), tmp_path, precision="int4")


def test_an_export_is_an_encoder_for_measuring(exported, tmp_path):
    ours, folder = exported
    theirs = load_encoder(folder / "fp32")
    write_shards(tmp_path / "data", [8])
    assert Retrieval(tmp_path / "data").run(theirs) == Retrieval(tmp_path / "data").run(ours)
    for expected, embedded in zip(
        ours.encode(["a dog", "a"]), theirs.encode(["a dog", "a"]), strict=True
    ):
        torch.testing.assert_close(embedded, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(theirs.logit_scale, ours.logit_scale)
    assert (theirs.logit_bias is None) == (ours.logit_bias is None)


def test_it_is_for_nothing_else(exported, tmp_path):
    _, folder = exported
    theirs = load_encoder(folder / "int8")
    for act in (
        lambda: export_encoder(theirs, tmp_path / "out", "safetensors"),
        lambda: interpolate(theirs, theirs, 0.5),
        lambda: from_checkpoint(folder / "int8"),
    ):
        with pytest.raises(ConfigError, match=r"can be evaluated and embedded with, but neither"):
            act()


def test_damaged_folders_are_named(exported, tmp_path):
    _, folder = exported
    facts = json.loads((folder / "int8" / "preprocessing.json").read_text())
    (tmp_path / "preprocessing.json").write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match=r"image\.onnx: onnxruntime cannot run it"):
        load_encoder(tmp_path)
    (tmp_path / "image.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match=r"image\.onnx: onnxruntime cannot run it"):
        load_encoder(tmp_path)
    for content in ("{", "[]", "{}", json.dumps({**facts, "image": {"size": []}})):
        (tmp_path / "preprocessing.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"preprocessing\.json: expected the file"):
            load_encoder(tmp_path)


def test_the_command_prints_what_was_lost(exported, tmp_path, capsys):
    path = write_checkpoint(tmp_path / "last.ckpt", exported[0])
    write_shards(tmp_path / "data", [8])
    words = ["export", "--model", str(path), "--measure", str(tmp_path / "data"), "--output"]
    for format in ("onnx_int8", "onnx_fp16"):
        assert main([*words, str(tmp_path / format), "--format", format]) == 0
        out = capsys.readouterr().out
        assert f"{tmp_path / 'data'}: model, {format}, difference" in out
        assert out.count("_to_text/recall_at_") == 3
        assert out.count("_to_image/recall_at_") == 3
    assert main([*words, str(tmp_path / "out"), "--format", "safetensors"]) == 2
    assert (
        "--measure: only with an ONNX format, got --format safetensors" in capsys.readouterr().err
    )
    evaluate = [
        "evaluate",
        "--model",
        str(tmp_path / "onnx_int8"),
        "--data",
        str(tmp_path / "data"),
    ]
    assert main([*evaluate, "--task", "retrieval"]) == 0
