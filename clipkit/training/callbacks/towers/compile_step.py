"""Compile encoder and objective of a step as one graph, where all batches have one shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol, cast, final

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.losses import CombinedLoss, Term
from clipkit.losses.contrastive import PairLoss
from clipkit.losses.kernels.attach import in_one_graph
from clipkit.losses.kernels.products import EXACT, Products, choose_products
from clipkit.models import JointEncoder, PrototypeLabelHead, TowerEncoder
from clipkit.training.callbacks.towers.activation_checkpointing import ActivationCheckpointing
from clipkit.training.callbacks.towers.compile_towers import CompileTowers, round_up_length
from clipkit.training.callbacks.towers.cuda_graphs import of_accumulation, of_device, of_shapes
from clipkit.training.lightning_compat import (
    callbacks_of,
    disable_ddp_graph_splits,
    encoder_of,
    graph_errors,
    records_cuda_graphs,
)
from clipkit.types import Batch

Shapes = dict[str, tuple[int, ...]]


class _Trained(Protocol):
    """The module that is trained: ``ContrastiveModule``."""

    encoder: TowerEncoder
    loss: CombinedLoss
    one_graph: Callable[[Batch], dict[str, Tensor]] | None


@final
class CompileStep(Callback):
    """Runs ``torch.compile`` over the complete training step up to the optimizer, as one graph.

    Encoder and all terms of the objective are one graph, its backward pass is a second one, and
    both are compiled once. Weights of the terms, which follow schedules, are multiplied after it.
    The optimizer is not in the graph. Captions are padded to the context length. Validation is not
    compiled, because its last batch is smaller.

    Compilation takes longer than that of blocks by ``CompileTowers``, with the depth of the towers
    and the number of tiles of the objective.

    Args:
        backend: Backend of ``torch.compile``; "inductor" needs a C++ compiler, or Triton.
        mode: Mode of ``torch.compile``, such as "reduce-overhead", which records CUDA graphs; None
            for its default.

    Raises:
        ConfigError: If ``mode`` is unknown; when the fit starts, if the run has several ranks or
            batches of more than one shape, or the objective keeps a memory; in the first step, if
            the batch has masks or negatives, or encoder or objective cannot be one graph.

    Examples:
        >>> trainer = Trainer(callbacks=[CompileStep()])
    """

    def __init__(self, backend: str = "inductor", mode: str | None = None) -> None:
        self.backend, self.mode = backend, mode
        self._records = records_cuda_graphs(mode, "CompileStep") and backend == "inductor"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be one graph, and put the graph in place of encoder and objective."""
        module = cast("_Trained", pl_module)
        obstacles = [*_of_run(trainer, pl_module), *_of_objective(module.encoder, module.loss)]
        if self._records:
            obstacles += [*of_device(trainer), *of_accumulation(trainer)]
        if obstacles:
            raise ConfigError(
                f"CompileStep: a step is one graph on one device with batches of one shape; "
                f"{'; '.join(obstacles)}. Otherwise use CompileTowers"
            )
        disable_ddp_graph_splits()
        module.one_graph = CompiledStep(
            module.encoder, module.loss, self.backend, self.mode, self._records
        )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the graph, which a copy of the module would not follow."""
        cast("_Trained", pl_module).one_graph = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remove the graph, so that a later fit can do without it."""
        self.on_fit_end(trainer, pl_module)


