"""``clipkit export``: hand a trained encoder on, in files that others read."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkit.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from clipkit.models import DualEncoder

FORMATS = ("open_clip", "safetensors")
_TOLERANCE = 1e-4


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "export",
        help="write a trained encoder for open_clip, or as safetensors",
        description="Write a trained encoder for others. 'open_clip' leaves a folder that "
        "open_clip.create_model_and_transforms('local-dir:DIR') reads, preprocessing included; "
        "'safetensors' takes any encoder, and clipkit reads it back.",
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, metavar="CKPT", help="a checkpoint of clipkit")
    parser.add_argument(
        "--format", default="open_clip", choices=FORMATS, help="default: %(default)s"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder for the files"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export as the arguments say.

    Args:
        args: What ``add_parser`` declares.

    Returns:
        0.

    Raises:
        CheckpointError: If the checkpoint cannot be read, or its copy does not equal it.
        ConfigError: If the format cannot express the encoder, or the output is a file.
    """
    from clipkit.models import load_encoder, save_encoder, save_open_clip
    from clipkit.models.checkpoints import OPEN_CLIP_WEIGHTS_NAME

    output: Path = args.output
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output: expected a folder, but {output} is a file")
    encoder = load_encoder(args.model)
    with _whole_folder(output) as folder:
        if args.format == "open_clip":
            save_open_clip(encoder, folder / OPEN_CLIP_WEIGHTS_NAME)
            _check_copy(encoder, folder)
            reader = f"open_clip.create_model_and_transforms('local-dir:{output}')"
        else:
            save_encoder(encoder, folder)
            reader = f"clipkit.models.load_encoder('{output}')"
    print(f"{output}: written; read it with {reader}")  # noqa: T201
    return 0


@contextmanager
def _whole_folder(output: Path) -> Iterator[Path]:
    """A folder beside ``output`` whose files move into it once the block has succeeded."""
    target = output.resolve()
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    beside.mkdir(parents=True)
    try:
        yield beside
        output.mkdir(parents=True, exist_ok=True)
        for file in sorted(beside.iterdir()):
            file.replace(output / file.name)
    finally:
        shutil.rmtree(beside)


def _check_copy(encoder: DualEncoder, folder: Path) -> None:
    """Let open_clip read the files, and compare the embeddings of a made-up batch.

    Raises:
        CheckpointError: If open_clip cannot read them or its embeddings are others.
    """
    import open_clip
    import torch

    generator = torch.Generator().manual_seed(0)
    size, text = encoder.image_tower.image_size, encoder.text_tower
    images = torch.randn(2, 3, size, size, generator=generator)
    tokens = torch.randint(1, text.vocab_size, (2, text.context_length), generator=generator)
    try:
        copy = open_clip.create_model(f"local-dir:{folder}").eval()
    except Exception as error:  # open_clip's errors have no common base
        raise CheckpointError(f"export: open_clip cannot read what was written: {error}") from error
    with torch.inference_mode():
        pairs = (
            ("image", encoder.encode_image(images), copy.encode_image(images, normalize=True)),
            ("text", encoder.encode_text(tokens), copy.encode_text(tokens, normalize=True)),
        )
    for name, ours, theirs in pairs:
        difference = (ours - theirs).abs().max().item()
        if not difference <= _TOLERANCE:
            raise CheckpointError(
                f"export: open_clip's {name} embeddings differ by {difference:.1e}; nothing is left"
            )
