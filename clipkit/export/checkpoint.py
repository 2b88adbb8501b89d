"""Export an encoder with a model card, and compare the written files with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from clipkit.atomic_files import new_folder
from clipkit.errors import ConfigError
from clipkit.export.formats import EXPORTERS, Exporter
from clipkit.export.model_card import render_card
from clipkit.export.run_facts import RunFacts, read_run
from clipkit.export.sentence_transformers import NORMALIZE_FOLDER
from clipkit.models import JointEncoder, TowerEncoder
from clipkit.models.checkpoints.description import build_encoder, describe
from clipkit.models.checkpoints.named import load_towers
from clipkit.models.files.state_dicts import load_exactly
from clipkit.models.lora import add_lora_of_entry, lora_entry, merge_lora
from clipkit.models.named_towers import NamedTowerEncoder
from clipkit.suggestions import did_you_mean

_CARD_NAME: Final = "README.md"
_SUFFIXES: Final = frozenset(
    {".json", ".txt", ".md", ".safetensors", ".onnx", ".data", ".model", ".tiktoken"}
)
"""Suffixes of the files of all formats, including those of tokenizers."""


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """A completed export.

    Args:
        folder: Folder of the files.
        weights: "average" or "raw", the exported weights of the checkpoint; None if there was only
            one set of weights.
        reader: Python expression that loads the files.
        hub_reader: Python expression that loads them from the repository OWNER/NAME of the hub.
        left_out: Parts that the format does not have: modalities with a tower, "fusion",
            "word head", and "label head on NAME".
    """

    folder: Path
    weights: str | None
    reader: str
    hub_reader: str
    left_out: tuple[str, ...] = ()


def export_checkpoint(
    checkpoint: Path | str,
    output: Path | str,
    format: str = "open_clip",
    *,
    weights: str | None = None,
    license: str | None = None,
) -> ExportedModel:
    """Export the encoder of a checkpoint; the model card describes the run that trained it.

    Args:
        checkpoint: Checkpoint of ``clipkit fit``, folder of an export in the format "open_clip" or
            "safetensors", or name of a model; see ``clipkit.models.load_model``.
        output: Folder for the files: a new one, an empty one, or an earlier export of the same
            format, which is replaced.
        format: One of ``FORMATS``.
        weights: "average" for the moving average of the weights, "raw" for the trained weights;
            None for the average if the checkpoint has one.
        license: License id for the model card, such as "cc-by-4.0"; None to name no license.

    Returns:
        The folder, the exported weights, the call that loads them, and the parts of the encoder
        that the format does not have.

    Raises:
        CheckpointError: If the checkpoint cannot be read, or the embeddings of the written files
            differ from those of the encoder.
        ConfigError: If the format is unknown or cannot express the encoder, or ``output`` contains
            other files.

    Examples:
        >>> save_encoder(encoder, "weights")
        >>> export_checkpoint("weights", "for_open_clip", "open_clip").reader
        "open_clip.create_model_and_transforms('local-dir:for_open_clip')"
    """
    _check_format(format)
    _check_output(Path(output))
    encoder, kind = load_towers(checkpoint, "cpu", weights)
    run = replace(read_run(Path(checkpoint)), weights=kind)
    return _export(encoder, Path(output), format, run, license)


def export_encoder(
    encoder: TowerEncoder,
    output: Path | str,
    format: str = "open_clip",
    *,
    tokenizer: str | None = None,
    license: str | None = None,
) -> ExportedModel:
    """Export an encoder that is in memory; it is copied and not changed.

    Args:
        encoder: Encoder on any device and in any mode. LoRA adapters are merged in the files.
        output: Folder for the files; see ``export_checkpoint``.
        format: One of ``FORMATS``.
        tokenizer: Name of the tokenizer that the encoder was trained with; None for the default
            tokenizer of its text tower.
        license: License id for the model card; None to name no license.

    Returns:
        The folder and the call that loads it.

    Raises:
        CheckpointError: If the embeddings of the written files differ from those of the encoder.
        ConfigError: See ``export_checkpoint``.

    Examples:
        >>> export_encoder(encoder, "export", "safetensors").reader
        "clipkit.models.load_encoder('export')"
    """
    _check_format(format)
    _check_output(Path(output))
    run = RunFacts(tokenizer=tokenizer)
    return _export(_merged_copy(encoder), Path(output), format, run, license)


def _export(
    encoder: TowerEncoder, output: Path, format: str, run: RunFacts, license: str | None
) -> ExportedModel:
    exporter = EXPORTERS[format]
    written, left_out = _exported_part(encoder, format)
    with replaced_folder(output) as folder:
        exporter.write(written, folder, run.tokenizer)
        exporter.check(written, folder)
        title, heads = output.resolve().name, encoder.heads
        card = render_card(title, written, run, exporter, license, left_out, heads)
        (folder / _CARD_NAME).write_text(card, encoding="utf-8")
    readers = exporter.reader(written, output), exporter.hub_reader(written, "OWNER/NAME")
    return ExportedModel(output, run.weights, *readers, left_out)


def _exported_part(encoder: TowerEncoder, format: str) -> tuple[TowerEncoder, tuple[str, ...]]:
    """Return the part of an encoder that a format can express, and what is left out."""
    exporter = EXPORTERS[format]
    heads = tuple(f"label head on {n}" for n in encoder.heads if not exporter.keeps_head(n))
    if not isinstance(encoder, NamedTowerEncoder):
        return encoder, heads
    fusion = _lost_of_fusion(encoder, exporter)
    if exporter.keeps_all_towers:
        return encoder, (*fusion, *heads)
    try:
        return encoder.dual(), (*encoder.modalities, *fusion, *heads)
    except ConfigError as error:
        raise ConfigError(
            f"{error}; the format {format} has no others, export with --format safetensors or onnx"
        ) from error


def _lost_of_fusion(encoder: NamedTowerEncoder, exporter: Exporter) -> tuple[str, ...]:
    if not isinstance(encoder, JointEncoder):
        return ()
    if not exporter.keeps_fusion:
        return ("fusion",)
    return ("word head",) if encoder.word_head and not exporter.keeps_word_head else ()


def _merged_copy(encoder: TowerEncoder) -> TowerEncoder:
    """Build the encoder again; a deep copy of a tower with adapters would share its classes."""
    copy = build_encoder(describe(encoder), "export")
    if adapters := lora_entry(encoder):
        add_lora_of_entry(copy, adapters, "export")
    load_exactly(copy, encoder.state_dict(), "export")
    for tower in copy.towers.values():
        merge_lora(tower)
    return copy.eval()


def _check_format(format: str) -> None:
    if format not in EXPORTERS:
        raise ConfigError(
            f"format: expected one of {', '.join(EXPORTERS)}, got {format!r}"
            f"{did_you_mean(format, EXPORTERS)}"
        )


def _check_output(output: Path) -> None:
    """Refuse a folder with other files before the model is read."""
    files = sorted(output.iterdir()) if output.is_dir() else []
    others = [
        f for f in files if f.name != NORMALIZE_FOLDER and (f.is_dir() or f.suffix not in _SUFFIXES)
    ]
    if others:
        raise _contains(output, others[0].name)


@contextmanager
def replaced_folder(output: Path) -> Iterator[Path]:
    """Provide a new folder that replaces ``output`` after the block."""
    target = output.resolve()
    with new_folder(target) as folder:
        yield folder
        written = {file.name for file in folder.iterdir()}
        existing = sorted(file.name for file in target.iterdir()) if target.is_dir() else []
        if others := [name for name in existing if name not in written]:
            raise _contains(target, others[0])


def _contains(folder: Path, name: str) -> ConfigError:
    return ConfigError(
        f"{folder}: contains {name!r}, which this export does not write; choose a new or empty "
        f"folder"
    )
