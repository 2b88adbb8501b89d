"""LightningCLI whose options override checkpoints, with errors on one line."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.warnings import disable_possible_user_warnings
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from clipkit.addresses import has_scheme
from clipkit.cli.fit.config_checks import check_parsed, check_sections
from clipkit.cli.fit.encoder_class import with_encoder_class
from clipkit.cli.fit.hub_data import pin_hub_data
from clipkit.cli.fit.loggers import prepare_loggers
from clipkit.cli.fit.parse_errors import clipkit_error
from clipkit.cli.fit.parser import Parser, build_once, forget
from clipkit.cli.fit.renamed import read_renamed, with_new_options
from clipkit.cli.fit.structure import encoder_without_weights
from clipkit.cli.fit.trainer_checks import check_trainer_options, merge_savers, raised_by
from clipkit.cli.fit.trainer_help import function_help
from clipkit.cli.fit.wandb_id import choose_id
from clipkit.cli.outputs import check_output_folder
from clipkit.distributed.agreement import of_first_rank
from clipkit.errors import CheckpointError, ClipkitError, ConfigError
from clipkit.models import DualEncoder
from clipkit.suggestions import one_line
from clipkit.training import ContrastiveModule, PairDataModule
from clipkit.training.callbacks import (
    KeyLog,
    ReplaceRun,
    RunRecorder,
    SaveConfig,
    StopOnSignal,
    WriteEmbeddings,
)
from clipkit.training.callbacks.run_folder import check_folder_is_free
from clipkit.training.callbacks.save_checkpoint import checkpoint_folders, newest_checkpoint
from clipkit.training.callbacks.write_embeddings import embeddings_name
from clipkit.training.checkpoints.files import BEST, exists, join
from clipkit.training.checkpoints.io import refuse_unpickling, use_atomic_checkpoints
from clipkit.training.checkpoints.newest import (
    has_checkpoints,
    wait_until_visible,
    why_incomplete,
)
from clipkit.training.lightning_compat import all_callbacks, resume_from
from clipkit.training.preflight.callback import Preflight

# DualEncoder is final; functions that return one (from_open_clip) are still to be accepted.
set_parsing_settings(subclasses_enabled=[DualEncoder])
read_renamed()

_LOG = logging.getLogger(__name__)
_PREFLIGHT_ONLY = "--preflight_only"
_OVERWRITE = "--overwrite"
_PRINT_CONFIG = "--print_config"
_REFUSALS = (ValueError, TypeError, RuntimeError, ImportError)
_REFUSING = ("lightning", "lightning_utilities", "fsspec")
"""Packages that raise such errors to refuse an option."""
_EXIT_STOPPED = 143
"""128 + SIGTERM: a scheduler sees that the run is not complete."""


class TrainerCLI(LightningCLI):
    """The commands ``fit``, ``validate``, ``test`` and ``predict``."""

    def __init__(self, words: Sequence[str]) -> None:
        Parser.config_files = tuple(config_files(words))
        for file in Parser.config_files:
            check_sections(file)
        # Not part of the configuration: a saved configuration starts the run itself, and must not
        # replace another run.
        flags = (_PREFLIGHT_ONLY, _OVERWRITE) if words[0] == "fit" else ()
        self.preflight_only, self.overwrite = (
            flag in flags and flag in words for flag in (_PREFLIGHT_ONLY, _OVERWRITE)
        )
        self.words = with_encoder_class([word for word in words if word not in flags])
        super().__init__(
            ContrastiveModule,
            PairDataModule,
            parser_class=Parser,
            parser_kwargs={"prog": "clipkit"},
            save_config_callback=None,  # see _prepare_fit
            seed_everything_default=0,
            auto_configure_optimizers=False,
            # Hyperparameters in a checkpoint would override the configuration.
            load_from_checkpoint_support=False,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the subcommand to run alone; each of Lightning's four takes as long to build."""
        name = self.words[0]
        return {name: super().subcommands()[name]}

    def setup_parser(self, *args: Any) -> None:
        """Build the parser, or take that of the run before in this process."""
        build = super().setup_parser
        build_once(self, self.words[0], lambda: build(*args))

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ARG002
        """Parse the words of the constructor, not those of the process."""
        try:
            self.config = parser.parse_args(self.words)
        except Exception:
            if _PRINT_CONFIG in self.words:
                forget(self.words[0])
            raise
        sections = self.config[self.config["subcommand"]]
        check_parsed(sections)
        pin_hub_data(sections["data"])
        trainer = sections["trainer"]
        check_trainer_options(trainer)
        trainer["callbacks"] = merge_savers(trainer.get("callbacks"))
        prepare_loggers(trainer)

    def _parse_ckpt_path(self) -> None:
        """Do nothing; Lightning would override options, such as a new learning rate."""

    def instantiate_classes(self) -> None:
        """Create the objects; some ranks build the encoder without weights."""
        sections = self.config[str(self.subcommand)]
        given = sections["model"]["encoder"]
        without_weights = encoder_without_weights(sections)
        if without_weights is not None:
            sections["model"]["encoder"] = without_weights
        try:
            super().instantiate_classes()
        finally:
            sections["model"]["encoder"] = given

    def after_instantiate_classes(self) -> None:
        """Pass the resolved configuration to the model, which stores it in its checkpoints."""
        use_atomic_checkpoints(self.trainer)
        config = self.config[str(self.subcommand)]
        self.resolved = self._parser(self.subcommand).dump(config, skip_none=False)
        self.model.run_config = yaml.safe_load(self.resolved)
        given = self.config_init[str(self.subcommand)]
        if "weights_only" in given:  # strategies may pass it on
            refuse_unpickling(given["weights_only"])
            given["weights_only"] = True
        path = given.get("ckpt_path")
        is_required = self.subcommand != "fit"
        if path in ("last", "best"):
            given["ckpt_path"] = None
            choose = best_checkpoint if path == "best" else partial(last_checkpoint, is_required)
            resume_from(self.trainer, lambda: choose(self.trainer))
        check_run_folder(self.trainer, str(self.subcommand))
        if self.subcommand == "fit":
            check_folder_is_free(self.trainer, path, self.overwrite)
            folders = checkpoint_folders(self.trainer) if path == "last" else []
            self._prepare_fit(path not in (None, "last") or any(map(has_checkpoints, folders)))

    def _prepare_fit(self, resumes: bool) -> None:
        """Add the callbacks of every fit; a preflight writes nothing to the folder of the run."""
        if self.preflight_only:
            self.trainer.loggers = []
            callbacks = all_callbacks(self.trainer)
            callbacks[:] = [c for c in callbacks if not isinstance(c, KeyLog)]
        replace = [ReplaceRun()] if self.overwrite else []
        record = [] if self.preflight_only else [RunRecorder()]
        is_trial = self.config["fit"]["trainer"].get("fast_dev_run")
        config = [] if self.preflight_only or is_trial else [SaveConfig(self.resolved)]
        preflight = Preflight(only=self.preflight_only)
        add_missing(self.trainer, StopOnSignal(), preflight, *replace, *record, *config)
        choose_id(self.trainer.loggers, str(self.trainer.default_root_dir), resumes)

    def before_predict(self) -> None:
        """Write the embeddings to files; Lightning would only return them."""
        all_callbacks(self.trainer).append(WriteEmbeddings())


