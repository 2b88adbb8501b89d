"""What is traced: towers, from their input to embeddings of unit norm, and a fusion of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.export.card_examples import token_outputs
from clipkit.models import JointEncoder, SignalTower, TowerEncoder
from clipkit.models.named_towers import NamedTowerEncoder
from clipkit.models.onnx_towers import CLASSES, FUSION, LOGIT, MASK, TOKENS, graph_file
from clipkit.token_sequences import TokenSequence

_TRACED_BATCH: Final = 3
"""A size of 1 would be taken for a constant."""
_CHECKED_BATCHES: Final = (1, 4)
INPUTS: Final = {"image": "pixels", "text": "tokens"}
SIGNAL_INPUT: Final = "values"


@final
@dataclass(frozen=True)
class TracedGraph:
    """A part of an encoder to be traced.

    Args:
        name: Name of the modality of a tower, or "fusion".
        module: From its inputs to its output, or a tuple of several.
        examples: Inputs of the trace by name.
        outputs: Names of the outputs.
        sizes: Axes of each argument of the module whose length may change.
    """

    name: str
    module: nn.Module
    examples: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    sizes: tuple[Any, ...]

    @property
    def file(self) -> str:
        """Name of the file of the graph."""
        return graph_file(self.name)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs of the module by name."""
        with torch.inference_mode():
            found = self.module(*inputs.values())
        values = found if isinstance(found, tuple) else (found,)
        return dict(zip(self.outputs, values, strict=True))


def graphs_of(encoder: TowerEncoder) -> list[TracedGraph]:
    """Return the graph of each tower of an encoder, and that of its fusion.

    Raises:
        ConfigError: If a modality has the name of the graph of the fusion.
    """
    graphs = [_tower_graph(encoder, name) for name in encoder.towers]
    if not isinstance(encoder, JointEncoder):
        return graphs
    if FUSION in encoder.towers:
        raise ConfigError(
            f"towers.{FUSION}: expected another name of the modality, whose graph would replace "
            f"that of the fusion; export with --format safetensors instead"
        )
    return [*graphs, _fusion_graph(encoder)]


def outputs_of(encoder: TowerEncoder, name: str) -> tuple[str, ...]:
    """Return the names of the outputs of a tower's graph, the embedding first."""
    return (f"{name}_embedding", *token_outputs(encoder, name))


def fusion_outputs(joint: JointEncoder) -> tuple[str, ...]:
    """Return the names of the outputs of the graph of a fusion."""
    return (LOGIT, CLASSES) if joint.num_fused_classes else (LOGIT,)


def checked_inputs(
    encoder: TowerEncoder, graph: TracedGraph, generator: torch.Generator
) -> Iterator[dict[str, Tensor]]:
    """Yield random inputs of several sizes, with which a written graph is compared."""
    for count in _CHECKED_BATCHES:
        if graph.name != FUSION:
            given = _random_inputs(encoder, graph.name, count, generator)
            yield from ({name: values} for name in graph.examples for values in given)
            continue
        assert isinstance(encoder, JointEncoder), "others have no fusion"
        parts = {
            name: _random_inputs(encoder, name, count, generator) for name in encoder.fused_names
        }
        for number in range(max(map(len, parts.values()))):  # texts have several lengths
            with torch.inference_mode():
                tokens = {
                    name: encoder.read(name, given[number % len(given)]).tokens
                    for name, given in parts.items()
                }
            yield _flat(tokens)


