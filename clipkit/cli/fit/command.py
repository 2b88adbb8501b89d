"""``clipkit fit | validate | test | predict``: runs described by YAML, with LightningCLI.

``clipkit --help`` imports this file, therefore it does not import torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Final

from clipkit.remote_code import FLAG, trust_remote_code

SUBCOMMANDS: Final = {
    "fit": "train a model from a YAML configuration",
    "validate": "run the validation of a configuration once, on a checkpoint",
    "test": "run the test evaluators of a configuration once, on a checkpoint",
    "predict": "write the embeddings of a configuration's validation pairs",
}

_HELP: Final = """\
usage: clipkit {name} -c FILE [-c FILE ...] [--KEY VALUE ...]

{summary}

A run is one or more YAML files, read in the order given, and flags, which win over the files.
Mappings merge; lists replace, unless the key ends in '+' (trainer.callbacks+: appends).

options:
  -h, --help            this text
  --help_all            every option with its type and default (imports torch)
  -c, --config FILE     a YAML file with the sections model, data, trainer; may be repeated
  --print_config        print the resolved configuration and stop
  --ckpt_path FILE      {ckpt}
  --trust-remote-code   allow models and tokenizers to run Python code of their own
{more}  --seed_everything N   seed of weights, sample order and augmentation
  --model.KEY VALUE     what is trained: encoder, loss, optimizer, schedule
  --data.KEY VALUE      shards, tokenizer, transforms, batch_size (per process), workers
  --trainer.KEY VALUE   devices, precision, max_steps, max_time, callbacks, logger

options of each class:
  --model.encoder.help clipkit.models.DualEncoder
  --model.encoder.help clipkit.models.from_open_clip
  --model.loss.help clipkit.losses.CombinedLoss
  --model.optimizer.help torch.optim.AdamW
  --data.tokenizer.help clipkit.data.OpenClipTokenizer
  --trainer.callbacks.help clipkit.training.callbacks.ZeroShotEvaluation

examples:
  {example}
"""

_CKPT: Final = {
    "fit": "continue from this checkpoint (last: the newest complete one; best: best.ckpt)",
    "validate": "weights to validate: a checkpoint, last or best",
    "test": "weights to test: a checkpoint, last or best",
    "predict": "weights to embed with: a checkpoint, last or best",
}
_MORE: Final = {
    "fit": "  --preflight_only      check the run, print its plan, and stop\n"
    "  --overwrite           replace the run that the folder contains\n"
}
_EXAMPLES: Final = {
    "fit": """\
clipkit fit -c configs/experiment/demo.yaml --trainer.max_time 00:00:05:00
  clipkit fit -c configs/experiment/vit_b32_webdataset.yaml --print_config
  clipkit fit -c configs/model/vit_tiny.yaml -c configs/data/webdataset.yaml \\
              -c configs/trainer/cpu.yaml --data.train 'shards/{00000..00009}.tar'
  clipkit fit -c runs/demo/config.yaml --ckpt_path runs/demo/last.ckpt""",
    "validate": "clipkit validate -c runs/demo/config.yaml --ckpt_path runs/demo/last.ckpt",
    "test": "clipkit test -c runs/demo/config.yaml --ckpt_path runs/demo/last.ckpt",
    "predict": "clipkit predict -c runs/demo/config.yaml --ckpt_path runs/demo/last.ckpt",
}


def help_text(name: str) -> str:
    """Return the help of a subcommand, without importing torch."""
    summary = SUBCOMMANDS[name]
    return _HELP.format(
        name=name,
        summary=summary[0].upper() + summary[1:] + ".",
        ckpt=_CKPT[name],
        more=_MORE.get(name, ""),
        example=_EXAMPLES[name],
    )


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """List the four subcommands; LightningCLI parses their options."""
    for name, summary in SUBCOMMANDS.items():
        subparsers.add_parser(name, help=summary, add_help=False)


def run(words: Sequence[str]) -> int:
    """Run ``fit``, ``validate``, ``test`` or ``predict``."""
    name, options = words[0], list(words[1:])
    if not options or "-h" in options or "--help" in options:
        print(help_text(name))
        return 0 if options else 2
    from clipkit.cli.fit.trainer_cli import run_trainer

    # Not part of the configuration: the file of a run must not permit it.
    words = [word for word in options if word != FLAG]
    with trust_remote_code(FLAG in options):
        return run_trainer(name, ["--help" if word == "--help_all" else word for word in words])
