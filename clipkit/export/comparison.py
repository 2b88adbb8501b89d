"""Compare the embeddings of written files with those of the encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.errors import CheckpointError
from clipkit.models import JointEncoder, SignalTower, TowerEncoder
from clipkit.models.named_towers import NamedTowerEncoder

TOLERANCE: Final = 1e-4
"""Largest difference of a component of a unit-norm embedding."""

Encode = Callable[[Tensor], Tensor]
"""From the input of a tower to embeddings of unit norm."""


def read_by(library: str, load: Callable[[], Any]) -> Any:
    """Load written files.

    Raises:
        CheckpointError: If the library cannot read them.
    """
    try:
        return load()
    except Exception as error:  # the libraries' errors have no common base
        raise CheckpointError(f"export: {library} cannot read what was written: {error}") from error


def towers_of(encoder: TowerEncoder) -> dict[str, Encode]:
    """Return the function of each tower, by the name of its modality."""
    known: dict[str, Encode] = {"image": encoder.encode_image, "text": encoder.encode_text}
    if isinstance(encoder, NamedTowerEncoder):
        known |= {name: partial(encoder.encode_signal, name) for name in encoder.modalities}
    return {name: known[name] for name in encoder.towers}


def compare(library: str, encoder: TowerEncoder, written: Mapping[str, Encode]) -> None:
    """Compare the embeddings of a random batch.

    Args:
        library: Name of the library that read the files, for the message.
        encoder: The encoder that was written.
        written: Function of each tower that was read again, by the name of its modality.

    Raises:
        CheckpointError: If embeddings differ.
    """
    for name, encode in towers_of(encoder).items():
        given = _example(encoder, name)
        with torch.inference_mode():
            difference = (encode(given) - written[name](given)).abs().max().item()
        if not difference <= TOLERANCE:
            raise CheckpointError(
                f"export: {library}'s {name} embeddings differ by {difference:.1e}; nothing is left"
            )


def compare_matching(library: str, joint: JointEncoder, written: JointEncoder) -> None:
    """Compare the matching logits of a random batch.

    Args:
        library: Name of the library that read the files, for the message.
        joint: The encoder that was written.
        written: The encoder that was read again.

    Raises:
        CheckpointError: If they differ.
    """
    given = {name: _example(joint, name) for name in joint.fused_names}
    with torch.inference_mode():
        expected, found = (
            one.match(one.fuse({n: one.read(n, part).tokens for n, part in given.items()}).pooled)
            for one in (joint, written)
        )
        difference = (found - expected).abs().max().item()
        largest = max(1.0, expected.abs().max().item())
    if not difference <= TOLERANCE * largest:
        raise CheckpointError(
            f"export: {library}'s matching logits differ by {difference:.1e}; nothing is left"
        )


def _example(encoder: TowerEncoder, name: str) -> Tensor:
    """Return random input of a tower, two samples."""
    generator = torch.Generator().manual_seed(0)
    if name == "image":
        size = encoder.image_tower.image_size
        return torch.randn(2, 3, size, size, generator=generator)
    if name == "text":
        text = encoder.text_tower
        shape = (2, text.context_length)
        tokens = torch.randint(1, text.vocab_size - 1, shape, generator=generator)
        tokens[:, -2] = text.vocab_size - 1  # the end, where CLIP pools the text
        return tokens
    tower = encoder.towers[name]
    assert isinstance(tower, SignalTower), "neither image nor text"
    return torch.randn(2, *tower.input_shape, generator=generator)


def unit_features(features: Any) -> Float[Tensor, "B D"]:
    """Normalise features; transformers 5 wraps the tensor that earlier versions returned."""
    return torch.nn.functional.normalize(getattr(features, "pooler_output", features), dim=-1)
