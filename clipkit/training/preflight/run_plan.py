"""Numbers of a run in groups, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clipkit.data.order.partition import BatchSizeStage
from clipkit.data.shards.masks.sample_mask import MaskSummary
from clipkit.training.preflight.loader import LoaderPlan


@dataclass(frozen=True, slots=True)
class DataPlan:
    """Data of a run, and amounts per step."""

    num_samples: int  # per epoch
    num_shards: int  # 0 if only the user's pipeline knows them
    is_exact: bool  # whether every sample comes once per epoch, also after a resume
    batch_size: int  # pairs per rank, after all stages
    batch_size_stages: tuple[BatchSizeStage, ...]  # smaller batches before that
    world_size: int  # ranks
    accumulate: int  # batches per step
    dropped: int  # samples at the end of an epoch, too few for a batch of all ranks
    masks: tuple[MaskSummary, ...] = ()  # masks of the data, or of sources of a mixture

    @property
    def step_samples(self) -> int:
        """Samples per step, over all ranks."""
        return self.batch_size * self.world_size * self.accumulate


@dataclass(frozen=True, slots=True)
class LengthPlan:
    """Length of a run; infinite numbers mean that only a time limit ends it."""

    steps_per_epoch: int  # steps of full batches
    num_steps: float  # steps of full batches in the complete run
    optimizer_steps: float  # steps as they are taken, smaller ones at first
    completed_steps: float  # steps before the checkpoint that the run resumes from
    ends_by: str  # option that ends the run, as in the configuration


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """Devices of a run."""

    kind: str  # "cpu" or "cuda"
    precision: str  # as Lightning names it
    strategy: str  # class of Lightning's strategy
    num_nodes: int  # machines
    float32_matmul_precision: str  # as torch names it: "highest", "high" or "medium"
    cudnn_benchmark: bool  # whether cuDNN chooses its algorithms by measurement


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Memory and communication of one rank in a step."""

    parts: Mapping[str, int]  # bytes in memory, by purpose
    activations_known: bool  # whether they are among the parts
    communication: Mapping[str, int]  # bytes per step, by purpose


@dataclass(frozen=True, slots=True)
class CaptionPlan:
    """Lengths of a sample of the captions."""

    num_read: int  # captions that were read; 0 for remote shards and own pipelines
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
    loader: LoaderPlan
    parameters: Mapping[str, tuple[int, int]]  # by part: number of all, and of trainable ones
    peak_rates: tuple[float, float]  # least and greatest learning rate of a group at its peak
    factors: list[float]  # of the learning rate, at evenly spaced moments of the run
    unused: list[str]  # options without effect, each with the reason
    notes: list[str]  # what to know, or to change
