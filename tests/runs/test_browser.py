"""The page of runs in a real browser, narrow and wide, light and dark."""

from __future__ import annotations

import pytest

from clipkit.runs import RunRecord, write_run, write_runs_page
from tests.helpers.chromium import Chromium, require_chromium

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    with Chromium(require_chromium()) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = []
    for name in ("first", "a_run_with_a_rather_long_name_of_its_folder_that_does_not_end", "<b>"):
        run = RunRecord(folder / name, "running", 1.0, 100.0, step=30,
                        error="OSError: " + "no space left " * 9 if name == "first" else "",
                        metrics={"val/text_to_image/recall_at_1": 0.5},
                        config={"model.name": name * 3})  # fmt: skip
        write_run(run)
        rows = "".join(f"{step},{1 / (step + len(name))}\n" for step in range(30))
        text = f"step,val/text_to_image/recall_at_1\n{rows}"
        (run.folder / "metrics.csv").write_text(text)
        runs.append(run)
    return write_runs_page(folder / "runs.html", runs)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_renders_without_complaint_and_fits(browser, page, width, dark):
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(page, width=width, dark=dark)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    sections = browser.evaluate("[...document.querySelectorAll('section')].map((s) => s.id)")
    assert sections == ["runs", "curves", "options"]
    assert browser.evaluate("document.querySelectorAll('.plot polyline').length") == 3
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []
    assert browser.complaints == []
