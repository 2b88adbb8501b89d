"""The page of a collection with sounds, in a browser."""

from __future__ import annotations

import pytest

from clipkit.data import FaultOptions
from clipkit.search.serving import ServeOptions, create_app
from clipkit.search.serving.load_service import load_service
from tests.helpers.factories import write_shard
from tests.helpers.page_server import running
from tests.helpers.sound_collections import embed, encoder, members, write_served

DURATION = """
new Promise((done) => {
  const card = document.querySelector("#grid [data-row='5']");
  const player = card.parentElement.querySelector("audio");
  player.addEventListener("loadedmetadata", () => done(player.duration));
  player.addEventListener("error", () => done(-1));
  player.preload = "metadata";
  player.load();
})
"""


UNISOLATED = """
(() => {
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walk.nextNode()) {
    const { data, parentElement: parent } = walk.currentNode;
    if (/[\\u0590-\\u05ff]/.test(data.replace(/\\u2068[^\\u2069]*\\u2069/g, ""))
        && !parent.closest("[dir=auto], bdi")) found.push(parent.outerHTML.slice(0, 120));
  }
  return found;
})()
"""
"""Elements with a text from right to left that changes the order of the text next to it."""


def served(folder):
    app = create_app(
        folder, load=lambda report: load_service(folder, ServeOptions(), report, encoder())
    )
    return running(app)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with served(write_served(tmp_path_factory.mktemp("sounds"))) as (address, _):
        yield address


@pytest.fixture(scope="module")
def url_without_images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    samples = [(f"s{number}", members(number, image=False)) for number in range(5)]
    samples.append(("s5", members(5, image=False, sound=False)))
    write_shard(folder / "data" / "0.tar", samples)
    (folder / "data" / "classnames.txt").write_text("פעמון 🔔\nbell\nשלום", encoding="utf-8")
    embed(folder / "data", folder / "collection", faults=FaultOptions(max_bad_fraction=1.0))
    with served(folder / "collection") as (address, _):
        yield address


def test_sounds_are_found_by_a_sound_and_played(driver, url, tmp_path):
    driver.visit(f"{url}#q=bell&find=sound")
    driver.wait_for("document.querySelectorAll('#grid audio').length === 5")
    driver.wait_for("document.querySelector('#find select').value === 'sound'")
    assert driver.value(DURATION) == pytest.approx(0.6, abs=0.01)
    assert driver.texts("#grid .broken") == ["Sound"]  # the sample without an image
    (tmp_path / "bell.wav").write_bytes(members(5)["wav"])
    driver.choose_file("#file", tmp_path / "bell.wav")
    driver.wait_for("document.querySelector('#parts .chip-image') !== null")
    driver.wait_for("document.querySelector('#grid .card')?.dataset.row === '5'")
    assert driver.texts("#parts .chip-image") == ["sound"]
    driver.click("#parts .chip-image")
    driver.wait_for("document.querySelector('#detail figure audio') !== null")
    driver.press("Escape")
    driver.value(
        "(() => { const list = document.querySelector('#find select'); list.value = 'image';"
        " list.dispatchEvent(new Event('change')); })()"
    )
    driver.wait_for("document.querySelectorAll('#grid .card').length === 7")
    assert driver.value("location.hash.includes('find')") is False
    assert driver.browser.complaints == []


def test_the_start_of_a_collection_with_sounds_shows_both(driver, url):
    driver.visit(url)
    driver.wait_for("document.querySelectorAll('#start .samples .card').length === 8")
    assert driver.texts("#start h2") == ["8 samples"]
    assert "drop an image or a sound anywhere" in driver.texts("#start .lead")[0]
    assert driver.value("document.querySelectorAll('#start .samples audio').length") == 6
    assert driver.texts("#start .samples .broken") == ["Sound"]
    assert driver.browser.complaints == []


def test_the_start_of_a_collection_without_images_shows_sounds(driver, url_without_images):
    driver.visit(url_without_images)
    driver.wait_for("document.querySelectorAll('#start .samples .card').length === 5")
    assert driver.texts("#start h2") == ["6 sounds"]
    assert driver.value("document.querySelector('h1').textContent").endswith("of sounds")
    assert driver.texts("#collection")[0].startswith("6 sounds")
    assert driver.value("document.querySelectorAll('#start .samples audio').length") == 5
    assert driver.value("document.querySelector('#text').placeholder") == "Describe a sound"
    assert driver.value("document.querySelector('[data-view=map]').hidden") is True
    driver.visit(f"{url_without_images}#view=map")
    driver.wait_for("document.querySelector('#plane-text').textContent.includes('no embeddings')")
    driver.visit(f"{url_without_images}#q=bell")
    driver.wait_for("document.querySelectorAll('#grid audio').length === 5")
    driver.wait_for("document.querySelector('#summary').textContent.startsWith('5 sounds')")
    driver.visit(f"{url_without_images}#image=5")
    driver.wait_for("document.querySelector('#detail-title')?.textContent === 'Sound 5'")
    driver.wait_for("document.querySelector('#detail [data-step=Next]').title === 'Next sound'")
    driver.press("ArrowRight")
    driver.wait_for("document.querySelector('#live').innerText === 'This is the last sound'")
    driver.press("ArrowLeft")
    driver.wait_for("document.querySelector('#detail-title')?.textContent === 'Sound 4'")
    driver.wait_for("document.querySelector('#detail audio') !== null")
    words = driver.value("document.querySelector('#shortcuts').textContent + document.title")
    assert "image" not in words


def test_texts_from_right_to_left_are_isolated(driver, url_without_images):
    words = "q=%D7%A9%D7%9C%D7%95%D7%9D"
    driver.visit(f"{url_without_images}#{words}&filter=label%3D0")
    driver.wait_for("document.querySelectorAll('#grid .card').length > 0")
    driver.click("#filters-button")
    driver.wait_for("document.querySelectorAll('#filters option').length > 3")
    driver.click("#combine")
    driver.wait_for("document.querySelector('#parts .chip-text') !== null")
    driver.click("#grid .card")
    driver.click(".labels .secondary")
    driver.wait_for("document.querySelectorAll('.label-scores li').length === 3")
    assert driver.value(
        "/[\\u05d0-\\u05ea]/.test(document.querySelector('.label-scores').innerText)"
    )
    assert driver.value(UNISOLATED) == []
    assert driver.value("document.querySelector('#text').dir") == "auto"
