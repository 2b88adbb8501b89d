"""The numbers of a run on one screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from clipkit.training.preflight.plan import RunPlan

_BLOCKS = " ▁▂▃▄▅▆▇█"
_HEIGHT = 4


def screen(plan: RunPlan) -> Panel:
    """Everything that a person wants to know before a run starts."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in lines(plan):
        table.add_row(name, Text(value))
    picture = Text("\n".join(draw(plan.factors, _HEIGHT)), style="cyan", no_wrap=True)
    return Panel(Group(table, picture), title="this run", expand=False, padding=(0, 1))


def lines(plan: RunPlan) -> list[tuple[str, str]]:
    """The rows of the screen, as label and text."""
    low, high = plan.peak_rates
    rows = [
        ("data", f"{plan.num_samples:,} samples in {plan.num_shards:,} shards"),
        ("batch", _batch(plan)),
        ("length", _length(plan)),
        ("on", f"{plan.device}, {plan.precision}, {plan.strategy}, {_ranks(plan)}"),
        ("parameters", _parameters(plan.parameters)),
        ("memory a rank", _memory(plan)),
        ("exchanged a step", _sum(plan.exchanged) if plan.exchanged else "nothing: one rank"),
        ("captions", _captions(plan)),
    ]
    rows += [("no effect", option) for option in plan.unused]
    rows += [("note", note) for note in plan.notes]
    rates = f"{high:g}" if low == high else f"{low:g} to {high:g} by group"
    return [*rows, ("learning rate", f"{rates} at its peak, over the run:")]


def draw(values: Sequence[float], height: int) -> list[str]:
    """A curve of numbers from 0 to 1 in rows of block characters, the highest row first.

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


def human_bytes(count: float) -> str:
    """A number of bytes with a unit of 1024.

    Examples:
        >>> human_bytes(1536)
        '1.5 KiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}" if count < 1000 else f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def _batch(plan: RunPlan) -> str:
    stages = [
        f"{stage.batch_size} until {stage.until_samples:,} samples, then "
        for stage in plan.batch_size_stages
    ]
    factors = f"{''.join(stages)}{plan.batch_size} pairs a rank x {_ranks(plan)}"
    if plan.accumulate > 1:
        factors += f" x {plan.accumulate} accumulated"
    return f"{factors} = {plan.step_samples:,} a step"


def _length(plan: RunPlan) -> str:
    epoch = f"{plan.steps_per_epoch:,} steps an epoch"
    if plan.dropped:
        epoch += f" ({plan.dropped:,} samples left over)"
    if math.isinf(plan.num_steps):
        return f"{epoch}; until {plan.ends_by}"
    samples = plan.num_steps * plan.step_samples
    text = (
        f"{epoch}; {plan.num_steps:,.0f} steps = {samples:,.0f} samples = "
        f"{plan.num_steps / plan.steps_per_epoch:,.3g} epochs ({plan.ends_by})"
    )
    if plan.batch_size_stages:
        text += f", taken in {plan.optimizer_steps:,.0f} optimizer steps, smaller ones at first"
    return f"{text}; {plan.steps_behind:,.0f} are behind" if plan.steps_behind else text


def _ranks(plan: RunPlan) -> str:
    ranks = f"{plan.world_size} rank{'s' * (plan.world_size > 1)}"
    return f"{ranks} on {plan.num_nodes} machines" if plan.num_nodes > 1 else ranks


def _parameters(counts: Mapping[str, tuple[int, int]]) -> str:
    everything, learned = (sum(column) for column in zip(*counts.values(), strict=True))
    parts = ", ".join(
        f"{part} {_short(learned)}" + (f" of {_short(whole)}" if learned != whole else "")
        for part, (whole, learned) in counts.items()
        if whole > 1
    )
    return f"{_short(learned)} of {_short(everything)} learn: {parts}"


def _short(count: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _memory(plan: RunPlan) -> str:
    text = f"at least {_sum(plan.memory)}"
    return text if plan.activations_known else f"{text}; activations not estimated"


def _sum(parts: Mapping[str, int]) -> str:
    """The sum, and the parts that matter."""
    total = sum(parts.values())
    shown = [f"{name} {human_bytes(count)}" for name, count in parts.items() if count > total / 100]
    return f"{human_bytes(total)}: {', '.join(shown)}"


def _captions(plan: RunPlan) -> str:
    if not plan.num_captions:
        return f"cut at {plan.context_length} tokens; not looked at, the shards are remote"
    share = plan.num_cut / plan.num_captions
    return (
        f"{share:.1%} of {plan.num_captions} are cut at {plan.context_length} tokens; "
        f"the median has {plan.median_tokens}"
    )
