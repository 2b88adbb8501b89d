"""The page of search at all widths, light and dark, while it loads, and where something fails."""

from __future__ import annotations

import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from clipkit.errors import DataError
from clipkit.search.collection_map import map_collection
from clipkit.search.serving import create_app
from clipkit.search.serving.load_service import load_service
from clipkit.search.serving.options import Limits, ServeOptions
from tests.helpers import tiny
from tests.helpers.contrast import LOW_CONTRAST
from tests.helpers.page_driver import NAMELESS
from tests.helpers.page_server import LONG_WORD, running, write_page_collection

pytestmark = pytest.mark.browser

VIEWS = {
    "start": ("", "document.querySelectorAll('#start .card').length === 24"),
    "results": (
        "#q=red&part=-1%3Atext%3A" + LONG_WORD + "&filter=captions%7Ea&part=0.5%3Arow%3A3",
        "document.querySelectorAll('#grid .card').length >= 48",
    ),
    "detail": ("#image=1", "document.querySelectorAll('#detail .facts div').length > 4"),
    "map": ("#view=map", "document.querySelector('#plane-text').hidden"),
}
TOKEN = "a-token-of-twenty-letters"


def load(collection, before=lambda: None):
    def loaded(report):
        report(0.25, "reading the tables")
        before()
        return load_service(collection, ServeOptions(), report, tiny.encoder().eval())

    return loaded


@pytest.mark.parametrize("width", [400, 800, 1600])
def test_every_view_fits_without_complaint(driver, page_url, width):
    for fragment, is_shown in VIEWS.values():
        driver.visit(page_url + fragment, width)
        driver.wait_for(is_shown)
        assert driver.value("document.documentElement.scrollWidth") <= width
        assert driver.browser.complaints == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_view_can_be_read(driver, page_url, dark):
    for fragment, is_shown in VIEWS.values():
        driver.visit(page_url + fragment, 600, dark=dark)
        driver.wait_for(is_shown)
        assert driver.value(LOW_CONTRAST) == []
        assert driver.value(NAMELESS) == []
        if fragment.startswith("#image"):
            driver.press("Escape")
        pixels = np.asarray(Image.open(io.BytesIO(driver.browser.screenshot())).convert("L"))
        assert (np.median(pixels) < 60) == dark


def test_nothing_moves_when_images_arrive(driver, page_url):
    driver.visit(page_url + "#q=red")
    driver.wait_for("document.querySelectorAll('#grid .card').length >= 48")
    driver.wait_for("[...document.images].slice(0, 12).every((image) => image.complete)")
    shift = """new Promise((done) => {
      const total = (list) => list.getEntries().reduce((sum, { value }) => sum + value, 0);
      new PerformanceObserver((list) => done(total(list)))
        .observe({ type: "layout-shift", buffered: true });
      setTimeout(() => done(0), 300);
    })"""
    assert driver.value(shift) < 0.02


def test_filters_fit_on_a_narrow_screen(driver, page_url):
    driver.visit(page_url, 400)
    driver.click("#filters-button")
    driver.wait_for("document.querySelectorAll('[data-column]').length > 6")
    assert driver.value("document.documentElement.scrollWidth") <= 400
    assert driver.value(NAMELESS) == []
    assert driver.value(LOW_CONTRAST) == []


def test_the_tab_key_visits_the_parts_in_order(driver, page_url):
    driver.visit(page_url + "#q=red")
    driver.wait_for("document.querySelectorAll('#grid .card').length >= 48")
    visited = []
    for _ in range(12):
        driver.press("Tab")
        visited.append(
            driver.value(
                """(({ id, className, dataset, tagName }) =>
                  id || dataset.view || className || tagName)(document.activeElement)"""
            )
        )
    assert visited[:12] == [
        "skip", "brand", "grid", "map", "help", "theme", "text", "combine", "pick", "primary",
        "filters-button", "card",
    ]  # fmt: skip


def test_the_choice_of_colours_is_kept(driver, page_url):
    ground = "getComputedStyle(document.body).backgroundColor"
    driver.visit(page_url)
    light = driver.value(ground)
    driver.click("#theme")
    dark = driver.value(ground)
    driver.visit(page_url)
    assert dark != light
    assert driver.value(ground) == dark
    assert driver.value("document.querySelector('#theme').getAttribute('aria-pressed')") == "true"
    driver.value("localStorage.clear()")


