"""What evaluators measured, for the page: images, sounds and embeddings."""

from __future__ import annotations

from clipkit.data.modalities.sounds import Sounds
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.modality_loading import evaluation_fields
from clipkit.evaluation.datasets.queries import IMAGES, SignalQueries
from clipkit.evaluation.datasets.sample_source import ShownSamples
from clipkit.evaluation.embedding import EmbeddedPairs, known_pairs
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.joint.classification import JointClassification
from clipkit.evaluation.evaluators.joint.dialogue import DialogueRanking
from clipkit.evaluation.evaluators.joint.question_answering import QuestionAnswering
from clipkit.evaluation.evaluators.label_head import LabelHeadClassification
from clipkit.evaluation.evaluators.retrieval import Retrieval
from clipkit.evaluation.evaluators.zero_shot import ZeroShotClassification
from clipkit.evaluation.modality_embedding import has_further, image_caption_pairs
from clipkit.evaluation.probes.few_shot import FewShotProbe
from clipkit.evaluation.probes.linear import LinearProbe
from clipkit.evaluation.probes.neighbours import NearestNeighbours
from clipkit.evaluation.report.collect.modalities import Compared
from clipkit.evaluation.report.collect.sound_clips import SoundSource
from clipkit.models import DualEncoder, SignalTower
from clipkit.models.inputs import sound_transform_of


def images_of(evaluator: Evaluator) -> EvaluationDataset | None:
    """Return the images whose outcomes an evaluator returns; None for those of sounds."""
    data = _data_of(evaluator)
    return data if data is not None and data.modality is IMAGES else None


def sounds_of(encoder: DualEncoder, evaluator: Evaluator) -> SoundSource | None:
    """Return the sounds whose outcomes an evaluator returns, and the field that reads them."""
    data = _data_of(evaluator)
    if data is None or not isinstance(data.modality, SignalQueries):
        return None
    name, own = data.modality.name, data.modality.field
    tower = encoder.towers.get(name)
    if own is None and isinstance(tower, SignalTower):
        own = Sounds(sound_transform_of(tower), name, data.modality.members)
    return (data, own) if isinstance(own, Sounds) else None


def _data_of(evaluator: Evaluator) -> EvaluationDataset | None:
    match evaluator:
        case Retrieval() | ZeroShotClassification() | LabelHeadClassification():
            return evaluator.data
        case JointClassification() | QuestionAnswering() | DialogueRanking():
            return evaluator.data
        case LinearProbe() | NearestNeighbours() | FewShotProbe():
            return evaluator.splits.test
    return None


def compared_modalities(encoder: DualEncoder, evaluator: Retrieval) -> Compared | None:
    """Return a retrieval between modalities, whose embeddings are remembered."""
    if not has_further(encoder):
        return None
    embedded = evaluator.embed_all(encoder)
    fields, _ = evaluation_fields(encoder, evaluator.fields)
    captions: dict[int, str] = {}
    if "text" in embedded.rows:
        owners = embedded.rows["text"].samples.tolist()
        captions = dict(zip(reversed(owners), reversed(embedded.captions), strict=True))
    sounds = {part.name: part for part in fields if isinstance(part, Sounds)}
    return Compared(evaluator.data, evaluator.pairs(encoder), sounds, embedded.keys, captions)


def embedded_pairs(
    encoder: DualEncoder, evaluator: Evaluator
) -> tuple[EmbeddedPairs, ShownSamples] | None:
    """Return embeddings that an evaluator computed, and their images; None if there are none."""
    match evaluator:
        case Retrieval():
            if has_further(encoder):
                return image_caption_pairs(evaluator.embed_all(encoder), evaluator.data)
            return evaluator.embed(encoder), evaluator.data
        case ZeroShotClassification() | LabelHeadClassification():
            data = evaluator.data
        case LinearProbe() | NearestNeighbours() | FewShotProbe():
            data = evaluator.splits.test
        case _:
            return None
    pairs = known_pairs(encoder, data, evaluator.options)
    return None if pairs is None else (pairs, data)
