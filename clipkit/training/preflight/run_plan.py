"""The numbers of a run, in groups; plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clipkit.data.order.partition import BatchSizeStage


@dataclass(frozen=True, slots=True)
class DataPlan:
    """What a run reads, and how much of it per step."""

    num_samples: int  # per epoch
    num_shards: int
    batch_size: int  # pairs per rank, after all stages
    batch_size_stages: tuple[BatchSizeStage, ...]  # smaller batches before that
    world_size: int  # ranks
    accumulate: int  # batches per step
    dropped: int  # samples at the end of an epoch, too few for a batch of all ranks

    @property
    def step_samples(self) -> int:
        """Samples per step, over all ranks."""
        return self.batch_size * self.world_size * self.accumulate


@dataclass(frozen=True, slots=True)
class LengthPlan:
    """How long a run is. Infinite numbers mean that only the clock ends it."""

    steps_per_epoch: int  # steps of full batches
    num_steps: float  # steps of full batches in the complete run
    optimizer_steps: float  # steps as they are taken, smaller ones at first
    completed_steps: float  # steps before the checkpoint that the run resumes from
    ends_by: str  # the option that ends the run, as the configuration has it


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """Where a run is computed."""

    kind: str  # "cpu" or "cuda"
    precision: str  # as Lightning names it
    strategy: str  # class of Lightning's strategy
    num_nodes: int  # machines


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What a step costs one rank."""

    parts: Mapping[str, int]  # bytes held, by purpose
    activations_known: bool  # whether they are among the parts
    communication: Mapping[str, int]  # bytes exchanged per step, by purpose


@dataclass(frozen=True, slots=True)
class CaptionPlan:
    """What some captions look like to the tokenizer."""

    num_read: int  # captions that were looked at; 0 for remote shards
    num_truncated: int  # of them, those longer than the context
    num_joined: int  # of them, texts of several lines that are one caption
    median_tokens: int
    context_length: int  # tokens after which a caption is truncated


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run in numbers."""

    data: DataPlan
    length: LengthPlan
    device: DevicePlan
    memory: MemoryPlan
    captions: CaptionPlan
    parameters: Mapping[str, tuple[int, int]]  # by part: number of all, and of trainable ones
    peak_rates: tuple[float, float]  # least and greatest learning rate of a group at its peak
    factors: list[float]  # of the learning rate, at evenly spaced moments of the run
    unused: list[str]  # options without effect, each with the reason
    notes: list[str]  # what to know, or to change
