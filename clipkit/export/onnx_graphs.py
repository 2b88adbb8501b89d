"""What is traced of each tower: from its input to embeddings of unit norm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from clipkit.models import SignalTower, TowerEncoder
from clipkit.models.named_towers import NamedTowerEncoder
from clipkit.models.onnx_towers import graph_file

_TRACED_BATCH: Final = 3
"""A size of 1 would be taken for a constant."""
INPUTS: Final = {"image": "pixels", "text": "tokens"}
SIGNAL_INPUT: Final = "values"


@final
@dataclass(frozen=True)
class TowerGraph:
    """A tower to be traced.

    Args:
        name: Name of its modality.
        module: From its input to embeddings of unit norm.
        example: Input of the trace.
        sizes: Axes of the input whose length may change.
    """

    name: str
    module: nn.Module
    example: Tensor
    sizes: dict[int, Any]

    @property
    def file(self) -> str:
        """Name of the file of the graph."""
        return graph_file(self.name)

    @property
    def input(self) -> str:
        """Name of the input of the graph."""
        return INPUTS.get(self.name, SIGNAL_INPUT)

    @property
    def output(self) -> str:
        """Name of the output of the graph."""
        return f"{self.name}_embedding"


def tower_graphs(encoder: TowerEncoder) -> list[TowerGraph]:
    """Return the graph of each tower of an encoder."""
    return [_graph(encoder, name) for name in encoder.towers]


def _graph(encoder: TowerEncoder, name: str) -> TowerGraph:
    sizes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if name == "image":
        size = encoder.image_tower.image_size
        pixels = torch.zeros(_TRACED_BATCH, 3, size, size, dtype=torch.uint8)
        return TowerGraph(name, _ImageGraph(encoder), pixels, sizes)
    if name == "text":
        longest = encoder.text_tower.context_length
        # One less than the longest: a dimension at its limit would be taken for a constant.
        tokens = torch.ones(_TRACED_BATCH, longest - 1, dtype=torch.int64)
        sizes[1] = torch.export.Dim("length", max=longest)
        return TowerGraph(name, _TextGraph(encoder), tokens, sizes)
    tower = encoder.towers[name]
    assert isinstance(encoder, NamedTowerEncoder), "others have two towers"
    assert isinstance(tower, SignalTower), "neither image nor text"
    values = torch.zeros(_TRACED_BATCH, *tower.input_shape)
    return TowerGraph(name, _SignalGraph(encoder, name), values, sizes)


def checked_inputs(
    encoder: TowerEncoder, graph: TowerGraph, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield random inputs of several sizes, with which a written graph is compared."""
    text = encoder.text_tower
    for count in (1, 4):
        shape = (count, *graph.example.shape[1:])
        if graph.name == "image":
            yield torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        elif graph.name == "text":
            for length in (text.context_length, max(3, text.context_length // 2)):
                yield torch.randint(1, text.vocab_size, (count, length), generator=generator)
        else:
            yield torch.randn(shape, generator=generator)


@final
class _ImageGraph(nn.Module):
    """The graph of ``image.onnx``."""

    def __init__(self, encoder: TowerEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        return self.encoder.encode_image(pixels)


@final
class _TextGraph(nn.Module):
    """The graph of ``text.onnx``."""

    def __init__(self, encoder: TowerEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Int64[Tensor, "B S"]) -> Float[Tensor, "B D"]:
        return self.encoder.encode_text(tokens)


@final
class _SignalGraph(nn.Module):
    """The graph of a further modality."""

    def __init__(self, encoder: NamedTowerEncoder, name: str) -> None:
        super().__init__()
        self.encoder, self.name = encoder, name

    def forward(self, values: Float[Tensor, "B *rest"]) -> Float[Tensor, "B D"]:
        return self.encoder.encode_signal(self.name, values)
