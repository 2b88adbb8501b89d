"""Render the numbers of a run as one screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from clipkit.data.shards.masks.sample_mask import MaskSummary
from clipkit.training.preflight.loader import describe_loader
from clipkit.training.preflight.run_plan import (
    CaptionPlan,
    DataPlan,
    DevicePlan,
    LengthPlan,
    RunPlan,
)
from clipkit.training.preflight.units import human_bytes

_BLOCKS = " ▁▂▃▄▅▆▇█"
_HEIGHT = 4
_PRODUCTS = {"highest": "float32", "high": "TF32 where the device has it", "medium": "bfloat16"}


def screen(plan: RunPlan) -> Panel:
    """Render the screen of a run."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in lines(plan):
        table.add_row(name, Text(value))
    curve = Text("\n".join(draw(plan.factors, _HEIGHT)), style="cyan", no_wrap=True)
    return Panel(Group(table, curve), title="this run", expand=False, padding=(0, 1))


def lines(plan: RunPlan) -> list[tuple[str, str]]:
    """Return the rows of the screen as label and text."""
    low, high = plan.peak_rates
    device, memory = plan.device, plan.memory
    unknown = "" if memory.activations_known else "; activations not estimated"
    rows = [
        ("data", _data(plan.data)),
        *(("mask", _mask(mask)) for mask in plan.data.masks),
        ("batch", _batch(plan.data, _ranks(plan))),
        ("length", _length(plan.length, plan.data)),
        ("device", f"{device.kind}, {device.precision}, {device.strategy}, {_ranks(plan)}"),
        ("float32 products", _arithmetic(device)),
        ("workers", describe_loader(plan.loader)),
        ("parameters", _parameters(plan.parameters)),
        ("memory per rank", f"at least {_sum(memory.parts)}{unknown}"),
        ("communication per step", _sum(memory.communication) or "none: one rank"),
        ("captions", _captions(plan.captions)),
    ]
    rows += [("ignored option", option) for option in plan.unused]
    rows += [("note", note) for note in plan.notes]
    rates = f"{high:g}" if low == high else f"{low:g} to {high:g} by group"
    return [*rows, ("learning rate", f"{rates} at the peak, over the run:")]


def draw(values: Sequence[float], height: int) -> list[str]:
    """Draw a curve of numbers from 0 to 1 in rows of block characters, the top row first.

    Examples:
        >>> draw([0.0, 0.5, 1.0], height=2)
        ['  █', ' ██']
    """
    steps = len(_BLOCKS) - 1
    rows = []
    for row in reversed(range(height)):
        levels = [round(min(1.0, max(0.0, value * height - row)) * steps) for value in values]
        rows.append("".join(_BLOCKS[level] for level in levels))
    return rows


def _data(data: DataPlan) -> str:
    shards = f"{data.num_shards:,} shards" if data.num_shards else "a pipeline of your own"
    if data.is_exact:
        return f"{data.num_samples:,} samples in {shards}"
    return f"{data.num_samples:,} samples per epoch, read by webdataset from {shards}"


def _mask(mask: MaskSummary) -> str:
    filters = ", ".join(mask.filters) or "none"
    kept = f"keeps {mask.num_kept:,} of {mask.num_samples:,} samples"
    return f"{kept} (filters: {filters}), by {mask.name}"


def _batch(data: DataPlan, ranks: str) -> str:
    stages = [
        f"{stage.batch_size} until {stage.until_samples:,} samples, then "
        for stage in data.batch_size_stages
    ]
    factors = f"{''.join(stages)}{data.batch_size} pairs per rank x {ranks}"
    if data.accumulate > 1:
        factors += f" x {data.accumulate} accumulated"
    return f"{factors} = {data.step_samples:,} per step"


def _length(length: LengthPlan, data: DataPlan) -> str:
    epoch = f"{length.steps_per_epoch:,} steps per epoch"
    if data.dropped:
        epoch += f" ({data.dropped:,} samples left over)"
    if math.isinf(length.num_steps):
        return f"{epoch}; until {length.ends_by}"
    samples = length.num_steps * data.step_samples
    text = (
        f"{epoch}; {length.num_steps:,.0f} steps = {samples:,.0f} samples = "
        f"{length.num_steps / length.steps_per_epoch:,.3g} epochs ({length.ends_by})"
    )
    if data.batch_size_stages:
        text += f", taken in {length.optimizer_steps:,.0f} optimizer steps, smaller ones at first"
    return f"{text}; {length.completed_steps:,.0f} completed" if length.completed_steps else text


def _arithmetic(device: DevicePlan) -> str:
    benchmark = "on" if device.cudnn_benchmark else "off"
    precision = device.float32_matmul_precision
    return f"{_PRODUCTS[precision]} ({precision}); cudnn.benchmark {benchmark}"


def _ranks(plan: RunPlan) -> str:
    ranks = f"{plan.data.world_size} rank{'s' * (plan.data.world_size > 1)}"
    num_nodes = plan.device.num_nodes
    return f"{ranks} on {num_nodes} machines" if num_nodes > 1 else ranks


def _parameters(counts: Mapping[str, tuple[int, int]]) -> str:
    total, trainable = (sum(column) for column in zip(*counts.values(), strict=True))
    parts = ", ".join(
        f"{part} {_short(some)}" + (f" of {_short(every)}" if some != every else "")
        for part, (every, some) in counts.items()
        if every > 1
    )
    return f"{_short(trainable)} of {_short(total)} trainable: {parts}"


def _short(count: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _sum(parts: Mapping[str, int]) -> str:
    """Format the sum and the largest parts; empty if there are none."""
    total = sum(parts.values())
    shown = [f"{name} {human_bytes(count)}" for name, count in parts.items() if count > total / 100]
    return f"{human_bytes(total)}: {', '.join(shown)}" if parts else ""


def _captions(captions: CaptionPlan) -> str:
    if not captions.num_read:
        return f"truncated at {captions.context_length} tokens; not read before the run"
    share = captions.num_truncated / captions.num_read
    return (
        f"{share:.1%} of {captions.num_read} are truncated at {captions.context_length} tokens; "
        f"the median has {captions.median_tokens}"
    )
