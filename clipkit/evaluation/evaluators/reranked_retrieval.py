"""Retrieval whose best candidates a joint encoder scores again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, final

from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.errors import ConfigError, check_at_least
from clipkit.evaluation.correct_pairs import Candidates, match_candidates
from clipkit.evaluation.embedding import tokenizer_of
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.retrieval import Retrieval
from clipkit.evaluation.joint_tokens import image_tokens, text_tokens
from clipkit.evaluation.memory import remembering
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Evaluation, Outcomes
from clipkit.evaluation.outcomes.retrieval import retrieval_outcomes
from clipkit.metrics.reranking import reranked_pair_ranks
from clipkit.models import DualEncoder, JointEncoder, pair_scores
from clipkit.models.evaluating import evaluating
from clipkit.token_sequences import TokenSequence

PREFIX = "reranked/"
"""Text before the names of the metrics after re-ranking."""
_Score = Callable[[Int64[Tensor, "pairs 2"]], Float[Tensor, " pairs"]]


@final
class RerankedRetrieval(Evaluator):
    """Retrieval by a joint encoder: its dual encoder finds K candidates, its fusion orders them.

    The final order of the K candidates is that of the matching logit, as in ALBEF (Li et al. 2021,
    arXiv:2107.07651, section 5); the others keep their places. Each rank of a process group
    computes everything.

    Args:
        retrieval: The retrieval that is measured before and after.
        num_best: Number of candidates of each query that are scored again.

    Raises:
        ConfigError: If ``num_best`` is less than 1, or the retrieval is one of sounds or by group.

    Examples:
        >>> joint = with_fusion(encoder, CrossAttentionFusion(width=16, depth=1, num_heads=2))
        >>> RerankedRetrieval(Retrieval("data/val"), num_best=5).run(joint)
        {'image_to_text/recall_at_1': ..., ...}
    """

    def __init__(self, retrieval: Retrieval, num_best: int = 20) -> None:
        check_at_least("num_best", num_best, 1)
        if retrieval.data.modality.name != "image" or retrieval.correct.group_field is not None:
            raise ConfigError(
                "rerank: expected retrieval of images without groups of queries, got "
                f"{retrieval.data.modality.name} and group_field={retrieval.correct.group_field!r}"
            )
        self.retrieval, self.num_best, self.data = retrieval, num_best, retrieval.data
        self.primary_metric = f"{PREFIX}{retrieval.primary_metric}"

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return the metrics before, those after as ``reranked/NAME``, and the time per query.

        ``reranked/DIRECTION/seconds_per_query`` is the time of the fusion, with that of copying
        tokens to its device, and without that of the towers and of sorting.

        Raises:
            ConfigError: If the encoder is none that fuses images and texts alone.
        """
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics and the outcome of each image and caption; see ``run``."""
        joint = _checked(encoder)
        with remembering():
            before = self.retrieval.evaluate(encoder)
            embedded = self.retrieval.embed(encoder)
        options, correct = self.retrieval.options, self.retrieval.correct
        candidates = match_candidates(embedded, correct, options.limit is None)
        rows = candidates.caption_rows.tolist()
        texts = [embedded.captions[row] for row in rows]
        tokenizer = self.retrieval.tokenizer or tokenizer_of(encoder)
        images = image_tokens(joint, self.retrieval.data, options)
        words = text_tokens(joint, tokenizer, texts, options)
        with evaluating(joint, options.precision):
            after, seconds = self._directions(joint, candidates, images, words)
        metrics = {name: v for part in after for name, v in outcome_metrics(part).items()}
        return Evaluation({**before.metrics, **metrics, **seconds}, (*before.outcomes, *after))

    def _directions(
        self,
        joint: JointEncoder,
        candidates: Candidates,
        images: TokenSequence,
        texts: TokenSequence,
    ) -> tuple[list[Outcomes], dict[str, float]]:
        """Return the outcomes of both directions, and the seconds per query of each."""

        def of_images(pairs: Tensor) -> Tensor:
            return pair_scores(joint, images, texts, pairs)

        def of_texts(pairs: Tensor) -> Tensor:
            return pair_scores(joint, images, texts, pairs.flip(1))

        found, seconds = [], {}
        ways: Sequence[tuple[str, Any, Any, Any, _Score, Any, Any]] = (
            ("image_to_text", candidates.images, candidates.texts, candidates.pairs, of_images,
             candidates.image_keys, candidates.image_keys),
            ("text_to_image", candidates.texts, candidates.images, candidates.pairs.flip(1),
             of_texts, candidates.text_keys, candidates.text_groups),
        )  # fmt: skip
        for name, queries, others, pairs, score, keys, groups in ways:
            timed = _Timed(score)
            ranks = reranked_pair_ranks(queries, others, pairs, self.num_best, timed)
            prefix = f"{PREFIX}{name}/"
            seconds[f"{prefix}seconds_per_query"] = timed.seconds / len(queries)
            found.append(retrieval_outcomes(ranks, keys, groups, prefix, self.retrieval.ks))
        return found, seconds


@final
class _Timed:
    """A function that adds up the seconds of its calls; it returns when its result is there."""

    def __init__(self, score: _Score) -> None:
        self._score, self.seconds = score, 0.0

    def __call__(self, pairs: Int64[Tensor, "pairs 2"]) -> Float[Tensor, " pairs"]:
        """Score pairs."""
        begin = time.perf_counter()
        scores = self._score(pairs)
        self.seconds += time.perf_counter() - begin
        return scores


def _checked(encoder: Any) -> JointEncoder:
    if not isinstance(encoder, JointEncoder) or {*encoder.fused_names} != {"image", "text"}:
        raise ConfigError(
            f"rerank: expected an encoder with a fusion of images and texts, got "
            f"{type(encoder).__name__}; train one with clipkit.models.with_fusion"
        )
    return encoder
