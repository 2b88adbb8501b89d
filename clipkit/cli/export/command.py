"""``clipkit export``: hand a trained encoder on, in files that others read."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from clipkit.atomic_files import new_folder, temporary_path
from clipkit.cli.arguments import (
    add_trust_argument,
    add_weights_argument,
    given_path,
    given_text,
    shown_weights,
)
from clipkit.cli.outputs import check_output_file, check_output_folder
from clipkit.errors import ConfigError

FORMATS: Final = ("open_clip", "transformers", "onnx", "safetensors")
_SUFFIXES: Final = frozenset(
    {".json", ".txt", ".md", ".safetensors", ".onnx", ".data", ".model", ".tiktoken"}
)
"""How the files of all formats end, those of tokenizers included."""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "export",
        help="write a trained encoder for open_clip, transformers or ONNX, or as safetensors",
        description="Write a trained encoder for others, with its preprocessing and a model card. "
        "'open_clip' leaves a folder in the layout of the Hugging Face hub, for "
        "open_clip.create_model_and_transforms('local-dir:DIR'); 'transformers' one for "
        "CLIPModel.from_pretrained; 'onnx' a graph for each tower; 'safetensors' takes any "
        "encoder, and clipkit reads it back. What was written is read again and compared.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", type=given_text, required=True, metavar="CKPT", help="a checkpoint of clipkit"
    )
    add_weights_argument(parser)
    parser.add_argument(
        "--format", default="open_clip", choices=FORMATS, help="default: %(default)s"
    )
    parser.add_argument(
        "--output", required=True, type=given_path, metavar="DIR", help="folder for the files"
    )
    parser.add_argument(
        "--license", metavar="ID", help="licence for the model card, such as cc-by-4.0"
    )
    add_trust_argument(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export as the arguments say.

    Args:
        args: What ``add_parser`` declares.

    Returns:
        0.

    Raises:
        CheckpointError: If the checkpoint cannot be read, or its copy does not equal it.
        ConfigError: If the format cannot express the encoder, or the output is in the way.
    """
    output: Path = args.output
    _check_output(output)

    from clipkit.export.card_examples import USAGE
    from clipkit.export.formats import EXPORTERS
    from clipkit.export.model_card import render_card
    from clipkit.export.run_facts import read_run
    from clipkit.models.checkpoints.encoder import PREFIXES, read_encoder

    prefix = None if args.weights is None else PREFIXES[args.weights]
    encoder, weights = read_encoder(args.model, prefix)
    run_facts = replace(read_run(Path(args.model)), weights=weights)
    exporter = EXPORTERS[args.format]
    with whole_folder(output) as folder:
        exporter.write(encoder, folder, run_facts.tokenizer)
        exporter.check(encoder, folder)
        card = render_card(
            output.resolve().name, encoder, run_facts, USAGE[args.format], exporter.hub_name,
            license=args.license, keeps_label_head=exporter.keeps_label_head,
        )  # fmt: skip
        (folder / "README.md").write_text(card, encoding="utf-8")
    print(f"{output}: written{shown_weights(weights)}; read it with {exporter.reader(output)}")  # noqa: T201
    return 0


def _check_output(output: Path) -> None:
    """Check that the folder can be replaced by what is written next to it.

    Raises:
        ConfigError: If the disk refuses, or the folder holds files of another origin.
    """
    check_output_folder("--output", output)
    target = output.resolve()
    check_output_file("--output", temporary_path(target))
    held = sorted(target.iterdir()) if target.is_dir() else []
    if others := [file for file in held if file.is_dir() or file.suffix not in _SUFFIXES]:
        raise _holds(target, others[0].name)


def _holds(target: Path, name: str) -> ConfigError:
    return ConfigError(
        f"--output: {target} holds {name!r}, which this export does not write; give a new or empty "
        f"folder"
    )


@contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """A folder beside ``output`` that takes its place once the block has succeeded.

    Args:
        output: What an earlier export left there is replaced; anything else is refused.

    Raises:
        ConfigError: If ``output`` holds files of another origin.
    """
    target = output.resolve()
    with new_folder(target) as folder:
        yield folder
        written = {file.name for file in folder.iterdir()}
        existing = sorted(file.name for file in target.iterdir()) if target.is_dir() else []
        if others := [name for name in existing if name not in written]:
            raise _holds(target, others[0])
