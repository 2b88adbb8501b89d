"""LightningCLI, with configuration and flags that win and errors of one line."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.warnings import disable_possible_user_warnings
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from clipkit.cli.fit.config_checks import check_parsed, check_sections
from clipkit.cli.fit.parse_errors import clipkit_error, explain
from clipkit.cli.fit.renamed import read_renamed, with_new_options
from clipkit.cli.fit.trainer_checks import (
    check_trainer_options,
    merge_savers,
    raised_by,
)
from clipkit.cli.fit.trainer_help import function_help, option_names
from clipkit.cli.fit.wandb_id import choose_id
from clipkit.cli.outputs import check_output_folder
from clipkit.errors import ClipkitError, ConfigError
from clipkit.models import DualEncoder
from clipkit.suggestions import one_line
from clipkit.training import ContrastiveModule, PairDataModule
from clipkit.training.callbacks import (
    KeyLog,
    ReplaceRun,
    SaveConfig,
    StopOnSignal,
    WriteEmbeddings,
)
from clipkit.training.callbacks.run_folder import check_folder_is_free
from clipkit.training.callbacks.save_checkpoint import newest_checkpoint
from clipkit.training.callbacks.write_embeddings import embeddings_name
from clipkit.training.checkpoints.io import refuse_unpickling, use_atomic_checkpoints
from clipkit.training.lightning_compat import all_callbacks
from clipkit.training.preflight.callback import Preflight

# DualEncoder is final; functions that return one (from_open_clip) are still to be accepted.
set_parsing_settings(subclasses_enabled=[DualEncoder])
read_renamed()

_RUN_FOLDER = "auto"
"""As a logger's save_dir: the run's folder, trainer.default_root_dir."""
_PREFLIGHT_ONLY = "--preflight_only"
_OVERWRITE = "--overwrite"
_REFUSALS = (ValueError, TypeError, RuntimeError, ImportError)
_REFUSING = ("lightning", "lightning_utilities", "fsspec")
"""Packages whose own errors of these kinds are about an option, not about a step."""
_EXIT_STOPPED = 143
"""128 + SIGTERM: whoever looks after the process sees that the run is not done."""


class Parser(LightningArgumentParser):
    """A parser that raises one clear line instead of printing usage and leaving the process."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong as a ``ConfigError``, with close matches for a typo."""
        found = clipkit_error(ex)
        if found is not None:
            raise found
        raise ConfigError(explain(message, ex, option_names(self), self.config_files))

    # Shared by the parsers of all subcommands: an error does not say which file it came from.
    config_files: tuple[str, ...] = ()


