"""``clipkit explain``: which parts of an image or a sound and which words carry a similarity."""

from __future__ import annotations

import argparse
from functools import partial
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
    from clipkit.models import (
        Explanation,
        JointEncoder,
        MatchingExplanation,
        SoundExplanation,
        TowerEncoder,
    )

    Explained = Explanation | SoundExplanation | MatchingExplanation

_METHODS: Final = ("auto", "attention", "grad_cam", "occlusion")
_ENDINGS: Final = (".png", ".html")


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = add_command(
        subparsers, run, "explain",
        "show which parts of an image or a sound and which words carry a match",
        "Print the similarity of an image or a sound and a text and the weight of each word, and "
        "draw the heat map of the image, or over the spectrogram of the sound. Of a joint encoder, "
        "the matching logit is explained, with a heat map per word.",
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
    _add_method(parser)
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 …")
    add_weights_argument(parser)
    add_trust_argument(parser)


def _add_method(parser: argparse.ArgumentParser) -> None:
    """Add what is explained, and how."""
    parser.add_argument(
        "--method",
        choices=_METHODS,
        default="auto",
        help="attention: gradient-weighted attention rollout, or attention in the fusion; "
        "grad_cam: Grad-CAM of the last convolution; occlusion: drop of the similarity without a "
        "part, for any model; default: attention or grad_cam, whichever fits, or occlusion for a "
        "sound or a fusion if neither does",
    )
    parser.add_argument(
        "--score",
        choices=("matching", "similarity"),
        help="what is explained: the matching logit of a joint encoder, or the cosine similarity "
        "of the embeddings; default: the first if the model has a fusion of text and FILE alone",
    )
    parser.add_argument(
        "--layer",
        type=int,
        metavar="N",
        help="layer of the fusion whose attention is shown, from 0; default: the sum over all",
    )


def run(args: argparse.Namespace) -> int:
    output: Path = args.output
    if output.suffix.lower() not in _ENDINGS:
        raise ConfigError(f"--output: expected a name that ends in .png or .html, got {output}")
    check_output_file("--output", output)

    from clipkit.models import load_towers

    encoder, weights = load_towers(args.model, args.device, args.weights)
    explain = _explained_sound if _is_sound(args.file) else _explained_image
    _write(args, explain(args, encoder), weights)
    return 0


def _is_sound(path: Path) -> bool:
    """Return whether a file is a sound by its content; an image or no file is none."""
    from clipkit.data.audio.formats import LEAST_HEADER_BYTES, sound_kind

    try:
        with path.open("rb") as file:
            return sound_kind(file.read(LEAST_HEADER_BYTES)) is not None
    except OSError:  # named where the file is read
        return False


def _explained_image(args: argparse.Namespace, encoder: TowerEncoder) -> Explained:
    from clipkit.models import explain_matching
    from clipkit.models.checkpoints.kinds import as_dual

    joint = _fusion_of(args, encoder, "image")
    if joint is not None:
        return explain_matching(joint, args.file, args.text, args.method, args.layer)
    return as_dual(encoder, args.model).explain(args.file, args.text, args.method)


def _explained_sound(args: argparse.Namespace, encoder: TowerEncoder) -> Explained:
    from clipkit.models import JointEncoder, SignalTower, explain_matching_sound, explain_sound
    from clipkit.models.named_towers import NamedTowerEncoder

    towers = encoder.towers
    names = [n for n, t in towers.items() if isinstance(t, SignalTower) and t.mel is not None]
    if not isinstance(encoder, NamedTowerEncoder) or not names:
        raise ConfigError(
            f"FILE: {args.file} is a sound, and the model {args.model} has no tower for sounds; it "
            f"has {', '.join(towers)}"
        )
    fused = encoder.fused_names if isinstance(encoder, JointEncoder) else ()
    name = next((name for name in names if name in fused), names[0])
    joint = _fusion_of(args, encoder, name)
    if joint is not None:
        return explain_matching_sound(joint, args.file, args.text, args.method, args.layer, name)
    return explain_sound(encoder, args.file, args.text, args.method, name)


def _fusion_of(args: argparse.Namespace, encoder: TowerEncoder, name: str) -> JointEncoder | None:
    """Return the encoder if its matching logit is explained, None for its similarity.

    Raises:
        ConfigError: If an option needs a fusion of text and ``name``, and there is none.
    """
    from clipkit.models import JointEncoder

    fused = encoder.fused_names if isinstance(encoder, JointEncoder) else ()
    if isinstance(encoder, JointEncoder) and {*fused} == {"text", name}:
        if args.score != "similarity":
            return encoder
    elif args.score == "matching":
        raise ConfigError(
            f"--score matching: expected a model with a fusion of text and {name} alone, got "
            f"{args.model} with {'one of ' + ', '.join(fused) if fused else 'none'}"
        )
    if args.layer is not None:
        raise ConfigError("--layer: expected --score matching, whose fusion has layers")
    return None


def _write(args: argparse.Namespace, explained: Explained, weights: str | None) -> None:
    """Write the file and print words, score and method."""
    from clipkit.atomic_files import write_bytes
    from clipkit.evaluation.report import explanation_png, matching_png
    from clipkit.models import MatchingExplanation

    output: Path = args.output
    if isinstance(explained, MatchingExplanation):
        measure, own, draw = "matching logit", explained.caption, partial(matching_png, explained)
    else:
        measure, own, draw = "similarity", explained, partial(explanation_png, explained)
    if output.suffix.lower() == ".png":
        write_bytes(output, draw())
    else:
        _write_page(args, explained, weights)
    for word, weight in own.words:
        print(f"{weight:5.2f}  {word}")
    print(f"{measure} {own.score:.4f}, by {own.method}: {output}")


def _write_page(args: argparse.Namespace, explained: Explained, weights: str | None) -> None:
    from clipkit.evaluation.report import Examples, ReportData, RunDetails, write_report
    from clipkit.evaluation.report.collect.explanations import as_content, as_sound_content
    from clipkit.evaluation.report.collect.matches import matching_content
    from clipkit.models import Explanation, MatchingExplanation

    if isinstance(explained, MatchingExplanation):
        is_image = isinstance(explained.caption, Explanation)
        sound = None if is_image else args.file.read_bytes()
        examples = Examples(matches=[matching_content(explained, args.text, sound=sound)])
    elif isinstance(explained, Explanation):
        examples = Examples(explanations=[as_content(explained, args.text)])
    else:
        content = as_sound_content(explained, args.text, args.file.read_bytes())
        examples = Examples(explanations=[content])
    details = RunDetails(versions=versions())
    subtitle = f"{args.file.name}, {args.model}{shown_weights(weights)}"
    write_report(args.output, ReportData(args.text, subtitle, examples=examples, run=details))
