"""``clipkit embed``: write the embeddings of a data set as NumPy files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from clipkit.cli.arguments import (
    add_command,
    add_data_arguments,
    add_model_arguments,
    embed_options,
    given_path,
    sample_options,
    shown_weights,
    versions,
)
from clipkit.cli.outputs import check_new_folder

_FLOAT_BYTES: Final = 4


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = add_command(
        subparsers, run, "embed", "write the embeddings of a data set",
        "Write images.npy (N x D), texts.npy (M x D), text_to_image.npy (M, the row of each text's "
        "image) and keys.json (names of the samples, texts, model) to a new folder.",
    )  # fmt: skip
    add_model_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("--images-only", action="store_true", help="omit the captions")
    parser.add_argument(
        "--output", type=given_path, required=True, metavar="DIR", help="a new folder"
    )


def run(args: argparse.Namespace) -> int:
    output = args.output.absolute()
    check_new_folder("--output", output)

    from clipkit.distributed.process_group import process_group

    with process_group(args.device) as device:
        return _embed(args, device, output)


def _embed(args: argparse.Namespace, device: str, output: Path) -> int:
    from clipkit.distributed.agreement import of_first_rank, same_errors
    from clipkit.evaluation import embed_pairs, open_dataset, save_embeddings
    from clipkit.models import load_model

    options = embed_options(args)
    with same_errors():
        data = open_dataset(args.data, args.split, **sample_options(args))
        encoder, weights = load_model(args.model, device, args.weights)
        num_rows = len(data) if args.limit is None else min(args.limit, len(data))
        check_new_folder("--output", output, num_rows * encoder.embedding_dim * _FLOAT_BYTES)
    pairs = embed_pairs(encoder, data, options, captions=not args.images_only)
    details = {"model": args.model, "weights": weights, "data": args.data, "versions": versions()}
    of_first_rank(lambda: save_embeddings(pairs, output, details))
    num_images, width = pairs.images.shape
    totals = f"{num_images} images and {len(pairs.texts)} texts, {width} components each"
    print(f"{totals}{shown_weights(weights)}: {args.output}")
    return 0