class TrainerCLI(LightningCLI):
    """``clipkit fit | validate | test | predict``.

    Args:
        words: The subcommand and its options.
    """

    def __init__(self, words: Sequence[str]) -> None:
        Parser.config_files = tuple(config_files(words))
        for file in Parser.config_files:
            check_sections(file)
        # No part of the configuration: a saved one starts the run, not its rehearsal, and must not
        # replace another run whenever it is used.
        flags = (_PREFLIGHT_ONLY, _OVERWRITE) if words[0] == "fit" else ()
        self.preflight_only, self.overwrite = (
            flag in flags and flag in words for flag in (_PREFLIGHT_ONLY, _OVERWRITE)
        )
        self.words = [word for word in words if word not in flags]
        super().__init__(
            ContrastiveModule,
            PairDataModule,
            parser_class=Parser,
            parser_kwargs={"prog": "clipkit"},
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            # Hyperparameters in a checkpoint would come back over the configuration.
            load_from_checkpoint_support=False,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ARG002
        """Parse the words that were given, never those of the process."""
        self.config = parser.parse_args(self.words)
        sections = self.config[self.config["subcommand"]]
        check_parsed(sections)
        trainer = sections["trainer"]
        check_trainer_options(trainer)
        trainer["callbacks"] = merge_savers(trainer.get("callbacks"))
        for logger in loggers_of(trainer):
            if logger.get("save_dir") == _RUN_FOLDER:
                logger["save_dir"] = trainer["default_root_dir"] or "."

    def _parse_ckpt_path(self) -> None:
        """Keep configuration and flags: Lightning would read the checkpoint's options over them.

        With ``--ckpt_path`` a changed learning rate would be lost without a word.
        """

    def after_instantiate_classes(self) -> None:
        """Hand the resolved configuration to the model, which stores it in its checkpoints."""
        use_atomic_checkpoints(self.trainer)
        config = self.config[str(self.subcommand)]
        dumped = self._parser(self.subcommand).dump(config, skip_none=False)
        self.model.run_config = yaml.safe_load(dumped)
        given = self.config_init[str(self.subcommand)]
        if "weights_only" in given:  # strategies with a way of their own are handed it
            refuse_unpickling(given["weights_only"])
            given["weights_only"] = True
        resume_last = given.get("ckpt_path") == "last"
        if resume_last:
            given["ckpt_path"] = last_checkpoint(self.trainer, required=self.subcommand != "fit")
        check_run_folder(self.trainer, str(self.subcommand))
        if self.subcommand == "fit":
            path = given.get("ckpt_path")
            check_folder_is_free(self.trainer, path, resume_last, self.overwrite)
            self._prepare_fit(resumes=path is not None)

    def _prepare_fit(self, resumes: bool) -> None:
        """Add what every fit has; a rehearsal leaves nothing in the run's folder."""
        if self.preflight_only:
            self.trainer.loggers = []
            callbacks = all_callbacks(self.trainer)
            callbacks[:] = [one for one in callbacks if not isinstance(one, SaveConfig | KeyLog)]
        replace = [ReplaceRun()] if self.overwrite else []
        add_missing(self.trainer, StopOnSignal(), Preflight(only=self.preflight_only), *replace)
        choose_id(self.trainer.loggers, str(self.trainer.default_root_dir), resumes)

    def before_predict(self) -> None:
        """Have the embeddings written; Lightning would only return them."""
        all_callbacks(self.trainer).append(WriteEmbeddings())


def last_checkpoint(trainer: Trainer, required: bool) -> str | None:
    """What ``--ckpt_path last`` means: the newest whole checkpoint where the run writes its own.

    Args:
        trainer: The run's.
        required: Whether to refuse a run that has none yet.

    Returns:
        Its path or URL; None before a first one was written.

    Raises:
        CheckpointError: If there are only half ones.
        ConfigError: If there is none and one is required.
    """
    found = newest_checkpoint(trainer)
    if found is None and required:
        raise ConfigError(
            f"ckpt_path: expected a checkpoint in {trainer.default_root_dir}, found none; "
            f"name one with --ckpt_path FILE, or the run with --trainer.default_root_dir"
        )
    return found


def check_run_folder(trainer: Trainer, subcommand: str) -> None:
    """Check that ``fit`` and ``predict`` can write into the run's folder, where that is local.

    One rank looks: the check makes missing folders and removes them again.

    Raises:
        ConfigError: If they cannot.
    """
    folder = str(trainer.default_root_dir)
    if subcommand in ("fit", "predict") and "://" not in folder and trainer.is_global_zero:
        files = [embeddings_name(trainer.global_rank)] if subcommand == "predict" else []
        check_output_folder("trainer.default_root_dir", Path(folder), files)


def add_missing(trainer: Trainer, *callbacks: Callback) -> None:
    """Give a trainer those callbacks whose kind it lacks."""
    present = all_callbacks(trainer)
    present[:0] = [new for new in callbacks if not any(type(old) is type(new) for old in present)]


def run_trainer(name: str, options: Sequence[str]) -> int:
    """Run one of Lightning's subcommands.

    Args:
        name: ``fit``, ``validate``, ``test`` or ``predict``.
        options: Its options.

    Returns:
        The exit status.

    Raises:
        ClipkitError: If the run cannot work.
    """
    _quiet()
    if (text := function_help(options)) is not None:
        print(text)
        return 0
    try:
        with _own_wandb_run():
            TrainerCLI([name, *with_new_options(options)])
    except MisconfigurationException as error:
        raise ConfigError(one_line(str(error))) from error
    except ClipkitError:
        raise
    except SIGTERMException:
        return _EXIT_STOPPED
    except SystemExit as leaving:
        if isinstance(leaving.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None  # Lightning leaves with status 1 then
        return int(leaving.code or 0)
    except Exception as error:
        found = clipkit_error(error)
        if found is None and isinstance(error, _REFUSALS) and raised_by(error, _REFUSING):
            found = ConfigError(one_line(str(error)))
        if found is None:
            raise
        raise found from error
    return 0


def config_files(words: Sequence[str]) -> Iterator[str]:
    """The files that ``-c`` and ``--config`` name."""
    for position, word in enumerate(words):
        if word in ("-c", "--config") and position + 1 < len(words):
            yield words[position + 1]
        elif word.startswith("--config="):
            yield word.partition("=")[2]


def loggers_of(trainer: Any) -> list[Any]:
    """The options of every configured logger of a trainer's configuration."""
    loggers = trainer.get("logger")
    entries = loggers if isinstance(loggers, list) else [loggers]
    return [entry["init_args"] for entry in entries if getattr(entry, "class_path", None)]


@contextmanager
def _own_wandb_run() -> Iterator[None]:
    """Close the W&B run that a command opens: a later one in this process would write into it."""
    outer = getattr(sys.modules.get("wandb"), "run", None)
    failed = True
    try:
        yield
        failed = False
    finally:
        wandb = sys.modules.get("wandb")
        if outer is None and wandb is not None and getattr(wandb, "run", None) is not None:
            wandb.finish(exit_code=int(failed))


def _quiet() -> None:
    """Leave out Lightning's advertisements and the warnings that no user can act on."""
    disable_possible_user_warnings()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for text in (
        ".*LeafSpec.*",
        ".*Total length of `list` across ranks is zero.*",  # a run without validation
        ".*callbacks used to create the checkpoint.*",
        ".*`training_step`.*does not have.*",
    ):
        warnings.filterwarnings("ignore", message=text)
