"""Captions with a fact about a concept that they mention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import final

from clipkit.data.text.captions import Candidate, CaptionPicker, TextField, checked_weights
from clipkit.data.text.facts import DEFINITION, FactTable, as_table, with_fact
from clipkit.errors import ConfigError


@final
class KnowledgeCaptions(CaptionPicker):
    """Captions of another picker, some of them with a fact about a concept in them.

    After K-LITE (Shen et al. 2022, arXiv:2204.09222). A caption that mentions no concept of the
    table stays as it is. If it mentions several, or a concept has several facts, one of them is
    selected.

    Args:
        facts: Table of facts, or the path of one; see ``FactTable.from_file``.
        captions: Picker of the captions; None for the member ``txt``. ``LabelTemplates`` makes
            captions of labels.
        probability: Share of the captions with a concept that get a fact.
        kinds: Weight of each kind of facts; None for definitions only. A kind that a concept lacks
            is ignored.

    Raises:
        ConfigError: If the probability is not between 0 and 1, or the table has no such kind.
        DataError: If the table cannot be read.

    Examples:
        >>> table = FactTable([Concept("cello", {"definition": "a large string instrument"})])
        >>> pick = KnowledgeCaptions(table, probability=1.0)
        >>> pick({"txt": b"a cello on a chair"}, np.random.default_rng(0))
        'a cello on a chair, a large string instrument'
    """

    def __init__(
        self,
        facts: FactTable | str,
        captions: CaptionPicker | None = None,
        probability: float = 0.5,
        kinds: dict[str, float] | None = None,
    ) -> None:
        if not 0 <= probability <= 1:
            raise ConfigError(f"probability: expected a number from 0 to 1, got {probability}")
        self.captions = captions or TextField()
        self.source = self.captions.source
        self.probability = probability
        self.kinds = checked_weights(kinds or {DEFINITION: 1.0}, "kinds")
        self.table = as_table(facts)
        self.table.checked_kinds(self.kinds)
        self.digest = self.table.digest  # identifies the captions where pickers are compared

    @property
    def members(self) -> frozenset[str] | None:
        """See `CaptionPicker.members`."""
        return self.captions.members

    def candidates(self, members: Mapping[str, bytes]) -> list[Candidate]:
        """See `CaptionPicker.candidates`."""
        return [
            candidate
            for caption in self.captions.candidates(members)
            for candidate in self._with_facts(caption)
        ]

    def _with_facts(self, caption: Candidate) -> Iterator[Candidate]:
        """Yield a caption as it is and with each fact; the weights sum to that of the caption."""
        facts = [
            (concept.facts[kind], weight)
            for concept in self.table.concepts_in(caption.text)
            for kind, weight in self.kinds.items()
            if kind in concept.facts and weight > 0
        ]
        share = self.probability if facts else 0.0
        if share < 1:
            yield caption._replace(weight=caption.weight * (1 - share))
        total = sum(weight for _, weight in facts)
        for fact, weight in facts if share > 0 else ():
            yield caption._replace(
                text=with_fact(caption.text, fact),
                weight=caption.weight * share * weight / total,
            )
