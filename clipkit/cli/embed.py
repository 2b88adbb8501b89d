"""``clipkit embed``: the embeddings of a data set as NumPy files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from clipkit.atomic_files import new_folder, write_json
from clipkit.cli.arguments import (
    add_data_arguments,
    add_model_arguments,
    given_path,
    open_data,
    shown_weights,
    versions,
)
from clipkit.cli.outputs import check_new_folder

if TYPE_CHECKING:
    from clipkit.evaluation import EmbeddedPairs

_BYTES_PER_NUMBER: Final = 4


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "embed",
        help="write the embeddings of a data set",
        description="Write images.npy (N x D), texts.npy (M x D), text_to_image.npy (M, the row of "
        "each text's picture) and keys.json (names of the samples, texts, model) to a new folder.",
        allow_abbrev=False,
    )
    add_model_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("--images-only", action="store_true", help="leave the captions out")
    parser.add_argument(
        "--output", type=given_path, required=True, metavar="DIR", help="a new folder"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Embed as the arguments say.

    Args:
        args: What ``add_parser`` declares.

    Returns:
        0.

    Raises:
        ClipkitError: If the model, the data or an option cannot be used; nothing is written then.
    """
    output: Path = args.output.absolute()
    check_new_folder("--output", output)

    from clipkit.evaluation import EmbedOptions, embed_pairs
    from clipkit.models import load_model

    options = EmbedOptions(args.batch_size, args.num_workers, args.limit, args.precision, True)
    data = open_data(args.data, args)
    encoder, weights = load_model(args.model, args.device, args.weights)
    num_rows = len(data) if args.limit is None else min(args.limit, len(data))
    check_new_folder("--output", output, num_rows * encoder.embedding_dim * _BYTES_PER_NUMBER)
    pairs = embed_pairs(encoder, data, options, captions=not args.images_only)
    facts = {"model": args.model, "weights": weights, "data": args.data, "versions": versions()}
    _write(output, pairs, facts)
    num_images, width = pairs.images.shape
    found = f"{num_images} pictures and {len(pairs.texts)} texts, {width} numbers each"
    print(f"{found}{shown_weights(weights)}: {args.output}")
    return 0


def _write(output: Path, pairs: EmbeddedPairs, facts: dict[str, Any]) -> None:
    """Write the complete folder, or nothing."""
    import numpy as np

    with new_folder(output) as draft:
        np.save(draft / "images.npy", pairs.images.numpy())
        np.save(draft / "texts.npy", pairs.texts.numpy())
        np.save(draft / "text_to_image.npy", pairs.text_to_image.numpy())
        content = {"keys": pairs.keys, "captions": pairs.captions, **facts}
        write_json(draft / "keys.json", content)
