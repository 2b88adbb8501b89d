"""The command ``clipkit``: parse the subcommand, run it, and print errors on one line.

Neither this file nor the top of a subcommand's file imports torch, so that ``clipkit --help`` and
``clipkit SUBCOMMAND --help`` are fast.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from clipkit import __version__
from clipkit.cli.fit import command as fit
from clipkit.cli.interrupts import ignore_interrupts, one_interrupt
from clipkit.cli.printing import say
from clipkit.cli.tune import command as tune
from clipkit.errors import ClipkitError, ConfigError
from clipkit.remote_code import trust_remote_code
from clipkit.suggestions import one_line

_COMMANDS = (
    *("demo.command", "fit.command", "finetune", "tune.command", "evaluate.command"),
    *("evaluate.build", "compare", "embed", "explain", "interpolate", "export.command"),
    *("consolidate", "shards.command", "search.command", "runs"),
)
_TWO_WORDS = ("evaluate build",)
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130


class _CommandParser(argparse.ArgumentParser):
    """Joins the words of a command whose first word is a command, too: ``evaluate build``."""

    def parse_known_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        words = list(sys.argv[1:] if args is None else args)
        if " ".join(words[:2]) in _TWO_WORDS:
            words[:2] = [" ".join(words[:2])]
        return super().parse_known_args(words, namespace)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands."""
    parser = _CommandParser(
        prog="clipkit",
        description="Pretrain, fine-tune and evaluate CLIP models on WebDataset shards.",
        epilog="clipkit SUBCOMMAND --help explains a subcommand.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"clipkit {__version__}")
    subparsers = parser.add_subparsers(
        dest="subcommand",
        metavar="SUBCOMMAND",
        required=True,
        parser_class=argparse.ArgumentParser,
    )
    for name in _COMMANDS:
        import_module(f"clipkit.cli.{name}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``clipkit`` with the words of ``argv``, or those of this process.

    The exit status is 0 for success, 1 for broken shards (an unexpected error is raised), 2 for an
    error that the user can solve, 130 if interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _print_any_name()
    # With this variable, torch.load unpickles code in all libraries.
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    with one_interrupt(ends_process=argv is None):
        return _run(words)


def _run(words: list[str]) -> int:
    """Run a command; print its error on one line and return the exit status."""
    try:
        if words and words[0] in fit.SUBCOMMANDS:
            # LightningCLI has its own parser.
            return fit.run(words)
        if words[:1] == ["tune"]:
            return tune.run(words[1:])
        if words.count("--") > 1:  # argparse would use an empty list for a positional argument
            raise ConfigError("'--' may be given once; write ./-- for a file of that name")
        args = build_parser().parse_args(words)
        with trust_remote_code(getattr(args, "trust_remote_code", False)):
            status: int = args.run(args)
        return status
    except ClipkitError as error:
        say(f"clipkit: error: {one_line(str(error))}", to_errors=True)
        return _EXIT_USAGE
    except KeyboardInterrupt:
        ignore_interrupts()
        print("clipkit: interrupted", file=sys.stderr)
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of the output (`| head`) ended; avoid an error at the flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        say(f"clipkit: error: {system_reason(error)}", to_errors=True)
        return _EXIT_USAGE


def system_reason(error: OSError) -> str:
    """Return the reason of an error of the operating system, with the file if it is known.

    Examples:
        >>> system_reason(FileNotFoundError(2, "No such file or directory", "a.tar"))
        'a.tar: No such file or directory'
    """
    reason = error.strerror or str(error)
    return reason if error.filename is None else f"{error.filename}: {reason}"


def _print_any_name() -> None:
    """Print file names that are not UTF-8 with escapes instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
