"""Runs with steps that are not finite."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from lightning.pytorch import Callback

from clipkit.training import ContrastiveModule
from tests.helpers import tiny

NAN, INF = float("nan"), float("inf")


class Poison(Callback):
    """Embeddings times a number at some steps (from 1); one rank alone on request."""

    def __init__(self, steps: list[int], factor: float = NAN, rank: int | None = None) -> None:
        self.steps, self.factor, self.rank = steps, factor, rank

    def on_fit_start(self, trainer, pl_module):
        def poison(module, inputs, embeddings):
            here = self.rank is None or trainer.global_rank == self.rank
            if trainer.global_step + 1 in self.steps and here:
                embeddings.image = embeddings.image * self.factor
            return embeddings

        pl_module.encoder.register_forward_hook(poison)


class Watch(Callback):
    """The weights after every step."""

    def __init__(self) -> None:
        self.after: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        state = pl_module.encoder.state_dict()
        self.after.append({name: value.clone() for name, value in state.items()})

    def moved(self, step: int) -> bool:
        before, after = self.after[step - 2], self.after[step - 1]
        return any(not torch.equal(before[name], after[name]) for name in after)


def module(fused: bool = False) -> ContrastiveModule:
    plain = tiny.module()
    if not fused:
        return plain
    return ContrastiveModule(
        plain.encoder,
        plain.loss,
        lambda groups: torch.optim.AdamW(groups, lr=1e-3, fused=True),
        plain.schedule,
    )


def fit(shards, run, *callbacks, fused=False, ckpt=None, **options):
    trainer = tiny.trainer(run, *callbacks, **{"max_steps": 8, **options})
    trained = module(fused)
    trainer.fit(trained, datamodule=tiny.data(shards), ckpt_path=ckpt)
    return trainer, trained


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "bad_steps.jsonl").read_text().splitlines()]
