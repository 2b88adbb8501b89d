"""``clipkit explain``: which parts of an image and which words of a text carry their similarity."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from clipkit.cli.arguments import (
    MODEL_HELP,
    add_command,
    add_trust_argument,
    add_weights_argument,
    given_path,
    given_text,
    shown_weights,
    versions,
)
from clipkit.cli.outputs import check_output_file
from clipkit.errors import ConfigError

_METHODS: Final = ("auto", "attention", "grad_cam", "occlusion")
_ENDINGS: Final = (".png", ".html")


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = add_command(
        subparsers, run, "explain",
        "show which parts of an image and which words carry a match",
        "Print the similarity of an image and a text and the weight of each word, and draw the "
        "heat map of the image.",
    )  # fmt: skip
    parser.add_argument("model", type=given_text, metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("image", type=given_path, metavar="IMAGE", help="an image file")
    parser.add_argument("text", metavar="TEXT", help="the text")
    parser.add_argument(
        "--output",
        type=given_path,
        required=True,
        metavar="FILE",
        help="the image with its heat map and the text with shaded words: a .png, or an .html page "
        "that needs no other file",
    )
    parser.add_argument(
        "--method",
        choices=_METHODS,
        default="auto",
        help="attention: gradient-weighted attention rollout; grad_cam: Grad-CAM of the last "
        "convolution; occlusion: drop of the similarity without a part, for any model; default: "
        "attention or grad_cam, whichever fits",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 …")
    add_weights_argument(parser)
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    output: Path = args.output
    if output.suffix.lower() not in _ENDINGS:
        raise ConfigError(f"--output: expected a name that ends in .png or .html, got {output}")
    check_output_file("--output", output)

    from clipkit.atomic_files import write_bytes
    from clipkit.evaluation.report import Examples, ReportData, RunDetails, write_report
    from clipkit.evaluation.report.collect.explanations import as_content
    from clipkit.evaluation.report.sections.overlay import explanation_png
    from clipkit.models import load_model

    encoder, weights = load_model(args.model, args.device, args.weights)
    explanation = encoder.explain(args.image, args.text, args.method)
    if output.suffix.lower() == ".png":
        write_bytes(output, explanation_png(explanation))
    else:
        examples = Examples(explanations=[as_content(explanation, args.text)])
        details = RunDetails(versions=versions())
        subtitle = f"{args.image.name}, {args.model}{shown_weights(weights)}"
        write_report(output, ReportData(args.text, subtitle, examples=examples, run=details))
    for word, weight in explanation.words:
        print(f"{weight:5.2f}  {word}")
    print(f"similarity {explanation.score:.4f}, by {explanation.method}: {output}")
    return 0
