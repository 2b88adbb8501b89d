"""The data page: facts with thumbnails, ready for the template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from clipkit.collection import CollectionImages
from clipkit.curation.overview.caption_facts import CaptionFacts, CountedText
from clipkit.curation.overview.cluster_facts import ClusterFacts
from clipkit.curation.overview.data_facts import DataFacts
from clipkit.curation.overview.duplicate_facts import APPEARANCE, EMBEDDING, FILE
from clipkit.curation.overview.pair_facts import QUANTILES, MismatchedPair, PairFacts
from clipkit.curation.thumbnails import CollectionThumbnails
from clipkit.evaluation.report.content import Fact, Thumbnail
from clipkit.evaluation.report.numbers import grouped, percent
from clipkit.evaluation.report.sections.charts import similarity_plot
from clipkit.evaluation.report.sections.plot import Plot, Values

MAX_CLUSTERS: Final = 64
"""Clusters with images on the page; stats.json has all."""
_SMALLEST_SHARE: Final = 0.001
_DUPLICATES: Final = {
    FILE: "Equal files",
    APPEARANCE: "Equal appearance",
    EMBEDDING: "Similar embeddings",
}


@dataclass(frozen=True, slots=True)
class ClusterCard:
    """A cluster on the page."""

    title: str  # its most typical words
    notes: tuple[str, ...]  # size, spread and scores
    words: tuple[CountedText, ...]
    classes: str
    nearest: tuple[Thumbnail, ...]
    farthest: tuple[Thumbnail, ...]


@dataclass(frozen=True, slots=True)
class PairCard:
    """A pair that probably does not belong together, and the image that fits the caption best."""

    caption: str
    image: Thumbnail
    key: str
    score: float
    best: Thumbnail
    best_score: float
    note: str


@dataclass(frozen=True, slots=True)
class DuplicateCard:
    """Samples that show the same image."""

    title: str
    images: tuple[tuple[Thumbnail, str], ...]  # with the key
    num_more: int


@dataclass(frozen=True, slots=True)
class DuplicatePanel:
    """Duplicates of one kind."""

    id: str
    title: str
    note: str
    cards: tuple[DuplicateCard, ...]


@dataclass(frozen=True, slots=True)
class DataPage:
    """Content of the data page, in addition to numbers and histograms.

    Args:
        facts: Totals.
        clusters: Clusters, the largest first.
        num_more_clusters: Number of clusters that are not shown.
        score_plot: Scores of pairs and of random pairs; None without scores.
        score_facts: Numbers of the scores.
        mismatched: Pairs with the lowest scores.
        duplicates: Duplicates of each kind that was found.
        caption_facts: Numbers of the captions.
        caption_tables: Tables about captions by their title.
    """

    facts: tuple[Fact, ...]
    clusters: tuple[ClusterCard, ...]
    num_more_clusters: int
    score_plot: Plot | None
    score_facts: tuple[Fact, ...]
    mismatched: tuple[PairCard, ...]
    duplicates: tuple[DuplicatePanel, ...]
    caption_facts: tuple[Fact, ...]
    caption_tables: Mapping[str, Values]


def data_page(
    facts: DataFacts,
    images: CollectionImages,
    on_image: Callable[[int, int], None] | None = None,
) -> DataPage:
    """Return the content of the page; its images are read from the shards.

    Args:
        facts: What the data hold.
        images: Image files of the collection.
        on_image: Called after each image with the numbers of read images and of all; None for no
            call.

    Examples:
        >>> collection = Collection("collection")
        >>> page = data_page(describe_data(collection, 2), CollectionImages(collection))
        >>> page.facts[0].value
        '8'
    """
    captions = {row: sample.captions for row, sample in facts.samples.items()}
    thumbnails = CollectionThumbnails(images, captions)
    rows = _shown_rows(facts)
    for number, row in enumerate(rows, start=1):
        thumbnails[row]  # read in the order of the files
        if on_image is not None:
            on_image(number, len(rows))
    pairs = facts.pairs
    return DataPage(
        facts=_totals(facts, thumbnails.num_unreadable),
        clusters=tuple(
            _cluster_card(cluster, facts.num_samples, thumbnails)
            for cluster in facts.clusters[:MAX_CLUSTERS]
        ),
        num_more_clusters=max(0, len(facts.clusters) - MAX_CLUSTERS),
        score_plot=None if pairs is None else similarity_plot(pairs.histogram),
        score_facts=() if pairs is None else _score_facts(pairs),
        mismatched=()
        if pairs is None
        else tuple(_pair_card(pair, facts, thumbnails) for pair in pairs.mismatched),
        duplicates=tuple(_duplicate_panels(facts, thumbnails)),
        caption_facts=_caption_facts(facts.captions, facts.num_samples),
        caption_tables=_caption_tables(facts.captions),
    )


def _shown_rows(facts: DataFacts) -> list[int]:
    """Return the rows whose images are on the page, in the order of the files."""
    rows = {row for each in facts.clusters[:MAX_CLUSTERS] for row in each.nearest + each.farthest}
    rows |= {row for kind in facts.duplicates for group in kind.largest for row in group.rows}
    named = () if facts.pairs is None else facts.pairs.mismatched
    return sorted(rows | {row for pair in named for row in (pair.row, pair.best_row)})


def _totals(facts: DataFacts, num_unreadable: int) -> tuple[Fact, ...]:
    without = f"{grouped(facts.num_without_embedding)} without an embedding"
    unread = f"{num_unreadable} images of this page cannot be read" if num_unreadable else ""
    return (
        Fact("images", grouped(facts.num_samples), without if facts.num_without_embedding else ""),
        Fact("captions", grouped(facts.captions.num_captions)),
        Fact("clusters", grouped(len(facts.clusters)), unread),
        Fact("model of the embeddings", facts.model),
    )


def _cluster_card(
    cluster: ClusterFacts, num_samples: int, thumbnails: CollectionThumbnails
) -> ClusterCard:
    notes = [
        f"{grouped(cluster.size)} images, {_share(cluster.size / num_samples)}",
        f"similarity to the centre {cluster.mean_similarity:.2f}, "
        f"least {cluster.least_similarity:.2f}",
    ]
    if cluster.mean_score is not None:
        notes.append(f"mean score {cluster.mean_score:.3f}")
    shares = [f"{each.text} {_share(each.count / cluster.size)}" for each in cluster.classes]
    return ClusterCard(
        title=", ".join(word.text for word in cluster.words[:3]) or "no typical words",
        notes=tuple(notes),
        words=cluster.words,
        classes=", ".join(shares),
        nearest=tuple(thumbnails[row] for row in cluster.nearest),
        farthest=tuple(thumbnails[row] for row in cluster.farthest),
    )


def _score_facts(pairs: PairFacts) -> tuple[Fact, ...]:
    places = {quantile: place for place, quantile in enumerate(QUANTILES)}
    own, others = pairs.quantiles, pairs.random_quantiles
    return (
        Fact("median score", f"{own[places[0.5]]:.3f}", f"random pairs {others[places[0.5]]:.3f}"),
        Fact("5 % of the pairs are below", f"{own[places[0.05]]:.3f}"),
        Fact("5 % of the pairs are above", f"{own[places[0.95]]:.3f}"),
        Fact(
            "mismatched pairs, at most about",
            f"{percent(pairs.estimated_mismatched_share)} %",
            "twice the share below the median of random pairs",
        ),
    )


def _pair_card(
    pair: MismatchedPair, facts: DataFacts, thumbnails: CollectionThumbnails
) -> PairCard:
    others = max(1, facts.num_samples - facts.num_without_embedding - 1)
    return PairCard(
        caption=facts.caption(pair.row, pair.caption),
        image=thumbnails[pair.row],
        key=facts.samples[pair.row].key,
        score=pair.score,
        best=thumbnails[pair.best_row],
        best_score=pair.best_score,
        note=f"{grouped(pair.num_better_images)} of {grouped(others)} other images "
        f"({_share(pair.num_better_images / others)}) fit this caption better",
    )


def _duplicate_panels(
    facts: DataFacts, thumbnails: CollectionThumbnails
) -> Sequence[DuplicatePanel]:
    panels = []
    for kind in facts.duplicates:
        cards = [
            DuplicateCard(
                f"{grouped(group.size)} samples",
                tuple((thumbnails[row], facts.samples[row].key) for row in group.rows),
                group.size - len(group.rows),
            )
            for group in kind.largest
        ]
        title = _DUPLICATES[kind.kind]
        counts = f"{grouped(kind.num_copies)} copies in {grouped(kind.num_groups)} groups"
        text = f"{title}: {counts if kind.num_copies else 'none'} (kept: {kind.method})"
        notes = kind.notes if kind.num_copies else ()
        panels.append(DuplicatePanel(kind.kind, title, "; ".join((text, *notes)), tuple(cards)))
    return panels


def _caption_facts(captions: CaptionFacts, num_samples: int) -> tuple[Fact, ...]:
    num = captions.num_captions
    lengths = [length for length, n in captions.words.items() for _ in range(n)]
    with_captions = max(1, num_samples - captions.num_samples_without)
    facts = [
        Fact("captions per captioned image", f"{num / with_captions:.1f}"),
        Fact("images without a caption", grouped(captions.num_samples_without)),
    ]
    if num:
        repeated = percent(captions.num_repeated / num)
        facts += [
            Fact("median length", f"{lengths[num // 2]} words"),
            Fact("repeated captions", f"{repeated} %", "words of an earlier caption"),
        ]
    return tuple(facts)


def _caption_tables(captions: CaptionFacts) -> dict[str, Values]:
    """Return the tables that have rows."""
    num = max(1, captions.num_captions)

    def rows(items: Sequence[CountedText]) -> list[list[str]]:
        return [[each.text, grouped(each.count), _share(each.count / num)] for each in items]

    scripts = [CountedText(script, count) for script, count in captions.scripts.items()]
    suspicious = [
        [kind, grouped(each.count), each.text] for kind, each in captions.suspicious.items()
    ]
    tables = {
        "Scripts": Values(["script", "captions", "share"], rows(scripts)),
        "Repeated captions": Values(["caption", "number", "share"], rows(captions.frequent)),
        "Beginnings": Values(["first three words", "captions", "share"], rows(captions.beginnings)),
        "Phrases": Values(["four words", "captions", "share"], rows(captions.phrases)),
        "Captions that may describe no image": Values(["kind", "captions", "example"], suspicious),
    }
    return {title: table for title, table in tables.items() if table.rows}


def _share(share: float) -> str:
    """Return a share in percent, in one piece."""
    text = percent(share) if share >= _SMALLEST_SHARE else f"<{percent(_SMALLEST_SHARE)}"
    return f"{text}\N{NO-BREAK SPACE}%"
