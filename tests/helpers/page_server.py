"""A real server of a small collection whose captions try to be markup."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.helpers import tiny
from tests.helpers.factories import COLORS, image_bytes, write_shard

if TYPE_CHECKING:
    from fastapi import FastAPI

HOSTILE = "<img src=x onerror=alert(1)>"
LONG_WORD = "w" * 300
CLASS_NAMES = ["red", "<b>green</b>", "blue", "yellow"]
COUNTS = (30, 30)
_SIZES = ((40, 32), (32, 40), (96, 16), (24, 24))


def write_page_collection(
    folder: Path, counts=COUNTS, class_names=CLASS_NAMES, captions=("another caption",)
) -> Path:
    """Embed images of four colours, 60 unless told otherwise; return the collection."""
    from clipkit.collection.embedding import EmbedPlan, embed_collection, start_collection

    number = 0
    for shard, count in enumerate(counts):
        samples = []
        for _ in range(count):
            samples.append((f"key-{number:03d}", _sample(number, captions, bool(class_names))))
            number += 1
        write_shard(folder / "data" / f"{shard:05d}.tar", samples)
    if class_names:
        (folder / "data" / "classnames.txt").write_text("\n".join(class_names))
    plan = EmbedPlan(
        "tiny", str(folder / "data"), folder / "collection", num_workers=0, columns=("json:place",)
    )
    encoder, data = tiny.encoder().eval(), plan.open_data()
    info = start_collection(plan, encoder, None, data)
    embed_collection(plan, info, encoder, data)
    return folder / "collection"


def _sample(number: int, more_captions: Sequence[str], has_class: bool) -> dict[str, bytes]:
    color = list(COLORS)[number % 4]
    caption = {0: HOSTILE, 1: LONG_WORD}.get(number, f"a {color} square number {number}")
    members = {
        "jpg": image_bytes(color, _SIZES[number % 4], seed=number),
        "json": f'{{"place": "{"<i>sea</i>" if number % 2 else "town"}"}}'.encode(),
    }
    if more_captions:
        members["txt"] = "\n".join([caption, *more_captions]).encode()
    if has_class:
        members["cls"] = str(number % 4).encode()
    return members


@contextmanager
def running(app: FastAPI) -> Iterator[tuple[str, Callable[[], None]]]:
    """Serve an application on a free port of loopback; yields its address, and what stops it."""
    import uvicorn

    from clipkit.search.serving.server import open_socket

    listening = open_socket("127.0.0.1", 0)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join(timeout=20)
        listening.close()

    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/", stop
    finally:
        stop()
