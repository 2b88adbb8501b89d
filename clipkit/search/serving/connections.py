"""Connections that must send their requests, and take the answers, in time."""

from __future__ import annotations

import asyncio
from typing import Any, Final, final

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS: Final = 10.0
WRITE_SECONDS: Final = 30.0
WRITE_BYTES: Final = 2**20
"""An answer of which fewer bytes leave in ``WRITE_SECONDS``, and which is not at its end, is ended:
a slow line of 0.3 Mbit/s is faster."""


@final
class TimedConnection(H11Protocol):
    """Closes a connection that is too slow in either direction.

    uvicorn waits for request line and headers without a limit, so that clients which send a byte
    from time to time would hold their connections forever. It also waits until a client has taken
    the answer, so that clients which never read would hold the answer in memory.
    """

    header_seconds = HEADER_SECONDS
    write_seconds = WRITE_SECONDS
    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _unsent_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Start the time."""
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Stop the time at a complete request; start it with the first byte of the next one."""
        if not self.transport.get_write_buffer_size():
            self._stop_write_timer()  # that of the last answer, which has left
        super().data_received(data)
        if self._is_waiting():
            self._start_timer()
        else:
            self._stop_timer()

    def pause_writing(self) -> None:
        """Start the time of an answer that the client does not take at once."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """Stop the time of an answer that the client takes; its end has a time of its own."""
        super().resume_writing()
        self._stop_write_timer()
        if self._is_waiting():
            self._watch_writing()

    def on_response_complete(self) -> None:
        """Start the time of the rest of an answer."""
        super().on_response_complete()
        self._watch_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the times."""
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def _is_waiting(self) -> bool:
        """Return whether no request is being answered."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.header_seconds, self._close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        self._timer = None
        if self._is_waiting():
            self.transport.close()  # after the rest of the last answer, which has its own time

    def _watch_writing(self) -> None:
        """Start the time of what is not sent yet, unless it runs."""
        unsent = self.transport.get_write_buffer_size()
        if unsent and self._write_timer is None:
            self._unsent_bytes = unsent
            self._write_timer = self.loop.call_later(self.write_seconds, self._check_writing)

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _check_writing(self) -> None:
        """End the connection unless enough has left since the time was started."""
        self._write_timer = None
        if self.transport.get_write_buffer_size() > max(0, self._unsent_bytes - WRITE_BYTES):
            self.transport.abort()  # close() would wait for the client
        else:
            self._watch_writing()
