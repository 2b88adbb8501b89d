"""A data page with everything that it can show, and hostile captions."""

from __future__ import annotations

from clipkit.curation.overview.caption_facts import CountedText
from clipkit.curation.overview.page_content import (
    ClusterCard,
    DataPage,
    DuplicateCard,
    DuplicatePanel,
    PairCard,
)
from clipkit.curation.overview.stats_page import render_page
from clipkit.evaluation.report.content import Fact, SimilarityHistogram, Thumbnail
from clipkit.evaluation.report.sections.charts import similarity_plot
from clipkit.evaluation.report.sections.plot import Values
from tests.helpers.report_content import HOSTILE, LONG_WORD

PIXEL = Thumbnail(
    b"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 2 2'><rect width='2' height='2'/></svg>",
    HOSTILE,
    "image/svg+xml",
)


def full_data_page() -> str:
    words = (CountedText(HOSTILE, 12), CountedText(LONG_WORD, 3), CountedText("dog", 2))
    cluster = ClusterCard(
        f"{HOSTILE}, {LONG_WORD}", ("9 images, 3.0 %", "mean score 0.3"), words,
        f"{LONG_WORD} 60 %, {HOSTILE} 40 %", (PIXEL,) * 6, (PIXEL,) * 3,
    )  # fmt: skip
    pair = PairCard(HOSTILE, PIXEL, LONG_WORD, -0.1, PIXEL, 0.4, "9 of 99 other images (9 %)")
    copies = DuplicateCard("12 samples", ((PIXEL, HOSTILE), (PIXEL, LONG_WORD)), 10)
    panels = tuple(
        DuplicatePanel(kind, f"Equal {kind}s", f"{kind}: {HOSTILE}", cards)
        for kind, cards in (("file", (copies,)), ("embedding", ()))
    )
    table = Values(["caption", "number", "share"], [[HOSTILE, "3", "1 %"], [LONG_WORD, "2", "1 %"]])
    data = DataPage(
        facts=(Fact("images", "12"), Fact("model of the embeddings", LONG_WORD, HOSTILE)),
        clusters=(cluster,) * 14,
        num_more_clusters=3,
        score_plot=similarity_plot(SimilarityHistogram([-1, 0, 1], [0.2, 0.8], [0.7, 0.3])),
        score_facts=(Fact("median score", "0.3", "random pairs 0.0"),),
        mismatched=(pair,) * 3,
        duplicates=panels,
        caption_facts=(Fact("median length", "9 words"),),
        caption_tables={"Repeated captions": table, "Phrases": table},
    )
    return render_page({"num_samples": 12}, {"Image width, pixels": [3, 4]}, data)
