"""SQLite files that need not outlive the power."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_databases() -> Iterator[None]:
    """No commit of SQLAlchemy waits for the disk, as no ``os.fsync`` does in tests."""
    sqlalchemy = pytest.importorskip("sqlalchemy")

    def relax(connection: Any, _: Any) -> None:
        if type(connection).__module__.startswith("sqlite3"):
            connection.execute("PRAGMA synchronous=OFF")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", relax)
    yield
    sqlalchemy.event.remove(sqlalchemy.Engine, "connect", relax)
