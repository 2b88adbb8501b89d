"""Clients that do not take their answers in time lose the connection; slow ones keep it."""

import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from clipkit.search.serving.connections import WRITE_BYTES, TimedConnection
from clipkit.search.serving.server import make_server, open_socket

_LARGE = 32 * 2**20
_DEADLINE_SECONDS = 60


async def large(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(_LARGE)})
    scope["app_state"].set()


@contextmanager
def serving(app):
    """Serve an application from a thread; yields the server and its port."""
    with open_socket("127.0.0.1", 0) as listening:
        server = make_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        until(lambda: server.started)
        yield server, listening.getsockname()[1]
        server.should_exit = True
        thread.join(_DEADLINE_SECONDS)
        assert not thread.is_alive()


def until(condition):
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
def test_a_client_that_never_reads_is_cut_off(connection, monkeypatch):
    monkeypatch.setattr(TimedConnection, "write_seconds", 0.1)
    answered = threading.Event()

    async def app(scope, receive, send):
        await large({**scope, "app_state": answered}, receive, send)

    with serving(app) as (server, port), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(f"GET / HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\n\r\n".encode())
        until(answered.is_set)
        until(lambda: not server.server_state.connections)
        assert num_received(client) < _LARGE


def num_received(client):
    count = 0
    try:
        while data := client.recv(2**20):
            count += len(data)
    except ConnectionResetError:
        pass
    return count


def connection_of(*unsent_bytes):
    """A connection whose buffer has these sizes when it is asked; returns it and its end."""
    sizes, ended, calls = list(unsent_bytes), [], []
    connection: Any = object.__new__(TimedConnection)
    connection.transport = SimpleNamespace(
        get_write_buffer_size=lambda: sizes.pop(0) if len(sizes) > 1 else sizes[0],
        abort=lambda: ended.append(len(sizes)),
    )
    connection.loop = SimpleNamespace(call_later=lambda _, check: calls.append(check) or check)
    connection._watch_writing()
    while calls:
        calls.pop()()
    return connection, ended


def test_a_client_that_reads_slowly_gets_all():
    mib = WRITE_BYTES
    # Each size is read to judge the last period, and again to begin the next one.
    connection, ended = connection_of(3 * mib, 2 * mib, 2 * mib, mib // 2, mib // 2, 0)
    assert ended == []
    assert connection._write_timer is None


@pytest.mark.parametrize(
    "sizes", [(3 * WRITE_BYTES, 2 * WRITE_BYTES + 1), (1000, 999), (1000, 1000), (1000, 5000)]
)
def test_a_client_that_hardly_reads_is_cut_off(sizes):
    _, ended = connection_of(*sizes)
    assert ended == [1]


class FakeTimer:
    """A time of ``call_later``, which passes when the test calls it."""

    def __init__(self, action):
        self.action, self.is_cancelled = action, False

    def cancel(self):
        self.is_cancelled = True

    def __call__(self):
        if not self.is_cancelled:
            self.action()


class FakeTransport:
    def __init__(self):
        self.unsent_bytes, self.is_ended = 0, False

    def get_write_buffer_size(self):
        return self.unsent_bytes

    def abort(self):
        self.is_ended = True


@pytest.fixture
def idle(monkeypatch):
    """A connection without a request, its transport, and the times of its answers."""
    timers, transport = [], FakeTransport()
    connection: Any = object.__new__(TimedConnection)
    connection.transport, connection.cycle = transport, None
    connection.flow = SimpleNamespace(pause_writing=lambda: None, resume_writing=lambda: None)

    def call_later(_, action):
        timer = FakeTimer(action)
        if action == connection._check_writing:
            timers.append(timer)
        return timer

    connection.loop = SimpleNamespace(call_later=call_later)
    monkeypatch.setattr(H11Protocol, "data_received", lambda self, data: None)
    monkeypatch.setattr(H11Protocol, "on_response_complete", lambda self: None)
    return connection, transport, timers


def answer(connection, transport, num_bytes):
    transport.unsent_bytes = num_bytes
    if num_bytes > 65536:
        connection.pause_writing()
    connection.on_response_complete()


def take(connection, transport, num_bytes):
    """A client takes an answer; below 16 KiB, as asyncio tells it, more may be written."""
    if num_bytes > 65536:
        transport.unsent_bytes = 10_000
        connection.resume_writing()
    transport.unsent_bytes = 0


@pytest.mark.parametrize("num_bytes", [50_000, 500_000])
def test_each_answer_of_a_connection_has_its_own_time(idle, num_bytes):
    connection, transport, timers = idle
    for _ in range(10):
        connection.data_received(b"GET")
        answer(connection, transport, num_bytes)
        for timer in timers[:-1]:  # those of the answers before this one
            timer()
        assert not transport.is_ended
        take(connection, transport, num_bytes)
    connection.data_received(b"GET")
    assert all(timer.is_cancelled for timer in timers)
    answer(connection, transport, num_bytes)
    timers[-1]()
    assert transport.is_ended


def test_a_request_does_not_give_more_time_to_an_answer_that_is_not_taken(idle):
    connection, transport, timers = idle
    answer(connection, transport, 500_000)
    connection.data_received(b"GET")
    assert len(timers) == 1
    timers[0]()
    assert transport.is_ended
