"""Sessions of Ray: a connection to a cluster, or a local cluster for the time of a job."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

from clipkit.errors import ConfigError, first_line

LOCAL: Final = "local"
_CONNECT_SECONDS: Final = 10
LOCAL_STORE_BYTES: Final = 100 * 2**20
"""Memory of a local cluster for objects; results are a few numbers per task. Ray wants 75 MiB."""
_ENVIRONMENT: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",  # sends nothing
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # of the C++ part, on standard error
}
# Ray binds to the loopback address where it does not expect other machines, which it decides by
# the system and by this variable.
_LOOPBACK: Final = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@contextmanager
def ray_session(address: str | None = None) -> Iterator[ModuleType]:
    """Connect to a cluster, or start a local one, for the time of a block.

    A connection that is there is used and kept.

    Args:
        address: Address of the cluster; see ``RayCluster``.

    Yields:
        The module ``ray``.

    Raises:
        ConfigError: If Ray is not installed, or the cluster does not answer.
    """
    is_local = address in (None, LOCAL)
    ray = imported_ray(is_local)
    if ray.is_initialized():
        yield ray
        return
    if not is_local:
        _check_reachable(str(address))
    logging.getLogger("ray").setLevel(logging.ERROR)
    with _own_sigterm_handler():
        _connect(ray, is_local, address)
        try:
            yield ray
        finally:
            ray.shutdown()


def _connect(ray: ModuleType, is_local: bool, address: str | None) -> None:
    options: dict[str, Any] = {"address": LOCAL if is_local else address}
    if is_local:
        options |= {"include_dashboard": False, "object_store_memory": LOCAL_STORE_BYTES}
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--address: expected the address of a running Ray cluster, or local; got "
            f"{options['address']}: {first_line(error)}"
        ) from error


@contextmanager
def _own_sigterm_handler() -> Iterator[None]:
    """Restore the handler of SIGTERM, which Ray replaces and leaves."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)


def _check_reachable(address: str) -> None:
    """Refuse an address ``HOST:PORT`` that does not answer; Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()) or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--address: expected the address of a running Ray cluster, or local; got {address}: "
            f"{first_line(error)}"
        ) from error


def imported_ray(is_local: bool) -> ModuleType:
    """Return the module ``ray``, which sends no statistics and prints errors only.

    Args:
        is_local: Whether its clusters are started on this machine, and listen to it alone.

    Raises:
        ConfigError: If Ray is not installed.
    """
    for name, value in {**_ENVIRONMENT, **(_LOOPBACK if is_local else {})}.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(
            f"--engine ray needs Ray, which is not installed completely ({first_line(error)}); "
            f"pip install 'clipkit[ray]'"
        ) from error
    module: ModuleType = ray
    return module
