"""Seconds until the page of a running `clipkit search serve` can be used, in a headless Chromium.

    clipkit search serve embeddings --port 8000 &
    python tools/bench_page.py http://127.0.0.1:8000/ --query "a red heart" --points 5000

"first": nothing is in the browser's cache; "again": the files are, and the server confirms them.
The CPU seconds of the map are those of the projection of random unit vectors of 512 components.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from urllib.parse import quote

import numpy as np

from clipkit.search.projection import project
from tests.helpers.chromium import Chromium, require_chromium
from tests.helpers.page_driver import PageDriver

_RESULTS = "document.querySelectorAll('#grid .card img').length > 0"
_IMAGES = """
[...document.querySelectorAll('#grid .card img')]
  .filter((image) => image.getBoundingClientRect().top < innerHeight)
  .every((image) => image.complete && image.naturalWidth > 0)
"""
_TRANSFERS = """
performance.getEntriesByType('resource').filter(({ name }) => name.includes('/static/'))
"""


def load(driver: PageDriver, url: str) -> dict[str, float]:
    """Load the page and measure from the start of the navigation."""
    driver.visit(url, 1400)
    driver.wait_for(_RESULTS)
    results = driver.value("performance.now()") / 1000
    driver.wait_for(_IMAGES)
    return {
        "usable_seconds": driver.value("performance.timing.domContentLoadedEventEnd") / 1000
        - driver.value("performance.timing.navigationStart") / 1000,
        "results_seconds": results,
        "images_seconds": driver.value("performance.now()") / 1000,
        "static_files": driver.value(f"{_TRANSFERS}.length"),
        "static_bytes": driver.value(
            f"{_TRANSFERS}.reduce((sum, e) => sum + e.decodedBodySize, 0)"
        ),
    }


def medians(loads: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(one[name] for one in loads), 3) for name in loads[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="address of the page")
    parser.add_argument("--query", default="a photo")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--points", type=int, default=5000)
    options = parser.parse_args()
    url = f"{options.url}#q={quote(options.query)}"
    with Chromium(require_chromium()) as browser:
        driver = PageDriver(browser)
        first, again = [], []
        for _ in range(options.repeats):
            browser.call("Network.clearBrowserCache")
            first.append(load(driver, url))
            again.append(load(driver, url))
    rows = np.random.default_rng(0).standard_normal((options.points, 512)).astype(np.float32)
    started = time.process_time()
    project(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    seconds = round(time.process_time() - started, 2)
    found = {"first": medians(first), "again": medians(again)}
    print(json.dumps({**found, "points": options.points, "map_cpu_seconds": seconds}, indent=2))


if __name__ == "__main__":
    main()
