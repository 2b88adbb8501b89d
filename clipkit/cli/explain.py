"""``clipkit explain``: which parts of an image or a sound and which words carry a similarity."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

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

if TYPE_CHECKING:
    from clipkit.evaluation.report import content
    from clipkit.models import Explanation, SoundExplanation

_METHODS: Final = ("auto", "attention", "grad_cam", "occlusion")
_ENDINGS: Final = (".png", ".html")


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = add_command(
        subparsers, run, "explain",
        "show which parts of an image or a sound and which words carry a match",
        "Print the similarity of an image or a sound and a text and the weight of each word, and "
        "draw the heat map of the image, or over the spectrogram of the sound.",
    )  # fmt: skip
    parser.add_argument("model", type=given_text, metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "file", type=given_path, metavar="FILE", help="an image file or a sound file"
    )
    parser.add_argument("text", metavar="TEXT", help="the text")
    parser.add_argument(
        "--output",
        type=given_path,
        required=True,
        metavar="FILE",
        help="the image or the spectrogram with its heat map and the text with shaded words: a "
        ".png, or an .html page that needs no other file, with a player for a sound",
    )
    parser.add_argument(
        "--method",
        choices=_METHODS,
        default="auto",
        help="attention: gradient-weighted attention rollout; grad_cam: Grad-CAM of the last "
        "convolution; occlusion: drop of the similarity without a part, for any model; default: "
        "attention or grad_cam, whichever fits, or occlusion for a sound if neither does",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 …")
    add_weights_argument(parser)
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    output: Path = args.output
    if output.suffix.lower() not in _ENDINGS:
        raise ConfigError(f"--output: expected a name that ends in .png or .html, got {output}")
    check_output_file("--output", output)

    if _is_sound(args.file):
        return _explain_sound(args)

    from clipkit.evaluation.report.collect.explanations import as_content
    from clipkit.models import load_model

    encoder, weights = load_model(args.model, args.device, args.weights)
    explanation = encoder.explain(args.file, args.text, args.method)
    _write(args, explanation, weights, lambda: as_content(explanation, args.text))
    return 0


def _is_sound(path: Path) -> bool:
    """Return whether a file is a sound by its content; an image or no file is none."""
    from clipkit.data.audio.formats import LEAST_HEADER_BYTES, sound_kind

    try:
        with path.open("rb") as file:
            return sound_kind(file.read(LEAST_HEADER_BYTES)) is not None
    except OSError:  # named where the file is read
        return False


def _explain_sound(args: argparse.Namespace) -> int:
    from clipkit.evaluation.report.collect.explanations import as_sound_content
    from clipkit.models import SignalTower, explain_sound, load_towers
    from clipkit.models.named_towers import NamedTowerEncoder

    encoder, weights = load_towers(args.model, args.device, args.weights)
    towers = encoder.towers
    names = [n for n, t in towers.items() if isinstance(t, SignalTower) and t.mel is not None]
    if not isinstance(encoder, NamedTowerEncoder) or not names:
        raise ConfigError(
            f"FILE: {args.file} is a sound, and the model {args.model} has no tower for sounds; it "
            f"has {', '.join(towers)}"
        )
    explanation = explain_sound(encoder, args.file, args.text, args.method, names[0])
    content = args.file.read_bytes()
    _write(args, explanation, weights, lambda: as_sound_content(explanation, args.text, content))
    return 0


def _write(
    args: argparse.Namespace,
    explanation: Explanation | SoundExplanation,
    weights: str | None,
    as_content: Callable[[], content.Explanation],
) -> None:
    """Write the file and print words, similarity and method."""
    from clipkit.atomic_files import write_bytes
    from clipkit.evaluation.report import Examples, ReportData, RunDetails, write_report
    from clipkit.evaluation.report.sections.overlay import explanation_png

    output: Path = args.output
    if output.suffix.lower() == ".png":
        write_bytes(output, explanation_png(explanation))
    else:
        examples = Examples(explanations=[as_content()])
        details = RunDetails(versions=versions())
        subtitle = f"{args.file.name}, {args.model}{shown_weights(weights)}"
        write_report(output, ReportData(args.text, subtitle, examples=examples, run=details))
    for word, weight in explanation.words:
        print(f"{weight:5.2f}  {word}")
    print(f"similarity {explanation.score:.4f}, by {explanation.method}: {output}")
