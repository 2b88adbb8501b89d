"""Export formats: write the files, then read them with the library that they are for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor

from clipkit.data.text.tokenizer import Tokenizer
from clipkit.data.text.tokenizer_export import save_tokenizer
from clipkit.data.text.tokenizers import tokenizer_from_name
from clipkit.errors import CheckpointError, ConfigError
from clipkit.export import card_examples
from clipkit.export.onnx import check_onnx, save_onnx
from clipkit.export.sentence_transformers import check_modules, write_modules
from clipkit.export.transformers import to_transformers
from clipkit.models import DualEncoder, load_encoder, save_encoder, save_open_clip
from clipkit.models.checkpoints.encoder import OPEN_CLIP_WEIGHTS_NAME

TOLERANCE: Final = 1e-4
"""Largest difference of a component of a unit-norm embedding."""


class Exporter(ABC):
    """An export format.

    Attributes:
        hub_name: Name on the Hugging Face hub of the library that reads the format.
        usage: Python code for the model card that embeds an image and two captions.
        keeps_label_head: Whether the files contain the label head.
    """

    hub_name: str
    usage: str
    keeps_label_head: bool = False

    @abstractmethod
    def write(self, encoder: DualEncoder, folder: Path, tokenizer: str | None) -> None:
        """Write the files.

        Args:
            encoder: Encoder in evaluation mode, on the CPU.
            folder: An empty folder.
            tokenizer: Name of the tokenizer that the encoder was trained with; None for the default
                tokenizer of its text tower.

        Raises:
            ConfigError: If the format cannot express the encoder or its tokenizer.
        """

    @abstractmethod
    def check(self, encoder: DualEncoder, folder: Path) -> None:
        """Read the files and compare their embeddings with those of the encoder.

        Args:
            encoder: The encoder that was written.
            folder: Folder of the files.

        Raises:
            CheckpointError: If they cannot be read, or their embeddings differ.
        """

    @abstractmethod
    def reader(self, folder: Path) -> str:
        """Return the Python expression that loads the files.

        Args:
            folder: Folder of the files.
        """


@final
class OpenClipExporter(Exporter):
    """The layout that open_clip reads from a folder (``local-dir:``) and the hub (``hf-hub:``)."""

    hub_name = "open_clip"
    usage = card_examples.OPEN_CLIP

    def write(self, encoder: DualEncoder, folder: Path, tokenizer: str | None) -> None:
        save_open_clip(encoder, folder / OPEN_CLIP_WEIGHTS_NAME)
        text_cfg = encoder.text_tower.config()["model"]["model_cfg"]["text_cfg"]
        if text_cfg.get("hf_tokenizer_name"):  # open_clip looks for it in the folder alone
            save_tokenizer(_tokenizer(encoder, tokenizer), folder)

    def check(self, encoder: DualEncoder, folder: Path) -> None:
        import open_clip

        copy = _read("open_clip", lambda: open_clip.create_model(f"local-dir:{folder}").eval())
        _compare(
            "open_clip", encoder,
            lambda images: copy.encode_image(images, normalize=True),
            lambda tokens: copy.encode_text(tokens, normalize=True),
        )  # fmt: skip

    def reader(self, folder: Path) -> str:
        return f"open_clip.create_model_and_transforms('local-dir:{folder}')"


@final
class TransformersExporter(Exporter):
    """``CLIPModel`` or ``SiglipModel`` of transformers, with image processor and tokenizer."""

    hub_name = "transformers"
    usage = card_examples.TRANSFORMERS

    def write(self, encoder: DualEncoder, folder: Path, tokenizer: str | None) -> None:
        from transformers import CLIPImageProcessor

        processor = CLIPImageProcessor(**image_processor_options(encoder))
        to_transformers(encoder).save_pretrained(folder)
        processor.save_pretrained(folder)
        text = encoder.text_tower
        # what transformers pads, such a tower was trained to read
        save_tokenizer(_tokenizer(encoder, tokenizer), folder, masks=text.trims_exactly)

    def check(self, encoder: DualEncoder, folder: Path) -> None:
        from transformers import AutoModel, AutoProcessor

        copy = _read("transformers", lambda: AutoModel.from_pretrained(folder).eval())
        _read("transformers", lambda: AutoProcessor.from_pretrained(folder))
        _compare(
            "transformers", encoder,
            lambda images: _unit(copy.get_image_features(pixel_values=images)),
            lambda tokens: _unit(copy.get_text_features(input_ids=tokens)),
        )  # fmt: skip

    def reader(self, folder: Path) -> str:
        return f"transformers.AutoModel.from_pretrained('{folder}')"


@final
class SentenceTransformersExporter(Exporter):
    """The folder of transformers with the modules of ``SentenceTransformer``, version 6."""

    hub_name = "sentence-transformers"
    usage = card_examples.SENTENCE_TRANSFORMERS

    def write(self, encoder: DualEncoder, folder: Path, tokenizer: str | None) -> None:
        TransformersExporter().write(encoder, folder, tokenizer)
        write_modules(folder, pads_to_longest=encoder.text_tower.trims_exactly)

    def check(self, encoder: DualEncoder, folder: Path) -> None:
        TransformersExporter().check(encoder, folder)
        check_modules(encoder, folder, TOLERANCE)

    def reader(self, folder: Path) -> str:
        return f"sentence_transformers.SentenceTransformer('{folder}')"


@final
class OnnxExporter(Exporter):
    """One ONNX graph per tower, and ``preprocessing.json`` with all other constants.

    Args:
        precision: Precision of the graphs; see ``save_onnx``.
    """

    hub_name = "onnx"
    usage = card_examples.ONNX

    def __init__(self, precision: str = "fp32") -> None:
        self._precision = precision

    def write(self, encoder: DualEncoder, folder: Path, tokenizer: str | None) -> None:
        save_onnx(encoder, folder, tokenizer, self._precision)
        loaded = _tokenizer(encoder, tokenizer)
        try:
            loaded.in_transformers()
        except ConfigError:  # preprocessing.json names a tokenizer that transformers cannot express
            return
        save_tokenizer(loaded, folder)

    def check(self, encoder: DualEncoder, folder: Path) -> None:
        check_onnx(encoder, folder, TOLERANCE, self._precision)

    def reader(self, folder: Path) -> str:
        return f"onnxruntime.InferenceSession('{folder}/image.onnx'), and text.onnx"


@final
class SafetensorsExporter(Exporter):
    """Any encoder, including its label head, to be loaded with clipkit."""

    hub_name = "clipkit"
    usage = card_examples.SAFETENSORS
    keeps_label_head = True

    def write(self, encoder: DualEncoder, folder: Path, tokenizer: str | None) -> None:  # noqa: ARG002
        save_encoder(encoder, folder)

    def check(self, encoder: DualEncoder, folder: Path) -> None:
        copy = load_encoder(folder)
        _compare("clipkit", encoder, copy.encode_image, copy.encode_text)

    def reader(self, folder: Path) -> str:
        return f"clipkit.models.load_encoder('{folder}')"


EXPORTERS: Final[Mapping[str, Exporter]] = {
    "open_clip": OpenClipExporter(),
    "transformers": TransformersExporter(),
    "sentence_transformers": SentenceTransformersExporter(),
    "onnx": OnnxExporter(),
    "onnx_fp16": OnnxExporter("fp16"),
    "onnx_int8": OnnxExporter("int8"),
    "safetensors": SafetensorsExporter(),
}
FORMATS: Final = tuple(EXPORTERS)
"""Names of the formats."""


def image_processor_options(encoder: DualEncoder) -> dict[str, Any]:
    """Return the arguments of a ``CLIPImageProcessor`` with the preprocessing of an encoder."""
    from PIL.Image import Resampling

    tower = encoder.image_tower
    size = tower.image_size
    if tower.budget is not None:
        raise ConfigError(
            "image_tower: transformers' CLIPImageProcessor makes images of one shape, this tower "
            "reads images of any shape; export with --format safetensors instead"
        )
    if tower.resize_mode not in ("shortest", "squash"):
        raise ConfigError(
            f"image_tower: transformers' CLIPImageProcessor has no resize_mode "
            f"{tower.resize_mode!r}, only 'shortest' and 'squash'; export with --format open_clip, "
            f"onnx or safetensors instead"
        )
    square = {"height": size, "width": size}
    crops = tower.resize_mode == "shortest"
    return {
        "size": {"shortest_edge": size} if crops else square,
        "do_center_crop": crops,
        "crop_size": square,
        "resample": int(Resampling[tower.interpolation.upper()]),
        "image_mean": list(tower.image_mean),
        "image_std": list(tower.image_std),
    }


def _tokenizer(encoder: DualEncoder, name: str | None) -> Tokenizer:
    """Load the tokenizer; refuse one with more ids than the text tower has embeddings."""
    text = encoder.text_tower
    tokenizer = tokenizer_from_name(name or text.tokenizer_name, text.context_length)
    if tokenizer.vocab_size > text.vocab_size:
        raise ConfigError(
            f"tokenizer {tokenizer.name}: has {tokenizer.vocab_size} ids, but the text tower "
            f"has only {text.vocab_size}; export with --format safetensors instead"
        )
    return tokenizer


def _read(library: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # the libraries' errors have no common base
        raise CheckpointError(f"export: {library} cannot read what was written: {error}") from error


def _compare(
    library: str,
    encoder: DualEncoder,
    encode_image: Callable[[Tensor], Tensor],
    encode_text: Callable[[Tensor], Tensor],
) -> None:
    """Compare the embeddings of a random batch."""
    generator = torch.Generator().manual_seed(0)
    size, text = encoder.image_tower.image_size, encoder.text_tower
    images = torch.randn(2, 3, size, size, generator=generator)
    tokens = torch.randint(1, text.vocab_size - 1, (2, text.context_length), generator=generator)
    tokens[:, -2] = text.vocab_size - 1  # the end, where CLIP pools the text
    with torch.inference_mode():
        pairs = (
            ("image", encoder.encode_image(images), encode_image(images)),
            ("text", encoder.encode_text(tokens), encode_text(tokens)),
        )
    for name, ours, theirs in pairs:
        difference = (ours - theirs).abs().max().item()
        if not difference <= TOLERANCE:
            raise CheckpointError(
                f"export: {library}'s {name} embeddings differ by {difference:.1e}; nothing is left"
            )


def _unit(features: Any) -> Tensor:
    """Normalise features; transformers 5 wraps the tensor that earlier versions returned."""
    return torch.nn.functional.normalize(getattr(features, "pooler_output", features), dim=-1)
