"""Bounds of every request: size and time of its body, time of its answer, uploads at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from typing import Final, final

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipkit.search.serving.failures import error_response
from clipkit.search.serving.options import Limits

_LOG: Final = logging.getLogger(__name__)
UPLOAD_PATH: Final = "/api/uploads"
_DISCARDED: Final = 2
"""A body above the limit is discarded up to this multiple of it, so that clients get the answer."""

_LONGEST_SIZE: Final = 18  # digits


@final
class _Disconnected(Exception):
    """The client ended the connection."""


@final
class BoundedRequests:
    """Reads the body within bounds, and ends the work for clients that disconnect or wait too long.

    The size that a client declares is not trusted: bytes are counted as they arrive.

    Args:
        app: The application; it receives the complete body.
        limits: The bounds.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._num_uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == UPLOAD_PATH and scope["method"] == "POST":
            await self._upload(scope, receive, send)
        else:
            await self._bounded(scope, receive, send, self._limits.body_bytes)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._num_uploads >= self._limits.uploads_at_once:
            answer = error_response(
                429,
                f"expected at most {self._limits.uploads_at_once} uploads at a time; repeat later",
                {"Retry-After": "1", "Connection": "close"},
            )
            await answer(scope, receive, send)
            return
        self._num_uploads += 1
        is_counted = True

        def release() -> None:
            nonlocal is_counted
            self._num_uploads -= is_counted
            is_counted = False

        async def answered(message: Message) -> None:
            # Before its end is sent: the client's next upload may arrive at once.
            if message["type"] == "http.response.body" and not message.get("more_body"):
                release()
            await send(message)

        try:
            await self._bounded(scope, receive, answered, self._limits.upload_bytes)
        finally:
            release()

    async def _bounded(self, scope: Scope, receive: Receive, send: Send, most_bytes: int) -> None:
        try:
            body = await self._body(Headers(scope=scope), receive, most_bytes)
        except _Disconnected:
            return
        if isinstance(body, Response):
            body.headers["Connection"] = "close"
            await body(scope, receive, send)
            return
        await self._answered(scope, body, receive, send)

    async def _body(self, headers: Headers, receive: Receive, most_bytes: int) -> bytes | Response:
        """Return the body, or the answer that refuses it."""
        seconds = self._limits.body_seconds
        too_large = f"body: expected at most {most_bytes} bytes, got"
        if _declared_bytes(headers) > _DISCARDED * most_bytes:
            return error_response(413, f"{too_large} more")
        try:
            async with asyncio.timeout(seconds):
                parts, size = await _received(receive, most_bytes)
        except TimeoutError:
            return error_response(408, f"body: expected all of it within {seconds:g} s")
        if size > most_bytes:
            return error_response(413, f"{too_large} more")
        return b"".join(parts)

    async def _answered(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Run the application until it is done, the client disconnects, or the time is over."""
        started = False

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        work = asyncio.ensure_future(self._app(scope, _replayed(body), send_noting))
        watch = asyncio.ensure_future(_disconnect(receive))
        seconds = self._limits.request_seconds
        try:
            done, _ = await asyncio.wait(
                {work, watch}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            answer = None
            if not done:
                await _cancelled(work)
                late = f"expected an answer within {seconds:g} s; repeat later"
                answer = error_response(503, late, {"Retry-After": "5"})
            elif work.done() and work.cancelled():  # its queue was closed
                answer = error_response(503, "the server ends", {"Retry-After": "5"})
            elif work.done() and (error := work.exception()) is not None:
                _LOG.error("%s %r: failed", scope["method"], scope["path"], exc_info=error)
                answer = error_response(500, "internal error; the server's log has the details")
            if answer is not None and not started:
                await answer(scope, receive, send)
        finally:
            await _cancelled(work)
            await _cancelled(watch)


def _declared_bytes(headers: Headers) -> float:
    """Return the size that a client declares; 0 if it declares none or no number."""
    declared = headers.get("content-length", "")
    if not declared.isdecimal():
        return 0
    return int(declared) if len(declared) <= _LONGEST_SIZE else math.inf


async def _received(receive: Receive, most_bytes: int) -> tuple[list[bytes], int]:
    """Return the parts of a body and its size; parts beyond the limit are discarded."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Disconnected
        part = message.get("body", b"")
        size += len(part)
        if size > most_bytes:
            parts.clear()
        elif part:
            parts.append(part)
        if not message.get("more_body", False) or size > _DISCARDED * most_bytes:
            return parts, size


def _replayed(body: bytes) -> Receive:
    """Return a ``receive`` that starts with a complete body."""
    is_read = False

    async def receive_body() -> Message:
        nonlocal is_read
        if is_read:
            await asyncio.Event().wait()  # the bounds wait for the client to disconnect
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_body


async def _disconnect(receive: Receive) -> None:
    """Wait until the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(task: asyncio.Future[None]) -> None:
    """Cancel a task that may be done, and wait for its end."""
    if not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
