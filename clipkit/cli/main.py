"""The command ``clipkit``: registers the subcommands and turns errors into one line.

Nothing here, nor at the top of a subcommand's file, imports torch: ``clipkit --help`` and
``clipkit SUBCOMMAND --help`` answer at once.
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
from clipkit.cli.tune import command as tune
from clipkit.errors import ClipkitError, ConfigError
from clipkit.remote_code import trust_remote_code
from clipkit.suggestions import one_line

_COMMANDS = (
    *("demo.command", "fit.command", "finetune", "tune.command", "evaluate.command", "embed"),
    *("interpolate", "export.command", "consolidate", "shards.command"),
)
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command, with every subcommand registered."""
    parser = argparse.ArgumentParser(
        prog="clipkit",
        description="Pretrain, fine-tune and evaluate CLIP models on WebDataset shards.",
        epilog="clipkit SUBCOMMAND --help explains a subcommand.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"clipkit {__version__}")
    subparsers = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND", required=True)
    for name in _COMMANDS:
        import_module(f"clipkit.cli.{name}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``clipkit`` with ``argv``.

    Args:
        argv: Words after ``clipkit``; those of this process when None.

    Returns:
        The exit status: 0 done, 1 an unforeseen failure (with its traceback, raised) or broken
        shards, 2 an error that the user can mend, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _print_any_name()
    # It has torch unpickle any code, also in libraries that leave the choice to torch.
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    with one_interrupt(for_good=argv is None):
        return _run(words)


def _run(words: list[str]) -> int:
    """Run a command and turn what it raises into a line and an exit status."""
    try:
        if words and words[0] in fit.SUBCOMMANDS:
            # LightningCLI has its own parser; argparse would trip over its options.
            return fit.run(words)
        if words[:1] == ["tune"]:
            return tune.run(words[1:])
        if words.count("--") > 1:  # argparse would take an empty list for a positional argument
            raise ConfigError("'--' may be given once; write ./-- for a file of that name")
        args = build_parser().parse_args(words)
        with trust_remote_code(getattr(args, "trust_remote_code", False)):
            status: int = args.run(args)
        return status
    except ClipkitError as error:
        print(f"clipkit: error: {one_line(str(error))}", file=sys.stderr)
        return _EXIT_USAGE
    except KeyboardInterrupt:
        ignore_interrupts()
        print("clipkit: interrupted", file=sys.stderr)
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (`| head`) left; keep Python's own flush at exit quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        print(f"clipkit: error: {system_reason(error)}", file=sys.stderr)
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
