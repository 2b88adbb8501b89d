"""Files that make a folder of transformers one of sentence-transformers."""

from __future__ import annotations

import logging
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image

from clipkit.atomic_files import write_json
from clipkit.errors import CheckpointError, first_line
from clipkit.models.dual_encoder import DualEncoder

NORMALIZE_FOLDER: Final = "1_Normalize"
_LOG: Final = logging.getLogger(__name__)
_MODULES: Final = "sentence_transformers.base.modules"
_OUTPUT: Final = "sentence_embedding"
_LEAST_MAJOR: Final = 6
_TEXTS: Final = ("a dog", "A photo of two dogs, running on the beach!")


def write_modules(folder: Path, pads_to_longest: bool) -> None:
    """Write the list of modules, and the options of each: the model, then unit norm.

    Args:
        folder: Folder that ``AutoModel.from_pretrained`` reads.
        pads_to_longest: Whether texts may be padded to the longest of their batch; otherwise they
            are padded to the length that the text tower was trained with.
    """
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{_MODULES}.transformer.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": NORMALIZE_FOLDER,
            "type": f"{_MODULES}.normalize.Normalize",
        },
    ]
    methods = {
        kind: {"method": f"get_{kind}_features", "method_output_name": "pooler_output"}
        for kind in ("text", "image")
    }
    model: dict[str, Any] = {
        "transformer_task": "feature-extraction",
        "modality_config": methods,
        "module_output_name": _OUTPUT,
    }
    if not pads_to_longest:
        model["processing_kwargs"] = {"text": {"padding": "max_length"}}
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", model)
    write_json(
        folder / "config_sentence_transformers.json",
        {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"},
    )
    (folder / NORMALIZE_FOLDER).mkdir(exist_ok=True)
    write_json(
        folder / NORMALIZE_FOLDER / "config.json",
        {"module_input_name": _OUTPUT, "module_output_name": _OUTPUT},
    )


def _installed_major() -> int:
    try:
        return int(version("sentence-transformers").partition(".")[0])
    except PackageNotFoundError:
        return 0


def check_modules(encoder: DualEncoder, folder: Path, tolerance: float) -> None:
    """Load a folder with sentence-transformers, if it is installed, and compare embeddings.

    Raises:
        CheckpointError: If it cannot be loaded, or its embeddings differ.
    """
    if _installed_major() < _LEAST_MAJOR:
        _LOG.warning("sentence-transformers 6 is not installed: checked with transformers alone")
        return
    from sentence_transformers import SentenceTransformer

    size = encoder.image_tower.image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (size, size, 3), generator=generator, dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy())
    try:
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        parts = [model.encode(list(_TEXTS)), model.encode([image])]
    except Exception as error:  # its errors have no common base
        raise CheckpointError(
            f"export: sentence-transformers cannot read what was written: {first_line(error)}"
        ) from error
    for kind, ours, theirs in zip(
        ("text", "image"), encoder.encode(_TEXTS, [image]), parts, strict=True
    ):
        difference = (ours - torch.from_numpy(theirs)).abs().max().item()
        if not difference <= tolerance:
            raise CheckpointError(
                f"export: sentence-transformers' {kind} embeddings differ by {difference:.1e}; "
                f"nothing is left"
            )
