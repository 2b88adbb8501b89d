"""Evaluators that know no trainer, and the report."""

from clipkit.evaluation.class_report import ClassReport, PerClass
from clipkit.evaluation.datasets import EvaluationDataset, EvaluationSample, open_dataset
from clipkit.evaluation.decoded import EmbedOptions
from clipkit.evaluation.embed import EmbeddedPairs, embed_pairs, tokenizer_of
from clipkit.evaluation.evaluator import Evaluator, evaluating
from clipkit.evaluation.label_head import LabelHeadClassification
from clipkit.evaluation.multi_label import MultiLabelClassification
from clipkit.evaluation.probe import LinearProbe
from clipkit.evaluation.prompts import GENERIC_TEMPLATES
from clipkit.evaluation.retrieval import Retrieval
from clipkit.evaluation.suite import EvaluationSuite
from clipkit.evaluation.zero_shot import (
    Predictions,
    ZeroShotClassification,
    class_embeddings,
    confusion_counts,
)

__all__ = [
    "GENERIC_TEMPLATES",
    "ClassReport",
    "EmbedOptions",
    "EmbeddedPairs",
    "EvaluationDataset",
    "EvaluationSample",
    "EvaluationSuite",
    "Evaluator",
    "LabelHeadClassification",
    "LinearProbe",
    "MultiLabelClassification",
    "PerClass",
    "Predictions",
    "Retrieval",
    "ZeroShotClassification",
    "class_embeddings",
    "confusion_counts",
    "embed_pairs",
    "evaluating",
    "open_dataset",
    "tokenizer_of",
]
