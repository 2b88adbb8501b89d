"""Export formats: write the files, then read them with the library that they are for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Final, final

from clipkit.data.text.tokenizer import Tokenizer
from clipkit.data.text.tokenizer_export import save_tokenizer
from clipkit.data.text.tokenizers import tokenizer_from_name
from clipkit.errors import ConfigError
from clipkit.export import card_examples
from clipkit.export.comparison import (
    TOLERANCE,
    compare,
    compare_matching,
    read_by,
    towers_of,
    unit_features,
)
from clipkit.export.image_processor import image_processor_options
from clipkit.export.onnx import check_onnx, save_onnx
from clipkit.export.sentence_transformers import check_modules, write_modules
from clipkit.export.transformers import to_transformers
from clipkit.models import DualEncoder, JointEncoder, TowerEncoder, save_encoder, save_open_clip
from clipkit.models.checkpoints.encoder import OPEN_CLIP_WEIGHTS_NAME, read_towers
from clipkit.models.checkpoints.kinds import loader_name
from clipkit.models.joint.joint_encoder import FUSED
from clipkit.models.onnx_towers import FUSION, graph_file


class Exporter(ABC):
    """An export format.

    Attributes:
        hub_name: Name on the Hugging Face hub of the library that reads the format.
        keeps_label_head: Whether the files contain the label heads on towers.
        keeps_all_towers: Whether the files contain towers other than those of images and texts.
        keeps_fusion: Whether the files contain the fusion of a joint encoder.
        keeps_word_head: Whether they contain its head that predicts masked words.
    """

    hub_name: str
    keeps_label_head: bool = False
    keeps_all_towers: bool = False
    keeps_fusion: bool = False
    keeps_word_head: bool = False

    def keeps_head(self, name: str) -> bool:
        """Return whether the files contain the label head on a tower, or on the fusion."""
        return self.keeps_label_head or (name == FUSED and self.keeps_fusion)

    @abstractmethod
    def usage(self, encoder: TowerEncoder) -> str:
        """Return Python code for the model card that embeds examples of the modalities."""

    @abstractmethod
    def write(self, encoder: TowerEncoder, folder: Path, tokenizer: str | None) -> None:
        """Write the files.

        Args:
            encoder: Encoder in evaluation mode, on the CPU; a ``DualEncoder`` unless the format
                ``keeps_all_towers``.
            folder: An empty folder.
            tokenizer: Name of the tokenizer that the encoder was trained with; None for the default
                tokenizer of its text tower.

        Raises:
            ConfigError: If the format cannot express the encoder or its tokenizer.
        """

    @abstractmethod
    def check(self, encoder: TowerEncoder, folder: Path) -> None:
        """Read the files and compare their embeddings with those of the encoder.

        Args:
            encoder: The encoder that was written.
            folder: Folder of the files.

        Raises:
            CheckpointError: If they cannot be read, or their embeddings differ.
        """

    @abstractmethod
    def reader(self, encoder: TowerEncoder, folder: Path) -> str:
        """Return the Python expression that loads the files.

        Args:
            encoder: The encoder that was written.
            folder: Folder of the files.
        """

    @abstractmethod
    def hub_reader(self, encoder: TowerEncoder, repository: str) -> str:
        """Return the Python expression that loads them from the repository OWNER/NAME."""


@final
class OpenClipExporter(Exporter):
    """The layout that open_clip reads from a folder (``local-dir:``) and the hub (``hf-hub:``)."""

    hub_name = "open_clip"

    def usage(self, encoder: TowerEncoder) -> str:  # noqa: ARG002
        return card_examples.OPEN_CLIP

    def write(self, encoder: TowerEncoder, folder: Path, tokenizer: str | None) -> None:
        save_open_clip(_pair(encoder), folder / OPEN_CLIP_WEIGHTS_NAME)
        text_cfg = encoder.text_tower.config()["model"]["model_cfg"]["text_cfg"]
        if text_cfg.get("hf_tokenizer_name"):  # open_clip looks for it in the folder alone
            save_tokenizer(_tokenizer(encoder, tokenizer), folder)

    def check(self, encoder: TowerEncoder, folder: Path) -> None:
        import open_clip

        copy = read_by("open_clip", lambda: open_clip.create_model(f"local-dir:{folder}").eval())
        towers = {
            "image": lambda images: copy.encode_image(images, normalize=True),
            "text": lambda tokens: copy.encode_text(tokens, normalize=True),
        }
        compare("open_clip", encoder, towers)

    def reader(self, encoder: TowerEncoder, folder: Path) -> str:  # noqa: ARG002
        return f"open_clip.create_model_and_transforms('local-dir:{folder}')"

    def hub_reader(self, encoder: TowerEncoder, repository: str) -> str:  # noqa: ARG002
        return f"open_clip.create_model_and_transforms('hf-hub:{repository}')"


@final
class TransformersExporter(Exporter):
    """``CLIPModel`` or ``SiglipModel`` of transformers, with image processor and tokenizer."""

    hub_name = "transformers"

    def usage(self, encoder: TowerEncoder) -> str:  # noqa: ARG002
        return card_examples.TRANSFORMERS

    def write(self, encoder: TowerEncoder, folder: Path, tokenizer: str | None) -> None:
        from transformers import CLIPImageProcessor

        processor = CLIPImageProcessor(**image_processor_options(encoder))
        to_transformers(_pair(encoder)).save_pretrained(folder)
        processor.save_pretrained(folder)
        text = encoder.text_tower
        # what transformers pads, such a tower was trained to read
        save_tokenizer(_tokenizer(encoder, tokenizer), folder, masks=text.trims_exactly)

    def check(self, encoder: TowerEncoder, folder: Path) -> None:
        from transformers import AutoModel, AutoProcessor

        copy = read_by("transformers", lambda: AutoModel.from_pretrained(folder).eval())
        read_by("transformers", lambda: AutoProcessor.from_pretrained(folder))
        towers = {
            "image": lambda images: unit_features(copy.get_image_features(pixel_values=images)),
            "text": lambda tokens: unit_features(copy.get_text_features(input_ids=tokens)),
        }
        compare("transformers", encoder, towers)

    def reader(self, encoder: TowerEncoder, folder: Path) -> str:  # noqa: ARG002
        return f"transformers.AutoModel.from_pretrained('{folder}')"

    def hub_reader(self, encoder: TowerEncoder, repository: str) -> str:  # noqa: ARG002
        return f"transformers.AutoModel.from_pretrained('{repository}')"


@final
class SentenceTransformersExporter(Exporter):
    """The folder of transformers with the modules of ``SentenceTransformer``, version 6."""

    hub_name = "sentence-transformers"

    def usage(self, encoder: TowerEncoder) -> str:  # noqa: ARG002
        return card_examples.SENTENCE_TRANSFORMERS

    def write(self, encoder: TowerEncoder, folder: Path, tokenizer: str | None) -> None:
        TransformersExporter().write(encoder, folder, tokenizer)
        write_modules(folder, pads_to_longest=encoder.text_tower.trims_exactly)

    def check(self, encoder: TowerEncoder, folder: Path) -> None:
        TransformersExporter().check(encoder, folder)
        check_modules(_pair(encoder), folder, TOLERANCE)

    def reader(self, encoder: TowerEncoder, folder: Path) -> str:  # noqa: ARG002
        return f"sentence_transformers.SentenceTransformer('{folder}')"

    def hub_reader(self, encoder: TowerEncoder, repository: str) -> str:  # noqa: ARG002
        return f"sentence_transformers.SentenceTransformer('{repository}')"


@final
class OnnxExporter(Exporter):
    """One ONNX graph per tower and fusion, and ``preprocessing.json`` with all other constants.

    Args:
        precision: Precision of the graphs; see ``save_onnx``.
    """

    hub_name = "onnx"
    keeps_all_towers = True
    keeps_fusion = True

    def __init__(self, precision: str = "fp32") -> None:
        self._precision = precision

    def usage(self, encoder: TowerEncoder) -> str:
        return card_examples.onnx_example(encoder)

    def write(self, encoder: TowerEncoder, folder: Path, tokenizer: str | None) -> None:
        save_onnx(encoder, folder, tokenizer, self._precision)
        if "text" not in encoder.towers:
            return
        loaded = _tokenizer(encoder, tokenizer)
        try:
            loaded.in_transformers()
        except ConfigError:  # preprocessing.json names a tokenizer that transformers cannot express
            return
        save_tokenizer(loaded, folder)

    def check(self, encoder: TowerEncoder, folder: Path) -> None:
        check_onnx(encoder, folder, TOLERANCE, self._precision)

    def reader(self, encoder: TowerEncoder, folder: Path) -> str:
        fusion = [FUSION] if isinstance(encoder, JointEncoder) else []
        first, *others = (graph_file(name) for name in [*encoder.towers, *fusion])
        more = f", and {', '.join(others)}" if others else ""
        return f"onnxruntime.InferenceSession('{folder}/{first}'){more}"

    def hub_reader(self, encoder: TowerEncoder, repository: str) -> str:  # noqa: ARG002
        return f"huggingface_hub.snapshot_download('{repository}') and onnxruntime"


@final
class SafetensorsExporter(Exporter):
    """Any encoder, including its label heads, to be loaded with clipkit."""

    hub_name = "clipkit"
    keeps_label_head = True
    keeps_all_towers = True
    keeps_fusion = True
    keeps_word_head = True

    def usage(self, encoder: TowerEncoder) -> str:
        return card_examples.safetensors_example(encoder)

    def write(self, encoder: TowerEncoder, folder: Path, tokenizer: str | None) -> None:  # noqa: ARG002
        save_encoder(encoder, folder)

    def check(self, encoder: TowerEncoder, folder: Path) -> None:
        again = read_towers(folder).encoder
        compare("clipkit", encoder, towers_of(again))
        if isinstance(encoder, JointEncoder) and isinstance(again, JointEncoder):
            compare_matching("clipkit", encoder, again)

    def reader(self, encoder: TowerEncoder, folder: Path) -> str:
        return f"clipkit.models.{loader_name(encoder)}('{folder}')"

    def hub_reader(self, encoder: TowerEncoder, repository: str) -> str:
        return f"clipkit.models.{loader_name(encoder)}('hf-hub:{repository}')"


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


def _pair(encoder: TowerEncoder) -> DualEncoder:
    """Return an encoder of images and texts, as formats for these two get it."""
    assert isinstance(encoder, DualEncoder), "only formats that keep all towers get another"
    return encoder


def _tokenizer(encoder: TowerEncoder, name: str | None) -> Tokenizer:
    """Load the tokenizer; refuse one with more ids than the text tower has embeddings."""
    text = encoder.text_tower
    tokenizer = tokenizer_from_name(name or text.tokenizer_name, text.context_length)
    if tokenizer.vocab_size > text.vocab_size:
        raise ConfigError(
            f"tokenizer {tokenizer.name}: has {tokenizer.vocab_size} ids, but the text tower "
            f"has only {text.vocab_size}; export with --format safetensors instead"
        )
    return tokenizer
