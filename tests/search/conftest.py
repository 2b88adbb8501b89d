"""Small collections with shards and models, servers of them, and their clients and browser."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

    from clipkit.search.serving import ServeOptions
    from tests.helpers.page_driver import PageDriver

ADDRESS = "http://localhost:8000"


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> Path:
    """The collection of ``write_served``, which no test writes into."""
    from tests.helpers.served import write_served

    return write_served(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def start(served) -> Iterator[Callable[[ServeOptions | None], TestClient]]:
    """Start an application in this process and return its client once it is ready."""
    from fastapi.testclient import TestClient

    from clipkit.search.serving import create_app

    with ExitStack() as stack:

        def started(options: ServeOptions | None = None, **load) -> TestClient:
            app = create_app(served, options, **load)
            client = stack.enter_context(TestClient(app, ADDRESS, follow_redirects=False))
            deadline = time.monotonic() + 60
            while app.state.loading.status().state == "loading" and time.monotonic() < deadline:
                time.sleep(0.01)
            return client

        yield started


@pytest.fixture(scope="module")
def client(start) -> TestClient:
    return start()


@pytest.fixture(scope="session")
def page_collection(tmp_path_factory) -> Path:
    """The collection of ``write_page_collection``, whose captions try to be markup."""
    from tests.helpers.page_server import write_page_collection

    return write_page_collection(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="session")
def page_url(page_collection) -> Iterator[str]:
    """Address of a real server of ``page_collection``."""
    from clipkit.search.serving import ServeOptions, create_app
    from clipkit.search.serving.load_service import load_service
    from tests.helpers import tiny
    from tests.helpers.page_server import running

    encoder = tiny.encoder().eval()
    app = create_app(
        page_collection,
        load=lambda report: load_service(page_collection, ServeOptions(), report, encoder),
    )
    with running(app) as (address, _):
        yield address


@pytest.fixture(scope="session")
def driver() -> Iterator[PageDriver]:
    """One browser for all tests; skips where there is none."""
    from tests.helpers.chromium import Chromium, require_chromium
    from tests.helpers.page_driver import PageDriver

    with Chromium(require_chromium()) as chromium:
        yield PageDriver(chromium)


@pytest.fixture
def page(driver, page_url) -> Iterator[PageDriver]:
    """The page at its start; afterwards the browser must not have complained or left the host."""
    driver.visit(page_url)
    driver.wait_for("document.querySelectorAll('#start .card').length > 0")
    yield driver
    assert driver.browser.complaints == []
    requests = [request.removeprefix("blob:") for request in driver.browser.requests]
    assert [request for request in requests if not request.startswith(page_url)] == []


@pytest.fixture(scope="session")
def expected(page_collection) -> Callable[..., list[int]]:
    """Return the rows that a ``Searcher`` finds in ``page_collection`` for the parts of a query."""
    from clipkit.search import Searcher
    from tests.helpers import tiny

    searcher = Searcher(page_collection, tiny.encoder().eval())

    def rows(*parts, count: int = 48) -> list[int]:
        return [hit.row for hit in searcher.search(list(parts), num_results=count).hits]

    return rows
