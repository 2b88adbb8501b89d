"""A real HTTP server that fails on purpose."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Misbehaviour:
    """What the server does wrong; each number counts down to 0."""

    unavailable: int = 0
    forbidden: frozenset[str] = frozenset()
    cut_after_bytes: int | None = None
    num_cuts: int = 0
    num_stalls: int = 0
    stall_seconds: float = 0.0
    pace_seconds: float = 0.0
    ignores_ranges: bool = False
    hides_length: bool = False
    chunked: bool = False
    hides_version: bool = False
    versions: Iterator[str] | None = None
    times: Iterator[str] | None = None
    gets: Counter[str] = field(default_factory=Counter)
    sent_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Handler(BaseHTTPRequestHandler):
    files: dict[str, bytes]
    behaviour: Misbehaviour
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        with self.behaviour.lock:
            self.behaviour.gets[self.path] += 1
        self._answer(body=True)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, body: bool) -> None:
        trouble = self.behaviour
        with trouble.lock:
            if trouble.unavailable and body:
                trouble.unavailable -= 1
                return self._plain(503)
        if self.path in trouble.forbidden:
            return self._plain(403)
        data = self.files.get(self.path)
        if data is None:
            return self._plain(404)
        total = len(data)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        partial = wanted is not None and not trouble.ignores_ranges
        if partial:
            assert wanted is not None
            start, end = int(wanted[1]), int(wanted[2] or total - 1)
            data = data[start : end + 1]
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{total}")
        if not trouble.hides_version:
            own = str(hash(self.files[self.path]))
            self.send_header("ETag", f'"{next(trouble.versions) if trouble.versions else own}"')
        if trouble.times is not None:
            self.send_header("Last-Modified", next(trouble.times))
        if trouble.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif trouble.hides_length:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Accept-Ranges", "none" if trouble.ignores_ranges else "bytes")
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self._send(data)
        return None

    def _send(self, data: bytes) -> None:
        trouble = self.behaviour
        with trouble.lock:
            cut = trouble.num_cuts > 0
            trouble.num_cuts -= cut
            limit = trouble.cut_after_bytes if cut else None
            trouble.sent_bytes += len(data[:limit])
            stalls = trouble.num_stalls > 0
            trouble.num_stalls -= stalls
        if stalls:
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            time.sleep(trouble.stall_seconds)
            self.close_connection = True
            return
        if trouble.pace_seconds:
            for start in range(0, len(data), 4096):
                self.wfile.write(data[start : start + 4096])
                self.wfile.flush()
                time.sleep(trouble.pace_seconds)
            return
        if trouble.chunked:
            piece = data[:limit]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) + (b"" if cut else b"0\r\n\r\n"))
        else:
            self.wfile.write(data[:limit])
        if cut:
            self.close_connection = True

    def _plain(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def http_server(files: dict[str, bytes], behaviour: Misbehaviour) -> Iterator[str]:
    """Serve ``path -> bytes``; yields the URL."""
    handler = type("Handler", (_Handler,), {"files": files, "behaviour": behaviour})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
