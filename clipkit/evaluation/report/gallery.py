"""What the model finds for a text, and for a picture."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Final

from clipkit.evaluation.report.data import CaptionHit, ImageQuery, Picture, PictureHit, TextQuery
from clipkit.evaluation.report.markup import Attributes, Markup, join, tag
from clipkit.evaluation.report.numbers import grouped

_OUTCOMES: Final = (("all", "All"), ("first", "First"), ("shown", "Close"), ("missed", "Missed"))


def render_gallery(
    text_queries: Sequence[TextQuery], image_queries: Sequence[ImageQuery], note: str
) -> Markup:
    """Both galleries with one set of filters; without script they stand one below the other."""
    panels = []
    shown = [len(query.hits) for query in text_queries]
    shown += [len(query.hits) for query in image_queries]
    if text_queries:
        cards = [_text_card(query) for query in text_queries]
        panels.append(("texts", "Text to pictures", cards))
    if image_queries:
        cards = [_image_card(query) for query in image_queries]
        panels.append(("pictures", "Picture to captions", cards))
    tabs = [
        tag("button", {"type": "button", "role": "tab", "id": f"tab-{name}",
                       "aria-controls": f"panel-{name}", "aria-selected": "false"}, title)
        for name, title, _ in panels
    ]  # fmt: skip
    bodies = [
        tag("div", {"class": "panel", "id": f"panel-{name}", "role": "tabpanel",
                    "aria-labelledby": f"tab-{name}"},
            tag("h3", {"class": "noscript"}, title), tag("div", {"class": "cards"}, *cards))
        for name, title, cards in panels
    ]  # fmt: skip
    return join(
        [
            tag("div", {"class": "controls", "hidden": True},
                tag("div", {"role": "tablist", "aria-label": "Direction"}, *tabs),
                _filters(max(shown))),
            *bodies,
            tag("p", {"class": "none-left", "hidden": True}, "No example fits this filter."),
            tag("button", {"type": "button", "class": "more", "hidden": True}, "Show all"),
            tag("p", {"class": "note"}, note) if note else "",
            tag("p", {"class": "quiet", "role": "status"}),
        ]
    )  # fmt: skip


def data_uri(picture: Picture) -> str:
    """The picture as an address that needs no network."""
    return f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode()}"


def _filters(num_shown: int) -> Markup:
    choices = []
    hints = {"shown": f"ranks 2 to {num_shown}", "missed": f"ranks beyond {num_shown}"}
    for value, title in _OUTCOMES:
        radio: Attributes = {
            "type": "radio",
            "name": "outcome",
            "value": value,
            "checked": value == "all",
        }
        count = tag("span", {"class": "count"})
        choices.append(
            tag(
                "label",
                {"title": hints.get(value, "")},
                tag("input", radio),
                tag("span", None, title, " ", count),
            )
        )
    search = {
        "type": "search",
        "placeholder": "Find a word",
        "aria-label": "Find a word in the examples",
    }
    legend = tag("legend", {"class": "quiet"}, "Where the right answer stands")
    return tag("form", None, tag("fieldset", None, legend, *choices), tag("input", search))


def _text_card(query: TextQuery) -> Markup:
    missed = _image(query.answer) if query.rank > len(query.hits) else Markup()
    return tag(
        "article",
        {"class": "card", "data-outcome": _outcome(query.rank, len(query.hits))},
        tag("header", None, tag("h4", {"class": "said"}, query.text),
            tag("div", {"class": "sought"}, missed, _rank(query.rank, len(query.hits)))),
        tag("ol", {"class": "pictures"}, *[_picture_hit(hit) for hit in query.hits]),
    )  # fmt: skip


def _picture_hit(hit: PictureHit) -> Markup:
    return tag(
        "li",
        {"class": "hit" if hit.is_match else "other"},
        _image(hit.picture),
        tag("span", {"class": "similarity"}, f"{hit.similarity:.2f}"),
        _badge() if hit.is_match else "",
    )


def _image_card(query: ImageQuery) -> Markup:
    best = max((abs(hit.similarity) for hit in query.hits), default=1.0) or 1.0
    rows = [_caption_hit(hit, best) for hit in query.hits]
    missed = Markup()
    if query.rank > len(query.hits):
        missed = tag(
            "p", {"class": "lacking"}, "Right: ", tag("span", {"class": "said"}, query.answer)
        )
    return tag(
        "article",
        {"class": "card from-picture", "data-outcome": _outcome(query.rank, len(query.hits))},
        tag("div", {"class": "asked"}, _image(query.picture), _rank(query.rank, len(query.hits))),
        tag("ol", {"class": "captions"}, *rows),
        missed,
    )


def _caption_hit(hit: CaptionHit, best: float) -> Markup:
    width = 100 * max(hit.similarity, 0.0) / best
    return tag(
        "li",
        {"class": "hit" if hit.is_match else "other"},
        tag("span", {"class": "said"}, hit.caption),
        tag("span", {"class": "similarity"}, f"{hit.similarity:.2f}"),
        tag("i", {"class": "bar", "style": f"width:{width:.1f}%", "aria-hidden": "true"}),
        _badge() if hit.is_match else "",
    )


def _image(picture: Picture) -> Markup:
    source = {"src": data_uri(picture), "alt": picture.caption, "title": picture.caption}
    return tag("img", {**source, "decoding": "async"})


def _badge() -> Markup:
    check = tag("svg", {"viewBox": "0 0 12 12", "aria-hidden": "true"},
                tag("path", {"d": "M2.5 6.4 5 8.8 9.6 3.4"}))  # fmt: skip
    return tag("span", {"class": "badge"}, check, tag("span", {"class": "quiet"}, "right answer"))


def _rank(rank: int, num_shown: int) -> Markup:
    return tag("span", {"class": f"rank {_outcome(rank, num_shown)}"},
               tag("span", None, "rank "), grouped(rank))  # fmt: skip


def _outcome(rank: int, num_shown: int) -> str:
    if rank == 1:
        return "first"
    return "shown" if rank <= num_shown else "missed"