def _tower_graph(encoder: TowerEncoder, name: str) -> TracedGraph:
    sizes: dict[int, Any] = {0: torch.export.Dim("batch")}
    module: nn.Module
    if name == "image":
        size = encoder.image_tower.image_size
        example = torch.zeros(_TRACED_BATCH, 3, size, size, dtype=torch.uint8)
        module = _ImageGraph(encoder)
    elif name == "text":
        longest = encoder.text_tower.context_length
        # One less than the longest: a dimension at its limit would be taken for a constant.
        example = torch.ones(_TRACED_BATCH, longest - 1, dtype=torch.int64)
        sizes[1] = torch.export.Dim("length", max=longest)
        module = _TextGraph(encoder)
    else:
        tower = encoder.towers[name]
        assert isinstance(encoder, NamedTowerEncoder), "others have two towers"
        assert isinstance(tower, SignalTower), "neither image nor text"
        example = torch.zeros(_TRACED_BATCH, *tower.input_shape)
        module = _SignalGraph(encoder, name)
    if isinstance(encoder, JointEncoder) and name in encoder.fused_names:
        module = _TokenGraph(encoder, name)
    outputs = outputs_of(encoder, name)
    return TracedGraph(name, module, {INPUTS.get(name, SIGNAL_INPUT): example}, outputs, (sizes,))


def _fusion_graph(joint: JointEncoder) -> TracedGraph:
    batch = torch.export.Dim("pairs")
    longest = joint.text_tower.context_length
    examples: dict[str, Tensor] = {}
    sizes: list[dict[int, Any]] = []
    length = torch.export.Dim("length", max=longest) if "text" in joint.fused_names else None
    for name in joint.fused_names:
        given = _tower_graph(joint, name).examples
        with torch.no_grad():  # tensors of the inference mode cannot be traced
            read = joint.read(name, next(iter(given.values()))).tokens
        own = _flat({name: read})
        examples |= own
        sizes += [{0: batch, 1: length} if name == "text" else {0: batch} for _ in own]
    return TracedGraph(
        FUSION, _FusionGraph(joint), examples, fusion_outputs(joint), (tuple(sizes),)
    )


def _flat(tokens: Mapping[str, TokenSequence]) -> dict[str, Tensor]:
    """Return sequences and their masks by the names of inputs and outputs of graphs."""
    flat: dict[str, Tensor] = {}
    for name, sequence in tokens.items():
        flat[f"{name}{TOKENS}"] = sequence.values
        if sequence.mask is not None:
            flat[f"{name}{MASK}"] = sequence.mask
    return flat


def _random_inputs(
    encoder: TowerEncoder, name: str, count: int, generator: torch.Generator
) -> list[Tensor]:
    """Return random inputs of a tower, texts of two lengths."""
    if name == "image":
        size = encoder.image_tower.image_size
        shape = (count, 3, size, size)
        return [torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)]
    if name == "text":
        text = encoder.text_tower
        lengths = (text.context_length, max(3, text.context_length // 2))
        return [
            torch.randint(1, text.vocab_size, (count, length), generator=generator)
            for length in lengths
        ]
    tower = encoder.towers[name]
    assert isinstance(tower, SignalTower), "neither image nor text"
    return [torch.randn(count, *tower.input_shape, generator=generator)]


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


@final
class _TokenGraph(nn.Module):
    """The graph of a tower whose tokens are fused: embedding, tokens, and the mask of texts."""

    def __init__(self, joint: JointEncoder, name: str) -> None:
        super().__init__()
        self.encoder, self.name = joint, name

    def forward(self, given: Tensor) -> tuple[Tensor, ...]:
        read = self.encoder.read(self.name, given)
        if self.name != "text":
            return read.embedding, read.tokens.values
        assert read.tokens.mask is not None, "texts have padding"
        return read.embedding, read.tokens.values, read.tokens.mask


@final
class _FusionGraph(nn.Module):
    """The graph of ``fusion.onnx``, from tokens in the order of the fusion to logits."""

    def __init__(self, joint: JointEncoder) -> None:
        super().__init__()
        self.encoder = joint

    def forward(
        self, *given: Float[Tensor, "B tokens width"] | Bool[Tensor, "B tokens"]
    ) -> tuple[Tensor, ...]:
        values = iter(given)
        tokens = {
            name: TokenSequence(next(values), next(values) if name == "text" else None)
            for name in self.encoder.fused_names
        }
        pooled = self.encoder.fuse(tokens).pooled
        logits = self.encoder.match(pooled)
        if not self.encoder.num_fused_classes:
            return (logits,)
        return logits, self.encoder.classify_fused(pooled)
