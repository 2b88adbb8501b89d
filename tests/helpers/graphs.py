"""Graphs that ``torch.compile`` makes, counted; they run as they are."""

from __future__ import annotations

import torch
from torch._dynamo import register_backend

from clipkit.models import from_open_clip
from tests.helpers import tiny

GRAPHS: list[int] = []
"""The number of inputs of each graph since ``forget``."""
COUNTING = "clipkit_counting"
"""Name of the backend."""


@register_backend(name=COUNTING)
def counting(graph, inputs):
    GRAPHS.append(len(inputs))
    return graph.forward


def forget() -> None:
    """Compile everything anew, and count from zero."""
    torch._dynamo.reset()
    GRAPHS.clear()


def of_layers(layers: int = 3, image_width: int = 16):
    """A module with towers of several blocks, always with the same weights."""
    module = tiny.module()
    parts = {part: {**tiny.CONFIG[part], "layers": layers} for part in ("vision_cfg", "text_cfg")}
    parts["vision_cfg"]["width"] = image_width
    torch.manual_seed(0)
    module.encoder = from_open_clip({**tiny.CONFIG, **parts})
    return module


def gradients(module, batch) -> dict[str, torch.Tensor]:
    """The gradients of the encoder for one batch."""
    module.zero_grad()
    module.loss(module.encoder(batch), batch)["loss"].backward()
    return {name: p.grad.clone() for name, p in module.encoder.named_parameters()}
