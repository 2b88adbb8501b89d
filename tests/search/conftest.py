"""A small collection with shards and a model, and clients of servers of it."""

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
