"""The Lightning module that trains a dual encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer

from clipkit.errors import check_at_least
from clipkit.losses import (
    CombinedLoss,
    StepExchange,
    embed_in_micro_batches,
    follow_student,
)
from clipkit.losses.momentum_teacher import averaged_encoders
from clipkit.models import TowerEncoder
from clipkit.models.checkpoints.encoder import KEY
from clipkit.optim import ParameterGroups, Schedule
from clipkit.training.callbacks.follow_teachers import FollowTeachers
from clipkit.training.callbacks.moving_average import warn_of_unused_average
from clipkit.training.checkpoints.contents import (
    PACE,
    check_architecture,
    run_entry,
    take_out_averages,
)
from clipkit.training.checkpoints.io import use_atomic_checkpoints
from clipkit.training.checks.classes import (
    check_class_names,
)
from clipkit.training.health.step_health import unscale_once
from clipkit.training.lightning_compat import data_of, logs_at
from clipkit.training.module.cursor_commit import CursorCommit
from clipkit.training.module.data_counters import DataCounters
from clipkit.training.module.embedding_metrics import EmbeddingMetrics
from clipkit.training.module.log_run import LogRun
from clipkit.training.module.optimizer import (
    configured_options,
    make_optimizer,
    set_learning_rates,
)
from clipkit.training.module.predictions import predicted
from clipkit.training.module.start import check_start, connect_data
from clipkit.training.module.step_seed import seed_step
from clipkit.training.module.term_means import TermMeans, named_terms
from clipkit.training.module.unread_towers import lock_unread_towers, without_unread
from clipkit.training.progress.fit_steps import (
    counter_entry,
    first_counter,
    samples_of_fit,
    stored_counter,
    validation_progress,
)
from clipkit.training.progress.run_progress import (
    StepCounter,
    change_step_size,
    pair_data,
    run_progress,
    samples_of_step,
    start_clock,
    stop_when_time_is_over,
)
from clipkit.training.strategies.ddp import save_memory_and_traffic
from clipkit.training.strategies.fsdp import ShardedStrategy
from clipkit.training.strategies.memories import complete_memories
from clipkit.training.strategies.sharding import clip_gradients, gradient_norm
from clipkit.types import Batch, Embeddings


@final
class ContrastiveModule(LightningModule):
    """Trains an encoder: ``loss(encoder(batch), batch)``, and logging.

    The learning rate follows ``schedule`` by the progress of the run, which depends on the time
    if ``trainer.max_time`` is set (see ``run_progress``). Learning rates and weight decays of the
    configuration have priority over those of a checkpoint.

    Args:
        encoder: Encoder that is trained.
        loss: Objective.
        optimizer: Function that builds the optimizer from groups of parameters.
        schedule: Factor of the learning rate over the run.
        groups: Weight decays and learning-rate factors of parameters; None for no decay of norms,
            biases, embeddings and the scale, and one learning rate.
        micro_batch_size: Number of samples whose activations are in memory at a time; loss and
            gradients are still those of the complete batch. None for all at once.
        retrieval_pairs: Number of pairs of ``data.val``, spread evenly, whose recall and health of
            embeddings are logged with every validation and test; 0 for none.

    Attributes:
        run_config: The resolved configuration of the run, in plain types; stored in checkpoints and
            passed to the loggers. Empty unless ``clipkit fit`` or the caller sets it.
        group_options: Learning rate and weight decay of each group of the optimizer, as configured.
        step_counter: Converts optimizer steps to steps of the first launch, whose size may differ.
        one_graph: Function that computes loss and named terms of a training batch in place of
            encoder and loss, set by ``CompileStep``; None to run these.

    Examples:
        >>> module = ContrastiveModule(
        ...     encoder, CombinedLoss(ContrastiveLoss()), AdamW, WarmupCosine())
    """

    def __init__(
        self,
        encoder: TowerEncoder,
        loss: CombinedLoss,
        optimizer: OptimizerCallable,
        schedule: Schedule,
        groups: ParameterGroups | None = None,
        micro_batch_size: int | None = None,
        retrieval_pairs: int = 10_000,
    ) -> None:
        super().__init__()
        check_at_least("model.micro_batch_size", micro_batch_size, 1)
        check_at_least("model.retrieval_pairs", retrieval_pairs, 0)
        self.micro_batch_size = micro_batch_size
        self.encoder = encoder
        self.loss = loss
        self.schedule = schedule
        self.run_config: dict[str, Any] = {}
        self.step_counter = StepCounter()
        self.one_graph: Callable[[Batch], dict[str, Tensor]] | None = None
        self._build_optimizer = optimizer
        self._groups = groups or ParameterGroups()
        self.group_options: list[dict[str, Any]] = []
        self._is_sharded = False
        self._means = TermMeans()
        self._embedding_metrics = EmbeddingMetrics(retrieval_pairs)

    def forward(self, batch: Batch) -> Embeddings:
        """Embed a batch."""
        if self.micro_batch_size is None:
            embeddings: Embeddings = self.encoder(batch)
            return embeddings
        return embed_in_micro_batches(self.encoder, batch, self.micro_batch_size)

    def setup(self, stage: str) -> None:
        """Count steps, name the classes of label heads, and lock towers that no loss trains.

        From here on checkpoints are read and written by clipkit, also with a custom trainer, and
        DDP has options that save memory and traffic.
        """
        use_atomic_checkpoints(self.trainer)
        save_memory_and_traffic(self.trainer.strategy, self)
        self.step_counter = first_counter(self.trainer)
        if (data := pair_data(self.trainer)) is not None:
            data.check_batch = self.check_batch
            connect_data(data, self.encoder, self.loss)
        if stage == "fit":
            lock_unread_towers(self.encoder, self.loss)
        follow_student(self.loss, self.encoder)

    def check_batch(self, batch: Batch) -> None:
        """Refuse labels that the objective cannot use, in a batch on the CPU."""
        sizes = {name: head.num_classes for name, head in self.encoder.heads.items()}
        self.loss.check_batch(batch, sizes)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss of a batch, the same number on every rank."""
        terms = (
            self._terms(batch)
            if self.one_graph is None
            else self.one_graph(without_unread(batch, self.encoder, self.loss))
        )
        self.log_dict(named_terms("train", {**terms, **self.encoder.scales}), batch_size=len(batch))
        loss: Tensor = terms["loss"]
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add every term, whose mean over all batches counts each sample once, and embeddings."""
        step = StepExchange(self.loss, without_unread(batch, self.encoder, self.loss))
        embeddings = self._embed(step)
        self._means.add(self.loss(embeddings, step.sized(batch), step.text))
        self._embedding_metrics.add(embeddings, batch)

    def on_validation_epoch_start(self) -> None:
        """Update the progress that the schedules of the loss follow."""
        counter = self.step_counter
        self.loss.progress = validation_progress(self.trainer, self.loss.num_steps, counter)

    def on_validation_epoch_end(self) -> None:
        """Log the mean of every term, and recall and health of the embeddings."""
        self._log_means("val")

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Log the same as for validation."""
        self._log_means("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return keys, embeddings and matching logits, on the CPU; see ``predicted``."""
        embeddings: Embeddings = self(batch)
        return {"keys": batch.keys, **predicted(embeddings, tuple(self.encoder.towers))}

    def configure_optimizers(self) -> Optimizer:
        """Build the optimizer over the encoder's groups and the trainable weights of the loss."""
        optimizer = make_optimizer(self._groups, self._build_optimizer, self.encoder, self.loss)
        self.group_options = configured_options(optimizer)
        return optimizer

    def configure_model(self) -> None:
        """Shard the encoder and averages of it if the strategy does so."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ShardedStrategy) and not self._is_sharded:
            for encoder in (self.encoder, *averaged_encoders(self.loss)):
                assert isinstance(encoder, TowerEncoder)
                strategy.shard(encoder, str(self.trainer.precision))
            self._is_sharded = True

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm of all gradients; also those of fused optimizers and of shards.

        Lightning refuses to clip for a fused optimizer with mixed precision, which may undo the
        scale of 16-mixed itself; ``on_before_optimizer_step`` has done so already. As in Lightning,
        0 means no clipping.
        """
        if not gradient_clip_val:
            return
        if gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            clip_gradients(self.parameters(), gradient_clip_val)

    def configure_callbacks(self) -> list[Callback]:
        """Return the callbacks for exact resuming and logging, also for a custom trainer."""
        return [CursorCommit(), DataCounters(), FollowTeachers(), LogRun()]

    def on_fit_start(self) -> None:
        """Refuse what cannot work, before the first step."""
        check_start(self.trainer, self.encoder, self.loss)

    def on_train_start(self) -> None:
        """Refuse a run without an end, or too short for its schedule, before a file is touched."""
        start_clock(self.trainer)
        self.schedule.check(run_progress(self.trainer))  # the length is known only here

    def on_train_batch_end(self, *_: Any) -> None:
        """End a run whose time is over, on all ranks at the same step."""
        stop_when_time_is_over(self.trainer)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set random seed and learning rates of the step, not from a checkpoint."""
        if (data := pair_data(self.trainer)) is not None:
            seed_step(batch, data.seed, self.trainer.global_rank)
            samples = samples_of_step(self.trainer, len(batch))
            if data.order.batch_size_stages and samples != self.step_counter.now:
                self.step_counter = change_step_size(
                    self.trainer, self.step_counter, self.trainer.global_step, samples
                )
        self.loss.progress = run_progress(self.trainer)
        factor = self.schedule.at(self.loss.progress)
        highest = set_learning_rates(self.trainer.optimizers[0], self.group_options, factor)
        # created on the device: Lightning would copy a float, which waits for all queued work
        shown = torch.full((), highest, device=self.device)
        self.log("train/learning_rate", shown, batch_size=1)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the norm of all gradients before clipping."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            unscale_once(scaler, optimizer)
        if logs_at(self.trainer, self.trainer.global_step + 1):
            norm = gradient_norm(self.encoder.parameters())
            self.log("train/gradient_norm", norm, batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the entry that rebuilds the encoder without Lightning."""
        tokenizer = getattr(data_of(self.trainer), "tokenizer", None)
        checkpoint[KEY] = run_entry(self.encoder, tokenizer, self.run_config)
        complete_memories(self.trainer.strategy, self.loss, checkpoint["state_dict"])
        if samples_of_fit(self.trainer) is not None:
            checkpoint[KEY][PACE] = counter_entry(self.step_counter, self.trainer.global_step)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another architecture with an error that names parameters."""
        take_out_averages(checkpoint)
        warn_of_unused_average(self.trainer, checkpoint)
        check_architecture(self.state_dict(), checkpoint)
        for name, head in self.encoder.heads.items():
            check_class_names(head, checkpoint, name)
        if stored := checkpoint.get(KEY, {}).get(PACE):
            step = int(checkpoint["global_step"])
            self.step_counter = stored_counter(self.trainer, stored, step)

    def _log_means(self, stage: str) -> None:
        values = self._means.result() | self._embedding_metrics.result(self.device)
        self.log_dict(named_terms(stage, values), batch_size=1)

    def _terms(self, batch: Batch) -> dict[str, Tensor]:
        """Embed a batch and compute its loss and named terms."""
        step = StepExchange(self.loss, without_unread(batch, self.encoder, self.loss))
        embeddings = self._embed(step)
        terms: dict[str, Tensor] = self.loss(embeddings, step.sized(batch), step.text)
        return terms

    def _embed(self, step: StepExchange) -> Embeddings:
        """Embed a batch; its texts are exchanged while the image tower runs.

        In micro-batches the texts are complete after the last image, and are exchanged in the loss.
        """
        if self.micro_batch_size is not None or not step.exchanges_text:
            return self.forward(step.batch)
        step.wait_for_sizes()
        embeddings: Embeddings = self.encoder(step.batch, step.on_text)
        return embeddings
