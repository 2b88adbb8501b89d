"""The page of search: one image, its labels, links and keys."""

from __future__ import annotations

import json

import pytest

from clipkit.search import QueryPart
from tests.helpers.page_server import CLASS_NAMES, HOSTILE

pytestmark = pytest.mark.browser


def test_an_image_is_opened_with_the_keyboard(page, expected):
    page.search_for("green")
    order = expected(QueryPart(text="green"))
    page.wait_for_rows(order)
    page.press("ArrowDown")
    page.press("ArrowRight")
    assert page.value("Number(document.activeElement.dataset.row)") == order[1]
    page.press("Enter")
    page.wait_for("document.querySelectorAll('#detail .facts div').length > 4")
    assert page.texts(".facts code")[0] == f"key-{order[1]:03d}"
    assert f"image={order[1]}" in page.value("location.hash")
    page.press("ArrowRight")
    page.wait_for(f"document.querySelector('.facts code')?.innerText === 'key-{order[2]:03d}'")
    page.press("ArrowLeft")
    page.wait_for(f"document.querySelector('.facts code')?.innerText === 'key-{order[1]:03d}'")

    # The keyboard does not leave the dialog.
    for _ in range(20):
        page.press("Tab")
        assert page.value("document.activeElement.closest('dialog, body').matches('#detail, body')")
    page.press("Escape")
    page.wait_for("!document.querySelector('dialog[open]')")
    page.wait_for(f"Number(document.activeElement.dataset.row) === {order[1]}")
    assert "image" not in page.value("location.hash")


def test_the_open_image_can_be_searched_and_labelled(page, expected):
    page.search_for("green")
    row = expected(QueryPart(text="green"))[0]
    page.click("#grid li:first-child .card")
    page.click(".labels .secondary")  # the classes of the data
    page.wait_for("document.querySelectorAll('.label-scores li').length === 4")
    assert sorted(page.texts(".label-name")) == sorted(CLASS_NAMES)
    page.click(".actions .secondary")
    parts = QueryPart(text="green"), QueryPart(row=row)
    page.wait_for_rows(expected(*parts))
    page.click("#grid li:first-child .card")
    page.click(".actions .primary")
    page.wait_for("document.querySelectorAll('#parts li').length === 1")


def test_an_image_outside_of_the_results_has_neighbours(page, page_url):
    page.visit(page_url + "#image=58")
    page.wait_for("document.querySelector('.facts code')?.innerText === 'key-058'")
    page.press("ArrowRight")
    page.wait_for("document.querySelector('.facts code')?.innerText === 'key-059'")
    page.press("ArrowRight")
    page.wait_for("document.querySelector('#live').innerText === 'This is the last image'")
    assert page.texts(".facts code")[0] == "key-059"


def test_captions_are_never_markup(page, page_url):
    page.visit(page_url + "#image=0")
    page.wait_for("document.querySelectorAll('#detail .captions li').length === 2")
    assert page.texts("#detail .captions li")[0] == HOSTILE
    page.press("Escape")
    page.visit(page_url + "#part=1%3Arow%3A4&q=" + "%3Cimg+src%3Dx+onerror%3Dalert(1)%3E")
    page.wait_for("document.querySelectorAll('#grid .card').length >= 48")
    page.wait_for("(scrollTo(0, 1e6), document.querySelectorAll('#grid .card').length === 59)")
    assert HOSTILE in page.texts("#grid .caption")
    assert page.count("img[onerror], b, i") == 0


def test_a_link_opens_the_same_page(page, page_url):
    hash_text = "#q=red&part=-0.5%3Atext%3Asquare&filter=width_pixels%3E%3D40&image=4"
    page.visit(page_url + hash_text)
    page.wait_for("document.querySelector('#detail[open] .facts code')?.innerText === 'key-004'")
    page.press("Escape")
    page.wait_for("!document.querySelector('dialog[open]')")
    page.wait_for("document.querySelectorAll('#grid .card').length === 30")
    before = page.rows()
    page.visit(page_url + page.value("location.hash"))
    page.wait_for("document.querySelectorAll('#grid .card').length === 30")
    assert page.rows() == before
    assert page.texts("#active-filters .chip-text") == ["Width (pixels) ≥ 40"]


@pytest.mark.parametrize("fragment", ["#part=0:row:1&part=x&filter=%E0%A4%A&image=-1", "#%%%&q=%"])
def test_a_damaged_link_still_opens(page, page_url, fragment):
    page.visit(page_url + fragment)
    page.wait_for("document.querySelectorAll('.card').length > 0")


def test_an_address_holds_every_query(page):
    """Column names with operators in them, texts with all signs, weights: nothing is lost."""
    state = {
        "text": "50 % & more #1 + „ä“ <b>",
        "parts": [
            {"kind": "text", "value": "a:b=c&d\nsecond line", "weight": -0.3},
            {"kind": "row", "value": 12, "weight": 1.7},
        ],
        "filters": [
            {"column": "json:a~b>=c!", "operator": "<=", "value": "=1:2&3"},
            {"column": "captions", "operator": "!~", "value": "~%"},
        ],
        "find": "sound",
        "view": "map",
        "image": 7,
    }
    read = page.value(
        f"import('/static/state.js').then((m) => m.fromHash(m.toHash({json.dumps(state)})))"
    )
    assert read == state


def test_keys_of_the_page(page):
    page.press("?", shift=True)
    page.wait_for("document.querySelector('#shortcuts').open")
    page.press("Escape")
    page.wait_for("!document.querySelector('#shortcuts').open")
    page.press("/")
    assert page.value("document.activeElement.id") == "text"
    assert page.value("document.activeElement.value") == ""
