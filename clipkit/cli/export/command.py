"""``clipkit export``: write a trained encoder in the files of other libraries."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

from clipkit.atomic_files import temporary_path
from clipkit.cli.arguments import (
    MODEL_HELP,
    add_trust_argument,
    add_weights_argument,
    given_path,
    given_text,
    shown_weights,
)
from clipkit.cli.outputs import check_output_file, check_output_folder
from clipkit.errors import ConfigError

if TYPE_CHECKING:
    from clipkit.evaluation import Evaluator
    from clipkit.models import DualEncoder

FORMATS: Final = (
    *("open_clip", "transformers", "sentence_transformers"),
    *("onnx", "onnx_fp16", "onnx_int8", "safetensors"),
)


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Register ``clipkit export``."""
    parser = subparsers.add_parser(
        "export",
        help="write a trained encoder for open_clip, transformers or ONNX, or as safetensors",
        description="Write a trained encoder with its preprocessing and a model card. "
        "'open_clip' writes a folder in the layout of the Hugging Face hub, for "
        "open_clip.create_model_and_transforms('local-dir:DIR'); 'transformers' a folder for "
        "AutoModel.from_pretrained (CLIPModel or SiglipModel); 'sentence_transformers' one for "
        "SentenceTransformer('DIR'); 'onnx', 'onnx_fp16' and 'onnx_int8' one graph per tower; "
        "'safetensors' supports every encoder and is loaded with clipkit. The files are loaded "
        "again, and their embeddings are compared with those of the encoder.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model",
        type=given_text,
        required=True,
        metavar="CKPT-or-NAME",
        help=MODEL_HELP,
    )
    add_weights_argument(parser)
    parser.add_argument(
        "--format", default="open_clip", choices=FORMATS, help="default: %(default)s"
    )
    parser.add_argument(
        "--output", required=True, type=given_path, metavar="DIR", help="output folder"
    )
    parser.add_argument(
        "--license", metavar="ID", help="license for the model card, such as cc-by-4.0"
    )
    parser.add_argument(
        "--measure",
        type=given_text,
        metavar="DATA",
        help="with an ONNX format: print the retrieval recall of the model and of its graphs on "
        "images with captions",
    )
    _add_upload(parser)
    add_trust_argument(parser)
    parser.set_defaults(run=run)


def _add_upload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--push",
        type=given_text,
        metavar="OWNER/NAME",
        help="upload the folder to this repository of the Hugging Face hub, in one commit; it is "
        "created if it does not exist",
    )
    parser.add_argument(
        "--private", action="store_true", help="create a private repository with --push"
    )


def _evaluator(args: argparse.Namespace) -> Evaluator:
    if not args.format.startswith("onnx"):
        raise ConfigError(f"--measure: only with an ONNX format, got --format {args.format}")
    from clipkit.evaluation import make_evaluator

    return make_evaluator("retrieval", args.measure)


def _measured(args: argparse.Namespace) -> DualEncoder:
    """Load the model that is compared with its files; refuse one without images or texts."""
    from clipkit.models import load_towers
    from clipkit.models.checkpoints.kinds import as_dual

    encoder = load_towers(args.model, "cpu", args.weights).encoder
    if missing := [name for name in ("image", "text") if name not in encoder.towers]:
        raise ConfigError(
            f"--measure: measures the retrieval of images and texts, but {args.model} has no "
            f"{missing[0]} tower (it has {', '.join(encoder.towers)}); omit --measure"
        )
    return as_dual(encoder, args.model)


def _print_recalls(evaluator: Evaluator, model: DualEncoder, args: argparse.Namespace) -> None:
    """Print the recalls of the model and of the files, and their difference."""
    from clipkit.models import load_encoder

    before = evaluator.run(model)
    after = evaluator.run(load_encoder(args.output))
    print(f"{args.measure}: model, {args.format}, difference")
    for name, value in before.items():
        if "/recall_at_" not in name:
            continue
        change = after[name] - value
        print(f"{100 * value:6.2f} % {100 * after[name]:6.2f} % {100 * change:+6.2f}  {name}")


def run(args: argparse.Namespace) -> int:
    check_output_folder("--output", args.output)
    check_output_file("--output", temporary_path(args.output.resolve()))

    if args.private and args.push is None:
        raise ConfigError("--private: only with --push OWNER/NAME")

    from clipkit.export import export_checkpoint, push_to_hub
    from clipkit.export.push import check_login

    evaluator = None if args.measure is None else _evaluator(args)
    if args.push is not None:
        check_login(args.push)  # before the model is loaded and written
    model = None if evaluator is None else _measured(args)
    # Before the model is measured, which takes longer: this checks output, packages and format.
    exported = export_checkpoint(
        args.model, args.output, args.format, weights=args.weights, license=args.license
    )
    weights = shown_weights(exported.weights)
    print(f"{args.output}: written{weights}; load it with {exported.reader}")
    if exported.left_out:
        print(
            f"{args.output}: the format {args.format} has no place for all parts; left out: "
            f"{', '.join(exported.left_out)} (--format safetensors contains everything)"
        )
    if evaluator is not None and model is not None:
        _print_recalls(evaluator, model, args)
    if args.push is not None:
        name = push_to_hub(args.output, args.push, private=args.private)
        reader = exported.hub_reader.replace("OWNER/NAME", args.push)
        print(f"{name}: uploaded; load it with {reader}")
    return 0
