"""Remote files before, in and after a forked process."""

from __future__ import annotations

import gc
import multiprocessing as mp
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from clipkit.data.storage.urls import file_system

STALL_SECONDS = 10.0


class KeepAlive(BaseHTTPRequestHandler):
    """Answers everything with ten bytes, and keeps the connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "10")
        self.end_headers()
        self.wfile.write(b"0123456789")

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def read(url: str) -> bytes:
    system, path = file_system(url, STALL_SECONDS)
    content: bytes = system.cat_file(path)
    return content


def read_as_a_worker(url: str) -> None:
    """As a worker does, until it has made enough objects for a collection of garbage."""
    read(url)
    gc.collect()


def test_a_connection_outlives_forked_processes() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), KeepAlive)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/a.tar"
    try:
        assert read(url) == b"0123456789"
        for _ in range(2):
            child = mp.get_context("fork").Process(target=read_as_a_worker, args=(url,))
            child.start()
            child.join(60)
            assert child.exitcode == 0
            # on the connection of before; without it, this would end with the time limit
            assert read(url) == b"0123456789"
    finally:
        server.shutdown()
