"""Export towers as ONNX graphs, from pixels, token ids and spectrograms to embeddings."""

from __future__ import annotations

import importlib.util
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from clipkit.atomic_files import write_json
from clipkit.errors import CheckpointError, ConfigError, first_line
from clipkit.export.onnx_graphs import (
    INPUTS,
    SIGNAL_INPUT,
    TracedGraph,
    checked_inputs,
    graphs_of,
    outputs_of,
)
from clipkit.export.onnx_precision import CONVERTERS, compare_output
from clipkit.models import ImageTower, JointEncoder, SignalTower, TextTower, TowerEncoder
from clipkit.models.joint.joint_encoder import FUSED
from clipkit.models.named_towers import NamedTowerEncoder
from clipkit.models.onnx_towers import (
    CLASSES,
    FACTS_FILE,
    FUSION,
    IMAGE_FILE,
    LOGIT,
    MASK,
    TEXT_FILE,
    TOKENS,
    graph_file,
)

PRECISIONS: Final = ("fp32", *CONVERTERS)
METADATA_KEY: Final = "clipkit"
"""Key of the metadata of both graphs; its value is the JSON of ``onnx_facts``."""

_PACKAGES: Final = ("onnx", "onnxscript", "onnxruntime")


def onnx_facts(encoder: TowerEncoder, tokenizer: str, precision: str = "fp32") -> dict[str, Any]:
    """Return what a program needs in addition to the graphs: preprocessing, tokenizer, scale."""
    bias = encoder.logit_bias
    facts: dict[str, Any] = {}
    for name, tower in encoder.towers.items():
        if isinstance(tower, ImageTower):
            facts[name] = _image_facts(tower)
        elif isinstance(tower, TextTower):
            facts[name] = _text_facts(tower, tokenizer)
        elif isinstance(tower, SignalTower):
            facts.setdefault("modalities", {})[name] = _signal_facts(name, tower)
    if isinstance(encoder, JointEncoder):
        facts["fusion"] = _fusion_facts(encoder)
    if isinstance(encoder, NamedTowerEncoder) and not _is_pair(encoder):
        scales = encoder.pair_scales.items()
        facts["pair_scales"] = {pair: float(scale.detach()) for pair, scale in scales}
    return {
        **facts,
        "precision": precision,
        "embedding_dim": encoder.embedding_dim,
        "logit_scale": float(encoder.logit_scale.detach()),
        "logit_bias": None if bias is None else float(bias.detach()),
    }


def _is_pair(encoder: NamedTowerEncoder) -> bool:
    """Return whether the towers are those of a dual encoder, as which its graphs are loaded."""
    joint = isinstance(encoder, JointEncoder)
    return joint and {*encoder.towers} == {"image", "text"} and not encoder.log_pair_scales


def _fusion_facts(joint: JointEncoder) -> dict[str, Any]:
    """Return which outputs of the towers the graph of the fusion reads."""
    outputs = [name for part in joint.fused_names for name in outputs_of(joint, part)[1:]]
    described = {
        "file": graph_file(FUSION),
        "inputs": outputs,
        "layout": f"one row per pair: *{TOKENS} float32 [pairs, tokens, width], *{MASK} bool "
        f"[pairs, length], which are outputs of the graphs of the towers",
        "output": LOGIT,
    }
    if not joint.num_fused_classes:
        return described
    names = list(joint.heads[FUSED].class_names)
    return {**described, "class_output": CLASSES, "class_names": names}


def _image_facts(tower: ImageTower) -> dict[str, Any]:
    return {
        "file": IMAGE_FILE,
        "input": INPUTS["image"],
        "layout": "uint8 [batch, 3, height, width], red green blue; normalised inside",
        "size": [tower.image_size, tower.image_size],
        "interpolation": tower.interpolation,
        "resize_mode": tower.resize_mode,
        "mean": list(tower.image_mean),
        "std": list(tower.image_std),
        "output": "image_embedding",
    }


def _text_facts(tower: TextTower, tokenizer: str) -> dict[str, Any]:
    return {
        "file": TEXT_FILE,
        "input": INPUTS["text"],
        "layout": "int64 [batch, length], padded with pad_id",
        "context_length": tower.context_length,
        "vocab_size": tower.vocab_size,
        "pad_id": tower.pad_id,
        "tokenizer": tokenizer,
        "output": "text_embedding",
    }


def _signal_facts(name: str, tower: SignalTower) -> dict[str, Any]:
    """Return the shape, and for sounds the parameters of the spectrogram."""
    return {
        "file": graph_file(name),
        "input": SIGNAL_INPUT,
        "layout": "float32 [batch, *shape]; normalised inside",
        "shape": list(tower.input_shape),
        "mel": None if tower.mel is None else tower.mel.config(),
        "output": f"{name}_embedding",
    }