def test_progress_is_shown_until_the_collection_is_loaded(driver, page_collection):
    may_end = threading.Event()
    app = create_app(page_collection, load=load(page_collection, lambda: may_end.wait(60)))
    with running(app) as (address, _):
        driver.visit(address + "#q=red")
        driver.wait_for("!document.querySelector('#loading').hidden")
        assert driver.texts("#progress-text") == ["reading the tables, 25 %"]
        assert driver.value("document.querySelector('#progress').value") == 0.25
        assert driver.value(LOW_CONTRAST) == []
        may_end.set()
        driver.wait_for("document.querySelectorAll('#grid .card').length >= 48")
        assert driver.value("document.querySelector('#loading').hidden")
        assert driver.browser.complaints == []


def test_a_failure_to_load_is_explained(driver, page_collection):
    def failing():
        raise DataError("00001.images.f16.npy: damaged; embed the shard again")

    with running(create_app(page_collection, load=load(page_collection, failing))) as (address, _):
        driver.visit(address)
        driver.wait_for("!document.querySelector('#notice').hidden")
        assert "00001.images.f16.npy: damaged" in driver.texts("#notice")[0]
        assert driver.value("document.querySelector('#loading').hidden")


def test_a_server_that_ended_is_explained(driver, page_collection):
    with running(create_app(page_collection, load=load(page_collection))) as (address, stop):
        driver.visit(address)
        driver.wait_for("document.querySelectorAll('#start .card').length > 0")
        stop()
        driver.click("#text")
        driver.type("red")
        driver.press("Enter")
        driver.wait_for("!document.querySelector('#notice').hidden")
        assert "The server does not answer" in driver.texts("#notice")[0]
        assert driver.texts("#notice .secondary") == ["Try again"]
        assert driver.value(LOW_CONTRAST) == []


def test_a_map_that_takes_longer_than_an_answer_may(driver, page_collection, monkeypatch):
    def slow(*arguments):
        time.sleep(1.5)
        return map_collection(*arguments)

    monkeypatch.setattr("clipkit.search.serving.service.map_collection", slow)
    options = ServeOptions(limits=Limits(request_seconds=1))

    def loaded(report):
        return load_service(page_collection, options, report, tiny.encoder().eval())

    with running(create_app(page_collection, options, loaded)) as (address, _):
        driver.visit(address + "#view=map")
        driver.wait_for("document.querySelector('#plane-text').hidden")
        assert driver.count("#legend button") == 4
        assert "503" in str(driver.browser.complaints)  # the first answer


def test_an_upload_that_the_server_no_longer_has_is_explained(driver, page_url):
    driver.visit(page_url)
    driver.wait_for("document.querySelectorAll('#start .card').length > 0")
    part = "{ kind: 'upload', value: '0'.repeat(32), weight: 1 }"
    driver.value(f"import('/static/state.js').then((m) => m.update({{ parts: [{part}] }}))")
    driver.wait_for("document.querySelector('#notice').innerText.includes('drop the file again')")
    driver.click("#parts .small")
    driver.wait_for("document.querySelector('#notice').hidden")


def test_one_image_without_class_and_caption(driver, tmp_path):
    collection = write_page_collection(tmp_path, counts=(1,), class_names=(), captions=())
    with running(create_app(collection, load=load(collection))) as (address, _):
        driver.visit(address)
        driver.wait_for("document.querySelector('#start')?.innerText.startsWith('1 image')")
        assert driver.count("#start .card") == 1
        driver.press("m")
        driver.wait_for("document.querySelector('#plane-text').hidden")
        assert driver.count("#legend button") == 0
        driver.value("document.querySelector('#plane').focus()")
        driver.press("ArrowRight")
        driver.press("Enter")
        driver.wait_for("document.querySelectorAll('#detail .facts div').length > 3")
        assert "The image has no caption." in driver.texts("#detail")[0]
        driver.press("ArrowRight")
        driver.wait_for("document.querySelector('#live').innerText === 'This is the last image'")
        assert driver.browser.complaints == []


def test_a_token_is_asked_for(driver, page_collection):
    app = create_app(page_collection, ServeOptions(token=TOKEN), load(page_collection))
    with running(app) as (address, _):
        driver.visit(address, 400)
        driver.wait_for("document.querySelector('#token') !== null")
        assert driver.value("document.documentElement.scrollWidth") <= 400
        assert (
            driver.value("getComputedStyle(document.querySelector('.primary')).borderRadius")
            != "0px"
        )
        assert driver.value(LOW_CONTRAST) == []
        driver.click("#token")
        driver.type("wrong-token-of-twenty-letters")
        driver.press("Enter")
        driver.wait_for("document.querySelector('#token')?.value === ''")
        driver.click("#token")
        driver.type(TOKEN)
        driver.press("Enter")
        driver.wait_for("document.querySelectorAll('#start .card').length > 0")
        assert TOKEN not in driver.value("location.href")
