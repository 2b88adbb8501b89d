"""Traces of towers that several tests of one model write again."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def trace_once(patch: pytest.MonkeyPatch) -> None:
    """Let torch turn each part of one model into a graph once, however often it is written.

    Only for tests of what is done with graphs: another model's parts of the same names would be
    written as those of the first.
    """
    export, programs = torch.onnx.export, {}

    def once(graph: torch.nn.Module, *args: Any, **options: Any) -> Any:
        key = type(graph), tuple(options["input_names"])
        if key not in programs:
            programs[key] = export(graph, *args, **options)
        return programs[key]

    patch.setattr(torch.onnx, "export", once)
