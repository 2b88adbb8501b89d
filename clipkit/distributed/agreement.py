"""Agreement of all ranks on success before they continue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from clipkit.distributed.collectives import world_size

_Result = TypeVar("_Result")


def on_all_ranks(action: Callable[[], _Result]) -> list[_Result]:
    """Call a function that may raise ``OSError`` on every rank; if one rank fails, all fail."""
    failed, result = None, None
    try:
        result = action()
    except OSError as error:
        failed = error
    answers: list[Any] = [(result, failed)]
    if world_size() > 1:
        answers = [None] * world_size()
        dist.all_gather_object(answers, (result, failed))
    for _, problem in answers:
        if problem is not None:
            raise problem
    return [result for result, _ in answers]
