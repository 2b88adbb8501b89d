"""The page of search in a real browser, against a real server: queries and filters."""

from __future__ import annotations

import base64

import pytest

from clipkit.search import QueryPart
from tests.helpers.factories import image_bytes

pytestmark = pytest.mark.browser


def test_a_text_finds_images(page, expected):
    page.search_for("a red square")
    page.wait_for_rows(expected(QueryPart(text="a red square")))
    assert page.texts("#summary")[0].startswith("60 images compared in")
    assert "q=a+red+square" in page.value("location.hash")


def test_more_results_come_with_scrolling(page, expected):
    page.search_for("blue")
    page.wait_for("document.querySelectorAll('#grid .card').length >= 48")
    page.wait_for("(scrollTo(0, 1e6), document.querySelectorAll('#grid .card').length === 60)")
    assert page.rows() == expected(QueryPart(text="blue"), count=60)
    assert page.value("document.querySelector('#more').hidden")


def test_a_dropped_image_finds_itself(page, expected, tmp_path):
    file = tmp_path / "mine.jpg"
    file.write_bytes(image_bytes("blue", (96, 16), seed=2))
    page.drop(file, 600, 600)
    page.wait_for_rows(expected(QueryPart(image=file.read_bytes())))
    assert page.value("document.querySelector('#parts img').src.startsWith('blob:')")
    assert page.value("location.hash") == ""  # an upload is on this server only

    # Its labels, in a dialog of its own.
    page.click("#parts .chip-image")
    page.click("#labels")
    page.type("red, blue, red")
    page.press("Enter")
    page.wait_for("document.querySelectorAll('.label-scores li').length === 2")
    shares = [float(text.rstrip("%")) for text in page.texts(".label-score")]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    page.press("Escape")
    assert page.count("dialog[open]") == 0


def test_a_picked_and_a_pasted_image_are_combined(page, expected, tmp_path):
    file = tmp_path / "mine.png"
    file.write_bytes(image_bytes("green", (30, 30), format="PNG"))
    page.choose_file("#file", file)
    page.wait_for("document.querySelectorAll('#parts li').length === 1")
    content = base64.b64encode(file.read_bytes()).decode()
    page.value(
        f"""(() => {{
          const bytes = Uint8Array.from(atob("{content}"), (letter) => letter.charCodeAt(0));
          const clipboardData = new DataTransfer();
          clipboardData.items.add(new File([bytes], "pasted.png", {{ type: "image/png" }}));
          const event = new ClipboardEvent("paste", {{ clipboardData, bubbles: true }});
          document.querySelector("#text").dispatchEvent(event);
        }})()"""
    )
    page.wait_for("document.querySelectorAll('#parts li').length === 2")
    part = QueryPart(image=file.read_bytes())
    page.wait_for_rows(expected(part, part))


def test_a_file_that_is_no_image_is_explained(page, tmp_path):
    file = tmp_path / "notes.png"
    file.write_text("no image")
    page.drop(file, 600, 600)
    page.wait_for("!document.querySelector('#notice').hidden")
    assert "The image was not accepted" in page.texts("#notice")[0]
    page.click("#notice .icon")
    file = tmp_path / "notes.txt"
    file.write_text("a text")
    page.drop(file, 600, 600)
    page.wait_for("document.querySelector('#notice').innerText.includes('is neither an image')")
    page.browser.complaints.clear()  # the browser reports the status 415 or 422


def test_texts_are_combined_with_weights_and_without(page, expected):
    page.click("#text")
    page.type("red")
    page.click("#combine")
    page.type("square")
    page.press("Enter")
    page.wait_for_rows(expected(QueryPart(text="red"), QueryPart(text="square")))

    page.click("#parts li:nth-child(2) .sign")
    page.wait_for_rows(expected(QueryPart(text="red"), QueryPart(-1, text="square")))
    assert page.texts("#parts .sign") == ["with", "without"]
    assert page.value("document.activeElement.dataset.control") == "sign-1"

    page.press("Tab")
    for _ in range(3):
        page.press("ArrowLeft")
    page.wait_for_rows(expected(QueryPart(text="red"), QueryPart(-0.7, text="square")))
    assert page.texts("#parts .weight") == ["1.0", "0.7"]

    page.click("#parts li:nth-child(2) .icon")
    page.wait_for_rows(expected(QueryPart(text="red")))
    page.click("#parts li .icon")
    page.wait_for("!document.querySelector('#start').hidden")


def test_more_like_this_and_the_back_button(page, expected):
    page.search_for("yellow")
    first = expected(QueryPart(text="yellow"))
    page.wait_for_rows(first)
    page.click("#grid li:nth-child(3) .similar")
    page.wait_for_rows(expected(QueryPart(row=first[2])))
    assert page.count("#parts li") == 1
    page.value("history.back()")
    page.wait_for_rows(first)
    assert page.value("document.querySelector('#text').value") == "yellow"


def test_filters_on_classes_numbers_and_texts(page):
    page.search_for("square")
    page.click("#filters-button")
    page.wait_for("document.querySelectorAll('[data-column=label] option').length === 5")
    page.value(
        """(() => {
          const select = document.querySelector("[data-column=label]");
          select.value = "1";
          select.dispatchEvent(new Event("change", { bubbles: true }));
        })()"""
    )
    page.wait_for("document.querySelector('#summary').innerText.startsWith('15 images')")
    assert {row % 4 for row in page.rows()} == {1}
    assert page.texts("#active-filters .chip-text") == ["Class is <b>green</b>"]
    page.click("#active-filters .icon")
    page.wait_for("document.querySelector('#summary').innerText.startsWith('60 images')")

    page.click("[data-column=width_pixels][data-operator='>=']")
    page.type("40")
    page.press("Enter")
    page.wait_for("document.querySelector('#summary').innerText.startsWith('30 images')")
    assert {row % 4 for row in page.rows()} == {0, 2}
    page.click("[data-column='json:place']")
    page.type("no such place")
    page.press("Enter")
    page.wait_for("document.querySelector('#start').innerText.includes('Nothing passes')")
    page.click("#start .secondary")
    page.wait_for("document.querySelector('#summary').innerText.startsWith('60 images')")
    assert page.value("document.querySelector('[data-column=\"json:place\"]').value") == ""