def save_onnx(
    encoder: TowerEncoder,
    folder: Path | str,
    tokenizer: str | None = None,
    precision: str = "fp32",
) -> None:
    """Write ``image.onnx``, ``text.onnx`` and ``preprocessing.json``, and a graph per other part.

    Batches may have any size, captions any length up to the context length. Pixels are uint8;
    scaling and normalisation are part of the graph. Embeddings have unit norm. The graph of a
    further modality has its name, such as ``sound.onnx``, and reads what its tower reads. Of a
    joint encoder, the graphs of the towers that are fused return their tokens, too, and
    ``fusion.onnx`` turns these into matching logits, of any number of pairs.

    Args:
        encoder: Any encoder in evaluation mode, on the CPU.
        folder: Folder for the files.
        tokenizer: Name of the tokenizer that the encoder was trained with; None for the default
            tokenizer of its text tower.
        precision: "fp32"; "fp16" to store and compute in 16-bit floats; "int8" to store matrices
            as 8-bit integers and multiply them with quantised activations.

    Raises:
        ConfigError: If a package is missing, the precision is unknown, or torch cannot turn a tower
            into a graph.
    """
    if encoder.image_tower.budget is not None:
        raise ConfigError(
            "image_tower: an ONNX graph reads images of one shape, this tower images of any shape; "
            "export with --format safetensors instead"
        )
    _check_packages()
    if precision not in PRECISIONS:
        raise ConfigError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    facts = onnx_facts(encoder, tokenizer or encoder.text_tower.tokenizer_name, precision)
    write_json(folder / FACTS_FILE, facts)
    if precision == "fp32":
        _write_graphs(encoder, folder, facts)
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fp32.") as exact, _quiet():
        _write_graphs(encoder, Path(exact), facts)
        for file in sorted(path.name for path in Path(exact).glob("*.onnx")):
            CONVERTERS[precision](Path(exact) / file, folder / file)


def _write_graphs(encoder: TowerEncoder, folder: Path, facts: dict[str, Any]) -> None:
    """Write all graphs in float32."""
    for graph in graphs_of(encoder):
        _write(graph, type(encoder).__name__, folder / graph.file, facts)


def check_onnx(
    encoder: TowerEncoder, folder: Path | str, tolerance: float, precision: str = "fp32"
) -> None:
    """Run the graphs in onnxruntime and compare their outputs with torch, at several sizes.

    Args:
        encoder: The encoder that was written, in evaluation mode, on the CPU.
        folder: Folder of the files.
        tolerance: Largest permitted difference of any value, in float32; see ``compare_output``.
        precision: Precision of the files; see ``save_onnx``.

    Raises:
        CheckpointError: If a file cannot be read, or its outputs differ.
    """
    folder = Path(folder)
    generator = torch.Generator().manual_seed(0)
    for graph in graphs_of(encoder):
        for given in checked_inputs(encoder, graph, generator):
            found = _outputs(folder / graph.file, given)
            for name, expected in graph.run(given).items():
                where = f"{name} in {graph.file}"
                compare_output(where, found[name], expected, tolerance, precision)


def _write(graph: TracedGraph, encoder: str, path: Path, facts: dict[str, Any]) -> None:
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                graph.module.eval(),
                tuple(graph.examples.values()),
                dynamo=True,
                input_names=list(graph.examples),
                output_names=list(graph.outputs),
                dynamic_shapes=graph.sizes,
                verbose=False,
            )
    except Exception as error:  # the exporter's errors have no common base
        raise ConfigError(
            f"{graph.name}_tower: torch {torch.__version__} cannot turn {encoder}'s tower into an "
            f"ONNX graph: {first_line(error)}; export with torch 2.12 or later, or with --format "
            f"safetensors"
        ) from error
    program.model.metadata_props[METADATA_KEY] = json.dumps(facts)
    program.save(path)


def _outputs(path: Path, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the outputs of a graph in onnxruntime by name."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        values = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    except Exception as error:  # onnxruntime's errors have no common base
        raise CheckpointError(
            f"export: onnxruntime cannot run {path.name}: {first_line(error)}"
        ) from error
    names = [output.name for output in session.get_outputs()]
    return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}


def _check_packages() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--format onnx: {', '.join(missing)} missing; pip install 'clipkit[onnx]'"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the log of the exporter's internal passes."""
    loggers = [logging.getLogger(name) for name in ("", "onnxscript", "onnx_ir", "torch.onnx")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
