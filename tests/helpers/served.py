"""A small embedded collection with its shards and its model, as the server gets it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI

from clipkit.collection.embedding import EmbedPlan, embed_collection, start_collection
from clipkit.models import save_encoder
from clipkit.search.serving.server import make_server, open_socket, page_address
from tests.helpers import tiny
from tests.helpers.factories import COLORS, write_shards


def write_served(folder: Path, counts=(9, 14)) -> Path:
    """Write ``model``, ``data`` and ``collection`` into a folder; return the collection."""
    encoder = tiny.encoder().eval()
    save_encoder(encoder, folder / "model")
    write_shards(folder / "data", counts)
    (folder / "data" / "classnames.txt").write_text("\n".join(COLORS))
    plan = EmbedPlan(
        str(folder / "model"), str(folder / "data"), folder / "collection", num_workers=0,
        columns=("json:color", "json:number"),
    )  # fmt: skip
    data = plan.open_data()
    info = start_collection(plan, encoder, None, data)
    embed_collection(plan, info, encoder, data)
    return folder / "collection"


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Serve an application from a thread, on a free port of the loopback; yields its address."""
    with open_socket("127.0.0.1", 0) as listening:
        server = make_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 60
        while not server.started or app.state.loading.status().state == "loading":
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.01)
        yield page_address("127.0.0.1", listening.getsockname()[1]).rstrip("/")
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