@final
class CompiledStep:
    """Encoder and objective as one compiled graph, for batches of one shape on one device.

    Other graphs of this process are forgotten, and compiled again when they are next run. Hooks
    that are added after the first call have no effect.

    Args:
        encoder: Encoder in training mode.
        loss: Objective.
        backend: Backend of ``torch.compile``.
        mode: Mode of ``torch.compile``.
        records: Whether the mode records CUDA graphs, whose results the next step overwrites.
    """

    def __init__(
        self, encoder: TowerEncoder, loss: CombinedLoss, backend: str, mode: str | None,
        records: bool = False,
    ) -> None:  # fmt: skip
        self._encoder, self._loss, self._records = encoder, loss, records
        self._shapes: Shapes | None = None
        # torch would use the graph of an equal encoder again, without the hooks of this one
        torch.compiler.reset()
        self._graph = torch.compile(
            _forward, fullgraph=True, dynamic=False, backend=backend, mode=mode
        )

    def __call__(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Compute loss and named terms, as ``CombinedLoss.forward`` returns them.

        Raises:
            ConfigError: If the batch has another shape than the first, or cannot be one graph.
        """
        batch = self._of_one_shape(batch)
        products = _products(self._loss, batch.images.device)
        if self._records:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        # The graph would be compiled again for every progress of the run.
        progress, self._loss.progress = self._loss.progress, None
        try:
            with in_one_graph(), products.switched():
                unused, results = self._graph(self._encoder, self._loss, batch)
        except graph_errors() as error:
            raise ConfigError(
                f"CompileStep: encoder and objective cannot be one graph: {_first_line(error)}; "
                f"use CompileTowers"
            ) from error
        finally:
            self._loss.progress = progress
        if self._records:  # kept for the log beyond this step
            results = {n: (value.clone(), count.clone()) for n, (value, count) in results.items()}
        return self._loss.weigh({n: Term(*result) for n, result in results.items()}, unused)

    def _of_one_shape(self, batch: Batch) -> Batch:
        """Pad captions to one length, and drop what differs from step to step and is not read."""
        for name in ("pair_mask", "negatives", "image_present", "text_present", "modalities"):
            if getattr(batch, name) is not None:
                raise ConfigError(
                    f"CompileStep: expected batches without {name}, because the number of rows in "
                    f"the objective then varies, got some; use CompileTowers"
                )
        if batch.tokens is not None:
            tower = self._encoder.text_tower
            length = tower.context_length if tower.trims_exactly else batch.tokens.shape[1]
            tokens = round_up_length(batch.tokens, length, length, tower.pad_id)
            batch = replace(batch, tokens=tokens)
        shapes = {
            name: tuple(tensor.shape)
            for name in ("images", "tokens", "labels", "multi_labels", "groups", "sample_ids")
            if (tensor := getattr(batch, name)) is not None
        }
        if self._shapes not in (None, shapes):
            raise ConfigError(
                f"CompileStep: expected batches of one shape, {self._shapes}, got {shapes}; "
                f"use CompileTowers"
            )
        self._shapes = shapes
        return replace(
            batch, keys=("",) * len(batch), captions=(), cursor=None, num_joint=None, num_pairs=None
        )


def _forward(
    encoder: TowerEncoder, loss: CombinedLoss, batch: Batch
) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Compute what ``CombinedLoss.weigh`` needs."""
    embeddings = encoder(batch)
    terms = loss.compute_terms(embeddings, batch)
    return loss.unused(embeddings), {n: (t.value, t.num_samples) for n, t in terms.items()}


def _products(loss: CombinedLoss, device: torch.device) -> Products:
    """Return the precision of the products of all terms, which one graph cannot change."""
    pairs = [term for term in loss.modules() if isinstance(term, PairLoss)]
    chosen = {choose_products(term.precision, device) for term in pairs}
    if len(chosen) > 1:
        names = ", ".join(sorted(products.precision for products in chosen))
        raise ConfigError(
            f"CompileStep: expected one precision of all terms of the objective, got {names}; "
            f"set their precision to the same, or use CompileTowers"
        )
    return chosen.pop() if chosen else EXACT


def _of_run(trainer: Trainer, module: LightningModule) -> Iterator[str]:
    if trainer.world_size > 1 or isinstance(trainer.strategy, ModelParallelStrategy):
        yield (
            f"trainer.devices: expected one device and no sharded weights, because the ranks "
            f"exchange texts inside the step, got {trainer.world_size} ranks"
        )
    yield from of_shapes(trainer, module, encoder_of(module).text_tower.context_length)
    for other in (CompileTowers, ActivationCheckpointing):
        if callbacks_of(trainer, other):
            yield f"{other.__name__}: expected none, because the graph contains the towers"


def _of_objective(encoder: TowerEncoder, loss: CombinedLoss) -> Iterator[str]:
    if isinstance(encoder, JointEncoder):
        yield "model.encoder: expected no fusion, whose negatives vary, got JointEncoder"
    for name, term in loss.named_modules():
        if getattr(term, "remembers", False):
            yield f"model.loss.{name}: expected a term without a memory, got {type(term).__name__}"
    for head in encoder.heads.values():
        if isinstance(head, PrototypeLabelHead) and head.refresh_every is not None:
            yield f"label_head.refresh_every: expected null, got {head.refresh_every}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
