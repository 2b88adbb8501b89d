"""Checks whether the parts of a joint encoder fit together."""

from __future__ import annotations

from collections.abc import Mapping

from clipkit.errors import ConfigError
from clipkit.models.heads.label_head import LabelHead
from clipkit.models.heads.prototype_head import PrototypeLabelHead
from clipkit.models.joint.fusion import Fusion
from clipkit.models.joint.word_head import WordHead
from clipkit.models.tower_encoder import TowerEncoder
from clipkit.models.towers.base import Tower
from clipkit.models.towers.token_check import check_tokens
from clipkit.models.towers.tokens import TokenTower


def check_kinds(fusion: object, word_head: object) -> None:
    """Refuse other parts, which a file may name."""
    if not isinstance(fusion, Fusion):
        raise ConfigError(f"fusion: expected a Fusion, got {type(fusion).__name__}")
    if word_head is not None and not isinstance(word_head, WordHead):
        raise ConfigError(f"word_head: expected a WordHead, got {type(word_head).__name__}")


def token_towers_of(towers: Mapping[str, Tower], fusion: Fusion) -> dict[str, TokenTower]:
    """Return the towers that are fused; refuse one whose tokens the fusion cannot read."""
    found: dict[str, TokenTower] = {}
    for name in fusion.names:
        if name not in towers:
            raise ConfigError(
                f"fusion: expected modalities with a tower ({', '.join(towers)}), got {name!r}"
            )
        tower = towers[name]
        if not isinstance(tower, TokenTower):
            raise ConfigError(
                f"towers.{name}: expected a tower whose tokens can be read, got "
                f"{type(tower).__name__}; let it inherit from clipkit.models.TokenTower, too"
            )
        _check_padding(name, tower, fusion)
        check_tokens(name, tower)
        found[name] = tower
    return found


def _check_padding(name: str, tower: Tower, fusion: Fusion) -> None:
    is_padded = name == "text" or getattr(tower, "budget", None) is not None
    if is_padded and not fusion.reads_padding:
        raise ConfigError(
            f"fusion: {type(fusion).__name__} reads sequences without padding, got {name!r}, whose "
            f"sequences have padding; use CrossAttentionFusion or MergedFusion"
        )


def checked_head(head: WordHead | None, fusion: Fusion, encoder: TowerEncoder) -> WordHead | None:
    """Return the word head, whose sizes are those of the fusion and of the text tower."""
    if head is None:
        return None
    expected = (fusion.width, encoder.text_tower.vocab_size)
    if (head.width, head.vocab_size) != expected:
        raise ConfigError(
            f"word_head: expected width = {expected[0]} as the fusion, and vocab_size = "
            f"{expected[1]} as the text tower, got {head.width} and {head.vocab_size}"
        )
    return head


def checked_fused_head(head: LabelHead | None, fusion: Fusion) -> LabelHead | None:
    """Return the label head on the pooled vector of the fusion, whose width is the fusion's."""
    if head is None:
        return None
    if not isinstance(head, LabelHead) or isinstance(head, PrototypeLabelHead):
        raise ConfigError(
            f"label_heads.fused: expected a head without texts, such as LinearLabelHead, got "
            f"{type(head).__name__}"
        )
    if head.embedding_dim != fusion.width:
        raise ConfigError(
            f"label_heads.fused.embedding_dim: expected the width of the fusion, {fusion.width}, "
            f"got {head.embedding_dim}"
        )
    return head
