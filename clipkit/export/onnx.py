"""Export both towers as ONNX graphs, from pixels and token ids to unit-norm embeddings."""

from __future__ import annotations

import importlib.util
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from clipkit.atomic_files import write_json
from clipkit.errors import CheckpointError, ConfigError, first_line
from clipkit.export.onnx_precision import CONVERTERS, LEAST_COSINE
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.onnx_towers import FACTS_FILE, IMAGE_FILE, TEXT_FILE

PRECISIONS: Final = ("fp32", *CONVERTERS)
METADATA_KEY: Final = "clipkit"
"""Key of the metadata of both graphs; its value is the JSON of ``onnx_facts``."""

_PACKAGES: Final = ("onnx", "onnxscript", "onnxruntime")
_TRACED_BATCH: Final = 3
"""A size of 1 would be taken for a constant."""


def onnx_facts(encoder: DualEncoder, tokenizer: str, precision: str = "fp32") -> dict[str, Any]:
    """Return what a program needs in addition to the graphs: preprocessing, tokenizer, scale."""
    image, text = encoder.image_tower, encoder.text_tower
    bias = encoder.logit_bias
    return {
        "image": {
            "file": IMAGE_FILE,
            "input": "pixels",
            "layout": "uint8 [batch, 3, height, width], red green blue; normalised inside",
            "size": [image.image_size, image.image_size],
            "interpolation": image.interpolation,
            "resize_mode": image.resize_mode,
            "mean": list(image.image_mean),
            "std": list(image.image_std),
            "output": "image_embedding",
        },
        "text": {
            "file": TEXT_FILE,
            "input": "tokens",
            "layout": "int64 [batch, length], padded with pad_id",
            "context_length": text.context_length,
            "vocab_size": text.vocab_size,
            "pad_id": text.pad_id,
            "tokenizer": tokenizer,
            "output": "text_embedding",
        },
        "precision": precision,
        "embedding_dim": encoder.embedding_dim,
        "logit_scale": float(encoder.logit_scale.detach()),
        "logit_bias": None if bias is None else float(bias.detach()),
    }


def save_onnx(
    encoder: DualEncoder,
    folder: Path | str,
    tokenizer: str | None = None,
    precision: str = "fp32",
) -> None:
    """Write ``image.onnx``, ``text.onnx`` and ``preprocessing.json``.

    Batches may have any size, captions any length up to the context length. Pixels are uint8;
    scaling and normalisation are part of the graph. Embeddings have unit norm.

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
        for name in (IMAGE_FILE, TEXT_FILE):
            CONVERTERS[precision](Path(exact) / name, folder / name)


def _write_graphs(encoder: DualEncoder, folder: Path, facts: dict[str, Any]) -> None:
    """Write both graphs in float32."""
    size, text = encoder.image_tower.image_size, encoder.text_tower
    pixels = torch.zeros(_TRACED_BATCH, 3, size, size, dtype=torch.uint8)
    # One less than the longest: a dimension at its limit would be taken for a constant.
    tokens = torch.ones(_TRACED_BATCH, text.context_length - 1, dtype=torch.int64)
    batch = torch.export.Dim("batch")
    length = torch.export.Dim("length", max=text.context_length)
    _write(_ImageGraph(encoder), pixels, {0: batch}, "image", folder / IMAGE_FILE, facts)
    _write(_TextGraph(encoder), tokens, {0: batch, 1: length}, "text", folder / TEXT_FILE, facts)


def check_onnx(
    encoder: DualEncoder, folder: Path | str, tolerance: float, precision: str = "fp32"
) -> None:
    """Run the graphs in onnxruntime and compare their embeddings with torch, at several sizes.

    Args:
        encoder: The encoder that was written, in evaluation mode, on the CPU.
        folder: Folder of the files.
        tolerance: Largest permitted difference of any component of an embedding, in float32; lower
            precisions need a cosine similarity of at least ``LEAST_COSINE``.
        precision: Precision of the files; see ``save_onnx``.

    Raises:
        CheckpointError: If a file cannot be read, or its embeddings differ.
    """
    folder = Path(folder)
    size, text = encoder.image_tower.image_size, encoder.text_tower
    generator = torch.Generator().manual_seed(0)
    compare = partial(_compare, tolerance=tolerance, least_cosine=LEAST_COSINE.get(precision))
    for count in (1, 4):
        shape = (count, 3, size, size)
        pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        with torch.inference_mode():
            expected = encoder.encode_image(pixels)
        compare(folder / IMAGE_FILE, {"pixels": pixels}, expected)
        for length in (text.context_length, max(3, text.context_length // 2)):
            tokens = torch.randint(1, text.vocab_size, (count, length), generator=generator)
            with torch.inference_mode():
                expected = encoder.encode_text(tokens)
            compare(folder / TEXT_FILE, {"tokens": tokens}, expected)


@final
class _ImageGraph(nn.Module):
    """The graph of ``image.onnx``."""

    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        return self.encoder.encode_image(pixels)


@final
class _TextGraph(nn.Module):
    """The graph of ``text.onnx``."""

    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Int64[Tensor, "B S"]) -> Float[Tensor, "B D"]:
        return self.encoder.encode_text(tokens)


def _write(
    graph: nn.Module,
    example: Tensor,
    sizes: dict[int, Any],
    tower: str,
    path: Path,
    facts: dict[str, Any],
) -> None:
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                graph.eval(),
                (example,),
                dynamo=True,
                input_names=[str(facts[tower]["input"])],
                output_names=[str(facts[tower]["output"])],
                dynamic_shapes=(sizes,),
                verbose=False,
            )
    except Exception as error:  # the exporter's errors have no common base
        raise ConfigError(
            f"{tower}_tower: torch cannot turn {type(graph.encoder).__name__}'s tower into an ONNX "
            f"graph: {first_line(error)}; export with --format safetensors instead"
        ) from error
    program.model.metadata_props[METADATA_KEY] = json.dumps(facts)
    program.save(path)


def _compare(
    path: Path,
    inputs: dict[str, Tensor],
    expected: Float[Tensor, "B D"],
    tolerance: float,
    least_cosine: float | None,
) -> None:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (embeddings,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    except Exception as error:  # onnxruntime's errors have no common base
        raise CheckpointError(
            f"export: onnxruntime cannot run {path.name}: {first_line(error)}"
        ) from error
    embedded = torch.from_numpy(embeddings)
    if least_cosine is not None:
        cosine = torch.cosine_similarity(embedded, expected).min().item()
        if not cosine >= least_cosine:
            raise CheckpointError(
                f"export: the embeddings of {path.name} have a cosine similarity of {cosine:.3f} "
                f"with the encoder's, expected at least {least_cosine}; nothing is left"
            )
        return
    difference = (embedded - expected).abs().max().item()
    if not difference <= tolerance:
        raise CheckpointError(
            f"export: the embeddings of {path.name} differ by {difference:.1e}; nothing is left"
        )


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
