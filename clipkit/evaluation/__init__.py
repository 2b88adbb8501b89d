"""Evaluators, which work without a trainer, and the report."""

from clipkit.evaluation.correct_pairs import RetrievalOptions
from clipkit.evaluation.corruptions.images import CorruptedImages
from clipkit.evaluation.corruptions.kinds import CORRUPTIONS, corrupt
from clipkit.evaluation.datasets.associations import AssociationData, open_associations
from clipkit.evaluation.datasets.choice_sources import ChoiceColumns, open_choices
from clipkit.evaluation.datasets.choices import ChoiceData
from clipkit.evaluation.datasets.dataset import EvaluationDataset, EvaluationSample
from clipkit.evaluation.datasets.opening import open_dataset
from clipkit.evaluation.embedding import EmbeddedPairs, embed_pairs, tokenizer_of
from clipkit.evaluation.embedding_cache import cached_embeddings
from clipkit.evaluation.evaluators.association import ImageAssociation
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.class_report import ClassReport, PerClass
from clipkit.evaluation.evaluators.fairness import GroupFairness
from clipkit.evaluation.evaluators.joint.classification import JointClassification
from clipkit.evaluation.evaluators.joint.dialogue import DialogueRanking
from clipkit.evaluation.evaluators.joint.question_answering import QuestionAnswering
from clipkit.evaluation.evaluators.label_head import LabelHeadClassification
from clipkit.evaluation.evaluators.multi_label import MultiLabelClassification
from clipkit.evaluation.evaluators.pair_choice import PairChoice
from clipkit.evaluation.evaluators.reranked_retrieval import RerankedRetrieval
from clipkit.evaluation.evaluators.retrieval import Retrieval
from clipkit.evaluation.evaluators.robustness import CorruptionRobustness
from clipkit.evaluation.evaluators.suite import EvaluationSuite
from clipkit.evaluation.evaluators.translation import CaptionTranslation
from clipkit.evaluation.evaluators.zero_shot import (
    Predictions,
    ZeroShotClassification,
    confusion_counts,
)
from clipkit.evaluation.evaluators.zero_shot_multi_label import ZeroShotMultiLabel
from clipkit.evaluation.hashes import data_hash, model_hash
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.interpolation import InterpolationPoint, interpolation_curve
from clipkit.evaluation.modality_embedding import (
    EmbeddedModalities,
    ModalityRows,
    embed_modalities,
)
from clipkit.evaluation.mteb import MtebEncoder
from clipkit.evaluation.outcomes.classification import reliability_diagrams
from clipkit.evaluation.outcomes.files import load_outcomes, save_outcomes
from clipkit.evaluation.outcomes.metrics import OUTCOME_KINDS, outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Evaluation, Outcomes
from clipkit.evaluation.probes.few_shot import FewShotProbe
from clipkit.evaluation.probes.linear import LinearProbe
from clipkit.evaluation.probes.multi_label import MultiLabelProbe
from clipkit.evaluation.probes.neighbours import NearestNeighbours
from clipkit.evaluation.probes.options import ProbeOptions
from clipkit.evaluation.probes.splits import ProbeSplits
from clipkit.evaluation.prompts.class_lists import resolve_class_names
from clipkit.evaluation.prompts.class_prompts import (
    GENERIC_TEMPLATES,
    SOUND_TEMPLATES,
    TEMPLATE_LISTS,
    ClassPrompts,
    resolve_prompts,
)
from clipkit.evaluation.prompts.embeddings import class_embeddings
from clipkit.evaluation.suites.record import write_record
from clipkit.evaluation.suites.runner import SuiteFailure, SuiteOptions, SuiteRun, run_suite
from clipkit.evaluation.suites.suite import DataCompTask, Suite, SuiteEntry
from clipkit.evaluation.suites.suite_file import read_suite, shipped_suites
from clipkit.evaluation.task_options import RobustnessOptions, ZeroShotOptions
from clipkit.evaluation.tasks import TASKS, make_evaluator
from clipkit.models.evaluating import evaluating

__all__ = [
    "CORRUPTIONS",
    "GENERIC_TEMPLATES",
    "OUTCOME_KINDS",
    "SOUND_TEMPLATES",
    "TASKS",
    "TEMPLATE_LISTS",
    "AssociationData",
    "CaptionTranslation",
    "ChoiceColumns",
    "ChoiceData",
    "ClassPrompts",
    "ClassReport",
    "CorruptedImages",
    "CorruptionRobustness",
    "DataCompTask",
    "DialogueRanking",
    "EmbedOptions",
    "EmbeddedModalities",
    "EmbeddedPairs",
    "Evaluation",
    "EvaluationDataset",
    "EvaluationSample",
    "EvaluationSuite",
    "Evaluator",
    "FewShotProbe",
    "GroupFairness",
    "ImageAssociation",
    "InterpolationPoint",
    "JointClassification",
    "LabelHeadClassification",
    "LinearProbe",
    "ModalityRows",
    "MtebEncoder",
    "MultiLabelClassification",
    "MultiLabelProbe",
    "NearestNeighbours",
    "Outcomes",
    "PairChoice",
    "PerClass",
    "Predictions",
    "ProbeOptions",
    "ProbeSplits",
    "QuestionAnswering",
    "RerankedRetrieval",
    "Retrieval",
    "RetrievalOptions",
    "RobustnessOptions",
    "Suite",
    "SuiteEntry",
    "SuiteFailure",
    "SuiteOptions",
    "SuiteRun",
    "ZeroShotClassification",
    "ZeroShotMultiLabel",
    "ZeroShotOptions",
    "cached_embeddings",
    "class_embeddings",
    "confusion_counts",
    "corrupt",
    "data_hash",
    "embed_modalities",
    "embed_pairs",
    "evaluating",
    "interpolation_curve",
    "load_outcomes",
    "make_evaluator",
    "model_hash",
    "open_associations",
    "open_choices",
    "open_dataset",
    "outcome_metrics",
    "read_suite",
    "reliability_diagrams",
    "resolve_class_names",
    "resolve_prompts",
    "run_suite",
    "save_outcomes",
    "shipped_suites",
    "tokenizer_of",
    "write_record",
]
