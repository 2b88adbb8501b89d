"""The page of a collection with sounds, in a browser."""

from __future__ import annotations

import pytest

from clipkit.search.serving import ServeOptions, create_app
from clipkit.search.serving.load_service import load_service
from tests.helpers.page_server import running
from tests.helpers.sound_collections import encoder, members, write_served

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


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = write_served(tmp_path_factory.mktemp("sounds"))
    app = create_app(
        folder, load=lambda report: load_service(folder, ServeOptions(), report, encoder())
    )
    with running(app) as (address, _):
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
