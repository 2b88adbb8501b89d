"""The page of search in a real browser, against a real server: what a person does with it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from clipkit.search import QueryPart, Searcher
from clipkit.search.serving import create_app
from clipkit.search.serving.load_service import load_service
from clipkit.search.serving.options import ServeOptions
from tests.helpers import tiny
from tests.helpers.chromium import Chromium, require_chromium
from tests.helpers.factories import image_bytes
from tests.helpers.page_driver import PageDriver
from tests.helpers.page_server import CLASS_NAMES, HOSTILE, running, write_page_collection

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def collection(tmp_path_factory) -> Path:
    return write_page_collection(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def searcher(collection):
    return Searcher(collection, tiny.encoder().eval())


@pytest.fixture(scope="module")
def url(collection):
    options = ServeOptions()
    encoder = tiny.encoder().eval()
    app = create_app(
        collection, load=lambda report: load_service(collection, options, report, encoder)
    )
    with running(app) as (address, _):
        yield address


@pytest.fixture(scope="module")
def driver():
    with Chromium(require_chromium()) as chromium:
        yield PageDriver(chromium)


@pytest.fixture
def page(driver, url):
    driver.visit(url)
    driver.wait_for("document.querySelectorAll('#start .card').length > 0")
    yield driver
    assert driver.browser.complaints == []
    others = [
        one for one in driver.browser.requests if not one.removeprefix("blob:").startswith(url)
    ]
    assert others == []


def rows(page) -> list[int]:
    cards = "[...document.querySelectorAll('#grid .card')]"
    return page.value(f"{cards}.map((card) => Number(card.dataset.row))")


def expected(searcher, *parts, count=48) -> list[int]:
    return [hit.row for hit in searcher.search(list(parts), num_results=count).hits]


def wait_for_rows(page, wanted) -> None:
    cards = "[...document.querySelectorAll('#grid .card')].map((card) => Number(card.dataset.row))"
    page.wait_for(f"JSON.stringify({cards}.slice(0, {len(wanted)})) === '{_compact(wanted)}'")


def _compact(value) -> str:
    return json.dumps(value, separators=(",", ":"))


def search_for(page, text) -> None:
    page.click("#text")
    page.type(text)
    page.press("Enter")


def test_a_text_finds_images(page, searcher):
    search_for(page, "a red square")
    wait_for_rows(page, expected(searcher, QueryPart(text="a red square")))
    assert page.texts("#summary")[0].startswith("60 images compared in")
    assert "q=a+red+square" in page.value("location.hash")


def test_more_results_come_with_scrolling(page, searcher):
    search_for(page, "blue")
    page.wait_for("document.querySelectorAll('#grid .card').length >= 48")
    page.wait_for("(scrollTo(0, 1e6), document.querySelectorAll('#grid .card').length === 60)")
    assert rows(page) == expected(searcher, QueryPart(text="blue"), count=60)
    assert page.value("document.querySelector('#more').hidden")


def test_a_dropped_image_finds_itself(page, searcher, tmp_path):
    file = tmp_path / "mine.jpg"
    file.write_bytes(image_bytes("blue", (96, 16), seed=2))
    page.drop(file, 600, 600)
    wait_for_rows(page, expected(searcher, QueryPart(image=file.read_bytes())))
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


def test_a_picked_and_a_pasted_image_are_combined(page, searcher, tmp_path):
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
    wait_for_rows(page, expected(searcher, part, part))


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
    page.wait_for("document.querySelector('#notice').innerText.includes('is not an image')")
    page.browser.complaints.clear()  # the browser reports the status 415 or 422


def test_texts_are_combined_with_weights_and_without(page, searcher):
    page.click("#text")
    page.type("red")
    page.click("#combine")
    page.type("square")
    page.press("Enter")
    wait_for_rows(page, expected(searcher, QueryPart(text="red"), QueryPart(text="square")))

    page.click("#parts li:nth-child(2) .sign")
    wait_for_rows(page, expected(searcher, QueryPart(text="red"), QueryPart(-1, text="square")))
    assert page.texts("#parts .sign") == ["with", "without"]
    assert page.value("document.activeElement.dataset.control") == "sign-1"

    page.press("Tab")
    for _ in range(3):
        page.press("ArrowLeft")
    wait_for_rows(page, expected(searcher, QueryPart(text="red"), QueryPart(-0.7, text="square")))
    assert page.texts("#parts .weight") == ["1.0", "0.7"]

    page.click("#parts li:nth-child(2) .icon")
    wait_for_rows(page, expected(searcher, QueryPart(text="red")))
    page.click("#parts li .icon")
    page.wait_for("!document.querySelector('#start').hidden")


def test_more_like_this_and_the_back_button(page, searcher):
    search_for(page, "yellow")
    first = expected(searcher, QueryPart(text="yellow"))
    wait_for_rows(page, first)
    page.click("#grid li:nth-child(3) .similar")
    wait_for_rows(page, expected(searcher, QueryPart(row=first[2])))
    assert page.count("#parts li") == 1
    page.value("history.back()")
    wait_for_rows(page, first)
    assert page.value("document.querySelector('#text').value") == "yellow"


def test_filters_on_classes_numbers_and_texts(page):
    search_for(page, "square")
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
    assert {row % 4 for row in rows(page)} == {1}
    assert page.texts("#active-filters .chip-text") == ["Class is <b>green</b>"]
    page.click("#active-filters .icon")
    page.wait_for("document.querySelector('#summary').innerText.startsWith('60 images')")

    page.click("[data-column=width_pixels][data-operator='>=']")
    page.type("40")
    page.press("Enter")
    page.wait_for("document.querySelector('#summary').innerText.startsWith('30 images')")
    assert {row % 4 for row in rows(page)} == {0, 2}
    page.click("[data-column='json:place']")
    page.type("no such place")
    page.press("Enter")
    page.wait_for("document.querySelector('#start').innerText.includes('No image passes')")
    page.click("#start .secondary")
    page.wait_for("document.querySelector('#summary').innerText.startsWith('60 images')")
    assert page.value("document.querySelector('[data-column=\"json:place\"]').value") == ""


def test_an_image_is_opened_with_the_keyboard(page, searcher):
    search_for(page, "green")
    order = expected(searcher, QueryPart(text="green"))
    wait_for_rows(page, order)
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


def test_the_open_image_can_be_searched_and_labelled(page, searcher):
    search_for(page, "green")
    row = expected(searcher, QueryPart(text="green"))[0]
    page.click("#grid li:first-child .card")
    page.click(".labels .secondary")  # the classes of the data
    page.wait_for("document.querySelectorAll('.label-scores li').length === 4")
    assert sorted(page.texts(".label-name")) == sorted(CLASS_NAMES)
    page.click(".actions .secondary")
    parts = QueryPart(text="green"), QueryPart(row=row)
    wait_for_rows(page, expected(searcher, *parts))
    page.click("#grid li:first-child .card")
    page.click(".actions .primary")
    page.wait_for("document.querySelectorAll('#parts li').length === 1")


def test_a_link_opens_the_same_page(page, url, searcher):
    hash_text = "#q=red&part=-0.5%3Atext%3Asquare&filter=width_pixels%3E%3D40&image=4"
    page.visit(url + hash_text)
    page.wait_for("document.querySelector('#detail[open] .facts code')?.innerText === 'key-004'")
    page.press("Escape")
    page.wait_for("!document.querySelector('dialog[open]')")
    page.wait_for("document.querySelectorAll('#grid .card').length === 30")
    before = rows(page)
    page.visit(url + page.value("location.hash"))
    page.wait_for("document.querySelectorAll('#grid .card').length === 30")
    assert rows(page) == before
    assert page.texts("#active-filters .chip-text") == ["Width (pixels) ≥ 40"]


@pytest.mark.parametrize("fragment", ["#part=0:row:1&part=x&filter=%E0%A4%A&image=-1", "#%%%&q=%"])
def test_a_damaged_link_still_opens(page, url, fragment):
    page.visit(url + fragment)
    page.wait_for("document.querySelectorAll('.card').length > 0")


def test_captions_are_never_markup(page, url):
    page.visit(url + "#image=0")
    page.wait_for("document.querySelectorAll('#detail .captions li').length === 2")
    assert page.texts("#detail .captions li")[0] == HOSTILE
    page.press("Escape")
    page.visit(url + "#part=1%3Arow%3A4&q=" + "%3Cimg+src%3Dx+onerror%3Dalert(1)%3E")
    page.wait_for("document.querySelectorAll('#grid .card').length >= 48")
    page.wait_for("(scrollTo(0, 1e6), document.querySelectorAll('#grid .card').length === 59)")
    assert HOSTILE in page.texts("#grid .caption")
    assert page.count("img[onerror], b, i") == 0


def test_the_map_is_explored_with_mouse_and_keyboard(page):
    page.press("m")
    page.wait_for("document.querySelectorAll('#legend button').length === 4")
    assert page.texts("#legend button")[0].replace("\n", " ").startswith("red")
    page.wait_for("document.querySelector('#plane-text').hidden")
    left, top, width, height = page.box("#plane")
    before = page.browser.screenshot()

    # Some point is under the pointer sooner or later; its thumbnail is shown, a click opens it.
    places = ((left + width * x / 40, top + height * y / 20) for y in range(20) for x in range(40))
    for x, y in places:
        page.mouse("mouseMoved", x, y)
        if page.value("!document.querySelector('#tip').hidden"):
            break
    else:
        pytest.fail("no point of the map is under the pointer")
    page.wait_for("document.querySelector('#tip img').naturalWidth > 0")
    page.click_at(x, y)
    page.wait_for("document.querySelectorAll('#detail .facts div').length > 4")
    page.press("Escape")
    page.wait_for("!document.querySelector('dialog[open]')")

    page.wheel(left + width / 2, top + height / 2, -600)
    page.next_frame()
    assert page.browser.screenshot() != before
    page.click("#plane")
    page.press("Escape")
    page.value("document.querySelector('#plane').focus()")
    page.press("0")
    page.press("ArrowRight")
    page.wait_for("document.querySelector('#live').innerText.startsWith('Image')")
    page.press("Enter")
    page.wait_for("document.querySelectorAll('#detail .facts div').length > 4")


def test_the_map_keeps_the_place_under_the_pointer(page):
    """Geometry of the map: scale, limits, and the next point in a direction."""
    facts = page.value(
        """(async () => {
          const { Camera } = await import("/static/camera.js");
          const { nextPoint, pointAt } = await import("/static/near.js");
          const camera = new Camera(800, 400, [1, 0.5]);
          const corner = camera.toScreen(1, 0.5);
          camera.zoomAt(3, 500, 100);
          const x = (500 - camera.offsetX) / camera.scale;
          const y = (camera.offsetY - 100) / camera.scale;
          camera.zoomAt(2, 500, 100);
          const under = camera.toScreen(x, y);
          camera.move(1e6, -1e6);
          const inSight = camera.toScreen(-1, -1)[0] < 800 && camera.toScreen(1, -1)[1] > 0;
          const points = [[0, 0], [0.2, 0.01], [0.1, 0.3], [-0.5, 0]].map(([x, y]) => ({ x, y }));
          const next = (way) => points.indexOf(nextPoint(points, points[0], way));
          camera.showAll();
          const [left, top] = camera.toScreen(0.1, 0.3);
          return {
            corner, under, inSight,
            ways: [[1, 0], [-1, 0], [0, 1], [0, -1]].map(next),
            at: points.indexOf(pointAt(points, camera, left + 5, top)),
            none: pointAt(points, camera, left + 50, top - 50),
          };
        })()"""
    )
    assert facts["corner"] == [752.0, 24.0]  # the smaller margin of 24 pixels is kept
    assert facts["under"] == pytest.approx([500, 100])
    assert facts["inSight"]
    assert facts["ways"] == [1, 3, 2, 0]
    assert (facts["at"], facts["none"]) == (2, None)


def test_fingers_open_images_and_pinch_the_map(page, url):
    page.browser.call("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    try:
        page.visit(url + "#q=red", 400, 800)
        opened = "document.querySelectorAll('#detail .facts div').length > 4"
        page.tap("#grid li:nth-child(2) .frame", opened)
        page.tap("#detail header .icon:last-child", "!document.querySelector('dialog[open]')")
        page.tap("[data-view=map]", "!document.querySelector('#map-view').hidden")
        page.wait_for("document.querySelector('#plane-text').hidden")
        before = page.browser.screenshot()
        x, y = page.place("#plane")
        page.touch([(x - 20, y), (x - 80, y)], [(x + 20, y), (x + 80, y)])
        page.next_frame()
        assert page.browser.screenshot() != before
    finally:
        page.browser.call("Emulation.setTouchEmulationEnabled", enabled=False)


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
        "view": "map",
        "image": 7,
    }
    read = page.value(
        f"import('/static/state.js').then((m) => m.fromHash(m.toHash({json.dumps(state)})))"
    )
    assert read == state


def test_an_image_outside_of_the_results_has_neighbours(page, url):
    page.visit(url + "#image=58")
    page.wait_for("document.querySelector('.facts code')?.innerText === 'key-058'")
    page.press("ArrowRight")
    page.wait_for("document.querySelector('.facts code')?.innerText === 'key-059'")
    page.press("ArrowRight")
    page.wait_for("document.querySelector('#live').innerText === 'This is the last image'")
    assert page.texts(".facts code")[0] == "key-059"


def test_keys_of_the_page(page):
    page.press("?", shift=True)
    page.wait_for("document.querySelector('#shortcuts').open")
    page.press("Escape")
    page.wait_for("!document.querySelector('#shortcuts').open")
    page.press("/")
    assert page.value("document.activeElement.id") == "text"
    assert page.value("document.activeElement.value") == ""
