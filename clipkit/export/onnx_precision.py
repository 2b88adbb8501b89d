"""Store ONNX graphs in 16-bit floats, or their matrices in 8-bit integers; compare the outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from clipkit.errors import CheckpointError

LEAST_COSINE: Final[Mapping[str, float]] = {"fp16": 0.999, "int8": 0.9}
"""Smallest cosine similarity with the encoder that the check of an export accepts."""
LARGEST_LOGIT_ERROR: Final[Mapping[str, float]] = {"fp16": 0.02, "int8": 0.5}
"""Largest difference of a matching logit that the check accepts, of logits up to 1."""
_KEPT_IN_FP32: Final = ("ReduceL2", "Clip", "Expand", "Div")
"""Operators of the unit norm, whose rounding all components would share."""
_QUANTIZED: Final = ("MatMul", "Gemm", "Gather")


def to_fp16(source: Path, target: Path) -> None:
    """Store weights and compute in float16; inputs and outputs keep their types."""
    import onnx
    from onnxruntime.transformers import float16

    blocked = [*float16.DEFAULT_OP_BLOCK_LIST, *_KEPT_IN_FP32]
    model = float16.convert_float_to_float16(
        onnx.load(source), keep_io_types=True, op_block_list=blocked
    )
    large = _is_large(source)
    onnx.save(model, target, save_as_external_data=large, location=f"{target.name}.data")


def to_int8(source: Path, target: Path) -> None:
    """Quantise matrices and vocabulary to 8 bits per channel, and activations when they are known.

    Unsigned weights, because the products of signed ones with activations overflow 16 bits on
    processors without VNNI. Convolutions stay in float32: as integers they are slower.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source, target, op_types_to_quantize=list(_QUANTIZED), per_channel=True,
        weight_type=QuantType.QUInt8, use_external_data_format=_is_large(source),
    )  # fmt: skip
    kept = onnx.load(source, load_external_data=False).metadata_props  # the quantiser drops them
    model = onnx.load(target, load_external_data=False)
    onnx.helper.set_model_props(model, {prop.key: prop.value for prop in kept})
    target.write_bytes(model.SerializeToString())


def _is_large(path: Path) -> bool:
    """Return whether a graph has its weights in a file next to it, as those above 2 GB have."""
    return path.with_name(f"{path.name}.data").exists()


CONVERTERS: Final[Mapping[str, Callable[[Path, Path], None]]] = {"fp16": to_fp16, "int8": to_int8}
"""Functions from a graph in float32 to one in another precision."""


def compare_output(
    where: str, found: Tensor, expected: Tensor, tolerance: float, precision: str
) -> None:
    """Compare an output of a graph with that of the encoder.

    Args:
        where: Names of the file and of the output, for the message.
        found: Output of the graph: embeddings, tokens, a mask, or one logit per sample.
        expected: Output of the encoder.
        tolerance: Largest permitted difference in float32, relative to values above 1.
        precision: Precision of the graph; a lower one than "fp32" needs a cosine similarity of at
            least ``LEAST_COSINE``, and logits within ``LARGEST_LOGIT_ERROR``.

    Raises:
        CheckpointError: If they differ.
    """
    if found.shape != expected.shape:
        raise CheckpointError(
            f"export: {where} has the shape {tuple(found.shape)}, expected "
            f"{tuple(expected.shape)}; nothing is left"
        )
    least_cosine = LEAST_COSINE.get(precision)
    has_vectors = found.is_floating_point() and found.ndim > 1
    if least_cosine is not None and has_vectors:
        cosine = torch.cosine_similarity(found, expected, dim=-1).min().item()
        if not cosine >= least_cosine:
            raise CheckpointError(
                f"export: the vectors of {where} have a cosine similarity of {cosine:.3f} with the "
                f"encoder's, expected at least {least_cosine}; nothing is left"
            )
        return
    if found.ndim == 1:
        tolerance = LARGEST_LOGIT_ERROR.get(precision, tolerance)
    exact = expected.double()
    difference = (found.double() - exact).abs().max().item()
    if not difference <= tolerance * max(1.0, exact.abs().max().item()):
        raise CheckpointError(
            f"export: the values of {where} differ by {difference:.1e}; nothing is left"
        )
