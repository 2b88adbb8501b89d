"""Longer contexts: which positions stay, and that short texts keep their embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.models import DualEncoder, from_open_clip, load_encoder
from clipkit.models.open_clip.context import stretch_positions
from tests.helpers.tiny_models import TEXT, config

LENGTH, LONGER = 30, 75
SHORT = {**TEXT, "context_length": LENGTH}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    encoder = from_open_clip(config(text=SHORT))
    state = {
        **{name.removeprefix("image_tower."): v for name, v in encoder.state_dict().items()
           if name.startswith("image_tower.")},
        **{name.removeprefix("text_tower."): v for name, v in encoder.state_dict().items()
           if name.startswith("text_tower.")},
        "logit_scale": encoder.log_logit_scale,
    }  # fmt: skip
    torch.save(state, tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def tokens_of(length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 98, (2, length), generator=generator)
    tokens[:, 0], tokens[:, -1] = 98, 99
    return tokens


def embed(encoder: DualEncoder, tokens: torch.Tensor) -> torch.Tensor:
    encoder.eval()
    embeddings: torch.Tensor = encoder.text_tower(tokens)
    return embeddings


def test_positions_are_interpolated_as_a_loop_does() -> None:
    positions = torch.randn(9, 4)
    stretched = stretch_positions(positions, 16, num_kept=3)
    assert torch.equal(stretched[:3], positions[:3])
    for row in range(3, 16):
        place = 3 + (row - 3) * (9 - 1 - 3) / (16 - 1 - 3)
        low = min(int(place), 7)
        expected = torch.lerp(positions[low], positions[low + 1], place - low)
        torch.testing.assert_close(stretched[row], expected)


def test_short_texts_keep_their_embeddings_and_long_ones_are_read(weights: Path) -> None:
    before = from_open_clip(config(text=SHORT), pretrained=str(weights))
    after = from_open_clip(config(text=SHORT), pretrained=str(weights), context_length=LONGER)
    assert after.text_tower.context_length == LONGER
    torch.testing.assert_close(embed(after, tokens_of(20)), embed(before, tokens_of(20)))
    assert not torch.allclose(embed(after, tokens_of(25)), embed(before, tokens_of(25)))
    assert embed(after, tokens_of(LONGER)).isfinite().all()
    with pytest.raises(ConfigError, match="at most 75 tokens"):
        embed(after, tokens_of(LONGER + 1))
    last = after.text_tower.get_parameter("text.positional_embedding")[-1]
    assert torch.equal(last, before.text_tower.get_parameter("text.positional_embedding")[-1])


def test_a_checkpoint_builds_the_longer_context_again(weights: Path, tmp_path: Path) -> None:
    from tests.helpers.checkpoints import write_checkpoint

    encoder = from_open_clip(config(text=SHORT), pretrained=str(weights), context_length=LONGER)
    again = load_encoder(write_checkpoint(tmp_path / "run.ckpt", encoder))
    torch.testing.assert_close(embed(again, tokens_of(LONGER)), embed(encoder, tokens_of(LONGER)))


def test_a_new_model_has_the_length_it_is_given() -> None:
    encoder = from_open_clip(config(text=SHORT), context_length=12)
    assert encoder.text_tower.context_length == 12
    assert embed(encoder, tokens_of(12)).isfinite().all()


def test_a_length_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="context_length: expected at least 1, got 0"):
        from_open_clip(config(text=SHORT), context_length=0)


@pytest.mark.parametrize(
    ("text", "length", "message"),
    [
        (SHORT, 10, "at least the model's 30"),
        (TEXT, 64, "of at least 22"),
        ({**SHORT, "embed_cls": True}, 64, "class token"),
    ],
)
def test_what_cannot_be_stretched_is_refused(
    tmp_path: Path, text: dict[str, object], length: int, message: str
) -> None:
    from clipkit.models.open_clip.config import read_config
    from clipkit.models.open_clip.context import stretch_context
    from clipkit.models.open_clip.weights import build_clip

    clip = build_clip(read_config(config(text=text), needs=("vision_cfg", "text_cfg")))
    with pytest.raises(ConfigError, match=message):
        stretch_context(clip.text, length)
