"""Towers, the dual encoder that combines them, and checkpoints."""

from clipkit.models.checkpoints.description import describe
from clipkit.models.checkpoints.encoder import (
    load_encoder,
    load_joint_encoder,
    load_multimodal_encoder,
    save_encoder,
    save_open_clip,
)
from clipkit.models.checkpoints.interpolation import interpolate
from clipkit.models.checkpoints.named import load_model, load_towers
from clipkit.models.checkpoints.start import (
    from_checkpoint,
    from_joint_checkpoint,
    from_multimodal_checkpoint,
)
from clipkit.models.dual_encoder import DualEncoder, Encoded
from clipkit.models.explanation.explain import Explanation
from clipkit.models.explanation.explain_sound import SoundExplanation, explain_sound
from clipkit.models.explanation.match import WordWeight
from clipkit.models.files.consolidate import consolidate_checkpoint
from clipkit.models.files.structure import structure_only
from clipkit.models.heads.label_head import CosineLabelHead, LabelHead, LinearLabelHead
from clipkit.models.heads.prototype_head import PrototypeLabelHead
from clipkit.models.joint.added_parts import with_fused_head, with_fusion
from clipkit.models.joint.explanation.explain_matching import (
    MatchingExplanation,
    explain_matching,
    explain_matching_sound,
)
from clipkit.models.joint.fusion import CrossAttentionFusion, Fusion, MergedFusion
from clipkit.models.joint.joint_encoder import JointEncoder, ReadTokens
from clipkit.models.joint.match_pairs import match_pairs
from clipkit.models.joint.pair_scores import pair_scores, reranking_scores
from clipkit.models.joint.tcn_fusion import TcnFusion
from clipkit.models.joint.word_head import WordHead
from clipkit.models.multimodal_encoder import MultimodalEncoder, with_towers
from clipkit.models.open_clip.encoder import from_open_clip
from clipkit.models.open_clip.towers import OpenClipImageTower, OpenClipTextTower
from clipkit.models.tower_encoder import TowerEncoder
from clipkit.models.towers.base import ImageTower, SignalTower, TextTower, Tower
from clipkit.models.towers.freezing import lock
from clipkit.models.towers.naflex_tower import TimmNaFlexTower
from clipkit.models.towers.signals.clap_sound_tower import ClapSoundTower
from clipkit.models.towers.signals.tcn_tower import TcnTower
from clipkit.models.towers.signals.timm_sound_tower import TimmSoundTower
from clipkit.models.towers.signals.whisper_sound_tower import WhisperSoundTower
from clipkit.models.towers.timm_tower import TimmImageTower
from clipkit.models.towers.tokens import TokenTower
from clipkit.models.towers.transformers_tower import TransformersTextTower

__all__ = [
    "ClapSoundTower",
    "CosineLabelHead",
    "CrossAttentionFusion",
    "DualEncoder",
    "Encoded",
    "Explanation",
    "Fusion",
    "ImageTower",
    "JointEncoder",
    "LabelHead",
    "LinearLabelHead",
    "MatchingExplanation",
    "MergedFusion",
    "MultimodalEncoder",
    "OpenClipImageTower",
    "OpenClipTextTower",
    "PrototypeLabelHead",
    "ReadTokens",
    "SignalTower",
    "SoundExplanation",
    "TcnFusion",
    "TcnTower",
    "TextTower",
    "TimmImageTower",
    "TimmNaFlexTower",
    "TimmSoundTower",
    "TokenTower",
    "Tower",
    "TowerEncoder",
    "TransformersTextTower",
    "WhisperSoundTower",
    "WordHead",
    "WordWeight",
    "consolidate_checkpoint",
    "describe",
    "explain_matching",
    "explain_matching_sound",
    "explain_sound",
    "from_checkpoint",
    "from_joint_checkpoint",
    "from_multimodal_checkpoint",
    "from_open_clip",
    "interpolate",
    "load_encoder",
    "load_joint_encoder",
    "load_model",
    "load_multimodal_encoder",
    "load_towers",
    "lock",
    "match_pairs",
    "pair_scores",
    "reranking_scores",
    "save_encoder",
    "save_open_clip",
    "structure_only",
    "with_fused_head",
    "with_fusion",
    "with_towers",
]
