"""Options that several subcommands share: model, device, data."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict

from clipkit.errors import ConfigError
from clipkit.remote_code import FLAG

if TYPE_CHECKING:
    from clipkit.data import CaptionPicker
    from clipkit.evaluation import EmbedOptions


MODEL_HELP: Final = (
    "a checkpoint of clipkit, a folder of its export, a model of the Hugging Face hub, or an "
    "open_clip name with or without weights, such as last.ckpt, hf-hub:OWNER/NAME, "
    "hf-hub:OWNER/NAME@REVISION, ViT-B-32@laion2b_s34b_b79k, ViT-B-32@weights.safetensors, "
    "config.json@model.pt"
)


def given_text(text: str) -> str:
    """Parse the value of an option that is a path, URL or name."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path or name, got an empty text")
    return text


def given_path(text: str) -> Path:
    """Parse the path of an option; see ``given_text``."""
    return Path(given_text(text))


def add_command(
    subparsers: argparse._SubParsersAction[Any],
    run: Callable[[argparse.Namespace], int],
    name: str,
    summary: str,
    description: str,
) -> argparse.ArgumentParser:
    """Add a subcommand, whose options must be written out."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name, help=summary, description=description, allow_abbrev=False
    )
    parser.set_defaults(run=run)
    return parser


def add_model_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Add ``--model``, a list of names if ``several``, ``--weights`` and ``--device``."""
    parser.add_argument(
        "--model",
        action="append" if several else "store",
        type=given_text,
        required=True,
        metavar="CKPT-or-NAME",
        help=MODEL_HELP,
    )
    add_weights_argument(parser)
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1 …; auto: a GPU if there is one"
    )
    add_trust_argument(parser)


def add_outside_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-outside``."""
    parser.add_argument(
        "--allow-outside",
        action="store_true",
        help="allow images of a table or folder that are outside of its folder",
    )


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-remote-code``; ``main`` grants it."""
    parser.add_argument(
        FLAG,
        action="store_true",
        help="allow the model or tokenizer to run Python code of its own; otherwise it is refused",
    )


def add_weights_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--weights``."""
    parser.add_argument(
        "--weights",
        choices=("average", "raw"),
        help="weights of a checkpoint: the moving average, which validation measured, or the raw "
        "trained weights; default: the average if there is one",
    )


def add_data_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add ``--data``, ``--split``, ``--modality``, and the options of samples and of embedding."""
    parser.add_argument(
        "--data",
        type=given_text,
        required=required,
        metavar="DIR-or-URL",
        help="a folder, URL or pattern of shards, a table or folder of images, or "
        "hf://datasets/OWNER/NAME/CONFIG/SPLIT",
    )
    parser.add_argument("--split", default="test", help="folder inside --data (default: test)")
    parser.add_argument(
        "--modality",
        default="image",
        choices=("image", "sound"),
        help="what the samples are (default: image); sounds need a model with a sound tower",
    )
    add_sample_arguments(parser)
    add_embed_arguments(parser)


def add_embed_arguments(parser: argparse.ArgumentParser, by_cores: bool = False) -> None:
    """Add the options of embedding; see ``embed_options``.

    Args:
        parser: Parser of the command.
        by_cores: Whether the number of workers is None, for the number of cores, instead of 0.
    """
    parser.add_argument("--batch-size", type=int, default=64, help="samples per batch")
    parser.add_argument(
        "--num-workers",
        type=int,
        default=None if by_cores else 0,
        help=f"processes that decode images{'; default: by the number of cores' * by_cores}",
    )
    parser.add_argument("--limit", type=int, help="number of samples; default: all")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))


def add_sample_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--caption``, ``--label-field`` and ``--allow-outside``; see ``sample_options``."""
    parser.add_argument(
        "--caption",
        type=given_text,
        metavar="MEMBER-or-PICKER",
        help="where captions are: a text member (txt, one per line), a field of a JSON member "
        "(json:title), one of them for each language (json:caption_{language}), or a caption "
        "picker as in data.validation.caption, as YAML or the path of a YAML file; default: txt",
    )
    parser.add_argument(
        "--label-field",
        default="cls",
        metavar="MEMBER",
        help="where the class is: a member (cls) or a field of a JSON member (json:category)",
    )
    add_outside_argument(parser)


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--engine`` and ``--address``."""
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="local: this process; ray: the machines of a Ray cluster, on storage that all share",
    )
    parser.add_argument(
        "--address",
        type=given_text,
        help="with --engine ray: address of the cluster, such as auto or 10.0.0.5:6379; local "
        "starts one on this machine (default: local)",
    )


def check_engine(args: argparse.Namespace) -> None:
    """Refuse options of another engine.

    Raises:
        ConfigError: If ``--address`` is given without Ray, or ``--part`` with it.
    """
    if args.engine != "ray" and args.address is not None:
        raise ConfigError("--address: expected --engine ray with it")
    if args.engine == "ray" and args.part is not None:
        raise ConfigError("--part: expected no part with --engine ray, which divides the work")


class SampleOptions(TypedDict):
    """Keyword arguments of ``open_dataset`` and ``make_evaluator``."""

    caption: CaptionPicker | None
    label_field: str
    allow_outside: bool


def sample_options(args: argparse.Namespace) -> SampleOptions:
    """Return the options of ``add_sample_arguments``."""
    return {
        "caption": caption_picker(args.caption),
        "label_field": args.label_field,
        "allow_outside": args.allow_outside,
    }


def embed_options(args: argparse.Namespace, progress: bool = True) -> EmbedOptions:
    """Return the options of ``add_embed_arguments``."""
    from clipkit.evaluation import EmbedOptions

    return EmbedOptions(args.batch_size, args.num_workers, args.limit, args.precision, progress)


def caption_picker(text: str | None) -> CaptionPicker | None:
    """Parse the value of ``--caption``."""
    from clipkit.data.text.captions import CaptionPicker
    from clipkit.data.text.languages import named_picker

    if text is None:
        return None
    if (named := named_picker(text)) is not None:
        return named

    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--caption", type=CaptionPicker, enable_path=True)
    # jsonargparse 4.49 deprecates the second name, 4.40 has no other.
    instantiate = getattr(parser, "instantiate", parser.instantiate_classes)
    try:
        picker: CaptionPicker = instantiate(parser.parse_args([f"--caption={text}"])).caption
    except ArgumentError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"--caption: expected a member, json:FIELD or a caption picker, got {text!r}: {reason}"
        ) from error
    return picker


def shown_weights(weights: str | None) -> str:
    """Return the weights of a checkpoint in parentheses; an empty text if there is only one set.

    Examples:
        >>> shown_weights("average")
        ' (average weights)'
    """
    return f" ({weights} weights)" if weights else ""


def versions() -> dict[str, str]:
    """Return the versions of packages that results depend on."""
    import platform
    from importlib.metadata import version

    packages = {"clipkit": "clipkit", "torch": "torch", "open_clip": "open_clip_torch"}
    return {"python": platform.python_version()} | {
        name: version(package) for name, package in packages.items()
    }