def last_checkpoint(required: bool, trainer: Trainer) -> str | None:
    """Return the newest complete checkpoint of a run, for ``--ckpt_path last``, on every rank."""
    checkpoint = newest_checkpoint(trainer)
    root = trainer.default_root_dir
    if checkpoint is None and required:
        raise ConfigError(
            f"ckpt_path: expected a checkpoint in {root}, found none; "
            f"name one with --ckpt_path FILE, or the run with --trainer.default_root_dir"
        )
    if checkpoint is None and trainer.is_global_zero:
        _LOG.warning("ckpt_path: no checkpoint in %s yet, starting a new run", root)
    return checkpoint


def best_checkpoint(trainer: Trainer) -> str:
    """Return the checkpoint with the best monitored metric of a run, for ``--ckpt_path best``."""
    path = of_first_rank(lambda: _best_checkpoint(checkpoint_folders(trainer)))
    wait_until_visible(path)
    return path


def _best_checkpoint(folders: Sequence[str]) -> str:
    paths = [join(folder, BEST) for folder in folders]
    path = next(filter(exists, paths), None)
    if path is None:
        raise ConfigError(
            f"ckpt_path: expected {' or '.join(paths)}, found none; SaveCheckpoint.monitor makes a "
            f"run write it; use --ckpt_path last, or name a file with --ckpt_path FILE"
        )
    if problem := why_incomplete(path):
        raise CheckpointError(f"ckpt_path: {path}: {problem}; use --ckpt_path last")
    return path


def check_run_folder(trainer: Trainer, subcommand: str) -> None:
    """Check that ``fit`` and ``predict`` can write into the folder of the run, if it is local.

    Only rank 0 checks, because the check creates missing folders and removes them again.
    """
    folder = str(trainer.default_root_dir)
    if subcommand in ("fit", "predict") and not has_scheme(folder) and trainer.is_global_zero:
        files = [embeddings_name(trainer.global_rank)] if subcommand == "predict" else []
        check_output_folder("trainer.default_root_dir", Path(folder), files)


def add_missing(trainer: Trainer, *callbacks: Callback) -> None:
    """Add callbacks to a trainer, except those of a class that it already has."""
    present = all_callbacks(trainer)
    present[:0] = [new for new in callbacks if not any(type(old) is type(new) for old in present)]


def run_trainer(name: str, options: Sequence[str]) -> int:
    """Run one of Lightning's subcommands."""
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
            raise KeyboardInterrupt from None  # Lightning exits with status 1 after Ctrl-C
        return int(leaving.code or 0)
    except Exception as error:
        cause = clipkit_error(error)
        if cause is None and isinstance(error, _REFUSALS) and raised_by(error, _REFUSING):
            cause = ConfigError(one_line(str(error)))
        if cause is None:
            raise
        raise cause from error
    return 0


def config_files(words: Sequence[str]) -> Iterator[str]:
    """Yield the files that ``-c`` and ``--config`` name."""
    for position, word in enumerate(words):
        if word in ("-c", "--config") and position + 1 < len(words):
            yield words[position + 1]
        elif word.startswith("--config="):
            yield word.partition("=")[2]


@contextmanager
def _own_wandb_run() -> Iterator[None]:
    """Close the W&B run of a command; a later run in this process would write into it."""
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
    """Silence Lightning's advertisements and warnings that need no action."""
    disable_possible_user_warnings()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for text in (
        ".*LeafSpec.*",
        ".*`tensorboardX` has been removed as a dependency.*",
        ".*Total length of `list` across ranks is zero.*",  # a run without validation
        r"\s*Dump of a value that does not round-trip",  # tuples are lists in YAML
        ".*callbacks used to create the checkpoint.*",
        ".*`training_step`.*does not have.*",
    ):
        warnings.filterwarnings("ignore", message=text)
