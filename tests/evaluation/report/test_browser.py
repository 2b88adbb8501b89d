"""The report in a real browser: it renders, fits, complains of nothing, and its parts work."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipkit.curation.overview import stats_page as shards
from clipkit.evaluation.comparison import Change, Comparison, Estimate, PairComparison
from clipkit.evaluation.report import write_report
from clipkit.evaluation.report.comparison_page import render_comparison
from clipkit.tuning import page as study
from tests.helpers.chromium import Chromium, require_chromium
from tests.helpers.contrast import LOW_CONTRAST
from tests.helpers.data_pages import full_data_page
from tests.helpers.report_content import HOSTILE, LONG_WORD, SECTIONS, full_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium(require_chromium()) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return write_report(tmp_path_factory.mktemp("report") / "report.html", full_report())


@pytest.mark.parametrize(("width", "dark"), [(400, False), (900, True), (1600, False)])
def test_renders_without_complaint_and_fits(browser, page, width, dark):
    browser.complaints.clear()
    browser.requests.clear()

    browser.open(page, width=width, dark=dark)

    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    images = "[...document.images].filter((image) => !image.hidden)"
    browser.wait_for(f"{images}.every((image) => image.complete && image.naturalWidth > 0)")
    assert browser.evaluate(f"{images}.length") > 50
    sections = browser.evaluate("[...document.querySelectorAll('section')].map((s) => s.id)")
    assert sections == list(SECTIONS)
    heights = "[...document.querySelectorAll('.plot')].map((p) => p.getBoundingClientRect())"
    assert browser.evaluate(f"{heights}.every((box) => box.height > 100 && box.width > 100)")
    background = np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("L"))
    assert (np.median(background) < 60) == dark
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []
    assert browser.complaints == []


def test_sounds_play_from_the_page_alone(browser, page):
    browser.complaints.clear()
    browser.open(page, width=1200, dark=False)
    players = "[...document.querySelectorAll('audio')]"
    assert browser.evaluate(f"{players}.length") > 5
    assert browser.evaluate(f"{players}.every((player) => player.readyState === 0)")
    browser.evaluate(f"{players}[0].load(), {players}[0].preload = 'auto'")
    browser.wait_for(f"{players}[0].readyState > 0")
    assert browser.evaluate(f"{players}[0].duration") == pytest.approx(0.2, abs=0.01)
    assert browser.complaints == []


@pytest.mark.parametrize("width", [400, 1600])
def test_no_text_is_cut_off_by_its_own_box(browser, page, width):
    browser.open(page, width=width, dark=False)

    sticking_out = browser.evaluate(
        f"""[...document.querySelectorAll("main *")].filter((node) => {{
          if (node.closest(".visually-hidden, pre, .scroll, svg")) return false;
          const box = node.getBoundingClientRect();
          return box.width > 0 && (box.right > {width} + 1 || box.left < -1);
        }}).map((node) => node.outerHTML.slice(0, 120))"""
    )

    assert sticking_out == []
    assert browser.evaluate(f"document.body.innerText.includes('{LONG_WORD}')")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_stands_out_from_its_ground(browser, page, dark):
    browser.open(page, width=1400, dark=dark)
    browser.evaluate("document.querySelector('.config').open = true")

    assert browser.evaluate(LOW_CONTRAST) == []


def test_the_button_changes_the_colours_and_back(browser, page):
    browser.open(page, width=1400, dark=False)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = browser.evaluate(ground)

    browser.evaluate("document.querySelector('.theme').click()")
    dark = browser.evaluate(ground)
    pressed = browser.evaluate("document.querySelector('.theme').getAttribute('aria-pressed')")
    browser.evaluate("document.querySelector('.theme').click()")

    assert dark != light
    assert pressed == "true"
    assert browser.evaluate(ground) == light
    browser.evaluate("localStorage.clear()")


def test_arrow_keys_read_a_curve(browser, page):
    browser.open(page, width=1400, dark=False)
    browser.evaluate("document.querySelector('.plot[data-chart]').focus()")

    browser.press("Home")
    first = browser.evaluate("document.querySelector('#tip').innerText")
    browser.press("ArrowRight")
    second = browser.evaluate("document.querySelector('#tip').innerText")
    browser.press("Escape")

    assert first.startswith("Step 0")
    assert "loss" in first
    assert "label" in first
    assert second != first
    assert browser.evaluate("document.querySelector('#tip').hidden")


def test_gallery_shows_one_direction_filters_and_searches(browser, page):
    browser.open(page, width=1400, dark=False)
    cards = "[...document.querySelectorAll('#gallery .card')]"
    visible = f"{cards}.filter((card) => card.checkVisibility()).length"
    shown_at_first = browser.evaluate(visible)

    browser.evaluate("document.querySelector('.more').click()")
    all_texts = browser.evaluate(visible)
    browser.evaluate("document.querySelector('input[value=missed]').click()")
    missed = browser.evaluate(visible)
    browser.evaluate("document.querySelector('#tab-texts').focus()")
    browser.press("ArrowRight")
    missed_images = browser.evaluate(visible)
    browser.evaluate(
        """{ const field = document.querySelector("[type=search]"); field.value = "ANSWER 3";
             field.dispatchEvent(new Event("input", { bubbles: true })); }"""
    )
    found = browser.evaluate(visible)
    browser.evaluate("document.querySelector('input[value=first]').click()")

    assert (shown_at_first, all_texts, missed, missed_images, found) == (12, 14, 4, 1, 1)
    assert browser.evaluate(visible) == 0
    assert browser.evaluate("document.querySelector('.none-left').checkVisibility()")


def test_hovering_a_cell_of_the_heat_map_names_the_classes(browser, page):
    browser.open(page, width=1400, dark=False)
    box = browser.evaluate(
        """(() => { const cell = document.querySelectorAll(".heat td")[1];
             cell.scrollIntoView({ block: "center", behavior: "instant" });
             const box = cell.getBoundingClientRect(); return [box.x + 5, box.y + 5]; })()"""
    )

    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])

    browser.wait_for("!document.querySelector('#tip').hidden")
    tip = browser.evaluate("document.querySelector('#tip').innerText")
    assert tip.startswith("smileys & emotion: predicted as people, ")


TIP = "document.querySelector('#tip').innerText"
HAS_TIP = "!document.querySelector('#tip').hidden"


def test_the_map_shows_images_at_the_pointer_and_at_the_focus(browser, page):
    browser.open(page, width=1400, dark=False)
    box = browser.evaluate(
        """(() => { const plot = document.querySelector("[data-places]");
             plot.scrollIntoView({ block: "center", behavior: "instant" });
             const box = plot.getBoundingClientRect();
             const [x, y] = JSON.parse(plot.dataset.places)[3];
             return [box.x + x * box.width / 1000, box.y + y * box.height / 1000]; })()"""
    )

    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + 2, y=box[1])
    browser.wait_for(HAS_TIP)
    pointed = browser.evaluate(TIP)
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    browser.wait_for("document.querySelector('#tip').hidden")
    browser.press("Tab")  # from here on, the browser shows the focus
    browser.evaluate("document.querySelector('[data-places]').focus()")
    seen = [browser.evaluate(TIP)]
    for key in ("ArrowLeft", "ArrowDown", "ArrowRight", "ArrowUp"):
        browser.press(key)
        seen.append(browser.evaluate(TIP))

    assert "square 3" in pointed
    assert "travel and places of this wide world" in pointed
    assert len(set(seen)) > 1
    assert all("square" in text for text in seen)
    assert "url(" in browser.evaluate(
        "getComputedStyle(document.querySelector('.peek')).background"
    )
    status = browser.evaluate("document.querySelector('.maps [role=status]').textContent")
    assert status.split(": ", 1)[-1].strip() in seen[-1]
    browser.press("Escape")
    assert not browser.evaluate(HAS_TIP)


def test_a_class_of_the_map_can_be_seen_alone(browser, page):
    browser.open(page, width=1400, dark=False)
    opacity = "[...document.querySelectorAll('.maps path')].map((p) => getComputedStyle(p).opacity)"
    everything = browser.evaluate(opacity)

    browser.evaluate("document.querySelectorAll('.maps .legend button')[1].click()")
    one = browser.evaluate(opacity)
    browser.evaluate("document.querySelectorAll('.maps .legend button')[1].click()")

    assert set(everything) == {"1"}
    assert [place for place, value in enumerate(one) if value == "1"] == [1, 7]
    assert browser.evaluate(opacity) == everything


def test_classes_are_sorted_by_any_column(browser, page):
    browser.open(page, width=1400, dark=False)
    rows = "[...document.querySelectorAll('.classes')[0].tBodies[0].rows]"
    shown = f"{rows}.filter((row) => row.checkVisibility()).length"
    first_view = browser.evaluate(shown)

    def column(heading: int, cell: int) -> list[str]:
        browser.evaluate(f"document.querySelectorAll('.classes th button')[{heading}].click()")
        return browser.evaluate(f"{rows}.map((row) => row.cells[{cell}].innerText)")

    browser.evaluate("document.querySelector('.sortable .more').click()")
    supports = [int(text) for text in column(1, 1)]
    recalls = column(2, 2)
    names = column(0, 0)
    directions = browser.evaluate(
        "[...document.querySelectorAll('.classes')[0].tHead.rows[0].cells].map((c) => c.ariaSort)"
    )

    assert (first_view, browser.evaluate(shown)) == (24, 36)
    assert supports == sorted(supports, reverse=True)
    assert recalls[-1] == "–"
    values = [float(text) for text in recalls[:-1]]
    assert values == sorted(values, reverse=True)
    assert [name.lower()[:3] for name in names[:3]] == ["<sc", "abs", "ani"]
    assert directions == ["ascending", "none", "none", "none", "none"]


@pytest.mark.parametrize("selector", [".heat", ".images", "[data-walk='']"])
def test_arrow_keys_read_what_the_pointer_reads(browser, page, selector):
    browser.open(page, width=1400, dark=False)
    browser.press("Tab")
    browser.evaluate(f"document.querySelector({selector!r}).focus()")
    first = browser.evaluate(TIP)
    browser.press("ArrowRight")
    second = browser.evaluate(TIP)

    tips = f"[...document.querySelector({selector!r}).querySelectorAll('[data-tip]')]"
    expected = browser.evaluate(f"{tips}.slice(0, 2).map((cell) => cell.dataset.tip)")
    assert [first, second] == [" ".join(text.split()) for text in expected]


def test_everything_with_a_tooltip_is_reached_by_the_keyboard(browser, page):
    browser.open(page, width=1400, dark=False)

    out_of_reach = browser.evaluate(
        """[...document.querySelectorAll("[data-tip]")].filter((cell) =>
             !cell.closest("[data-walk][tabindex='0']")).map((cell) => cell.outerHTML)"""
    )

    assert out_of_reach == []


def test_the_first_key_reaches_the_link_to_the_results(browser, page):
    browser.open(page, width=1400, dark=False)

    browser.press("Tab")

    skip = browser.evaluate("document.activeElement.getBoundingClientRect().left")
    assert browser.evaluate("document.activeElement.className") == "skip"
    assert skip >= 0


def test_the_page_prints_in_light_colours_without_controls(browser, page):
    browser.open(page, width=1000, dark=True)
    browser.call("Emulation.setEmulatedMedia", media="print")

    assert "rgb(26, 28, 32)" in browser.evaluate("getComputedStyle(document.body).color")
    hidden = [".top", ".controls", ".more"]
    assert not any(
        browser.evaluate(f"document.querySelector({name!r}).checkVisibility()") for name in hidden
    )
    assert browser.call("Page.printToPDF", printBackground=True)["data"]
    browser.call("Emulation.setEmulatedMedia", media="")


def shards_page() -> str:
    summary = {"num_samples": 1234, "labels": {str(n): n for n in range(40)}, "note": LONG_WORD}
    charts = {"Image width, pixels": [224, 224, 300, 512], LONG_WORD: [3], "Empty": []}
    return shards.render_page(summary, charts)


def study_page() -> str:
    trials = [
        {
            "number": number,
            "state": "complete",
            "value": 1.0 + number % 3,
            "values": {"model.lr": 10.0**-number, "data.batch_size": 64, "loss": LONG_WORD},
            "seconds": 90.0,
            "error": f"DataError: {LONG_WORD}" if number == 2 else None,
        }
        for number in range(1, 6)
    ]
    summary = {"metric": "val/loss", "direction": "minimize", "best": 3, "trials": trials}
    return study.render_page(summary)


def comparison_page() -> str:
    half, more = Estimate(0.5, (0.45, 0.55)), Estimate(0.7, (0.66, 0.75))
    rank = Estimate(12.0, (10.0, 14.0)), Estimate(9.0, (7.0, 11.0))
    changes = (
        Change("top1", half, more, Estimate(0.2, (0.15, 0.26)), "mcnemar", 0, 0, False, 200),
        Change("median_rank", *rank, Estimate(-3, (-5, -1)), "permutation", 0.2, 0.4, True, 200),
        Change(LONG_WORD, more, half, Estimate(-0.2), "mcnemar", 0.0, 0.0, False, 200),
    )
    pair = PairComparison("d/animals", HOSTILE, "runs/a.ckpt", LONG_WORD, changes, changes, 200, 9)
    return render_comparison(Comparison((pair,) * 5, left_out=(LONG_WORD, HOSTILE)))


@pytest.mark.parametrize("page", [shards_page, full_data_page, study_page, comparison_page])
@pytest.mark.parametrize(("width", "dark"), [(400, True), (1600, False)])
def test_other_pages_share_the_style(browser, tmp_path, page, width, dark):
    path = tmp_path / "page.html"
    path.write_text(page(), encoding="utf-8")
    browser.complaints.clear()

    browser.open(path, width=width, dark=dark)

    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(LOW_CONTRAST) == []
    assert browser.evaluate("document.querySelector('.theme').checkVisibility()")
    assert browser.complaints == []


def test_hovering_a_bar_names_its_values(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(shards_page(), encoding="utf-8")
    browser.open(path, width=1400, dark=False)
    box = browser.evaluate(
        """(() => { const box = document.querySelector(".bar").getBoundingClientRect();
             return [box.x + box.width / 2, box.y + box.height - 3]; })()"""
    )

    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])

    browser.wait_for("!document.querySelector('#tip').hidden")
    assert browser.evaluate("document.querySelector('#tip').innerText") == "224 to 236: 2"
