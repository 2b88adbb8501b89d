"""Run the tasks of a job on a Ray cluster: each actor prepares once, then does one after another.

Ray Data schedules the tasks, starts as many actors as the cluster has room for, and starts an
actor that was lost again, elsewhere if its machine is gone, with the task that it had. A task must
therefore give the same files if it is done twice.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, final

from clipkit.errors import ClipkitError, ConfigError, DataError, first_line

_LOG: Final = logging.getLogger("clipkit")
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

Task = Callable[[int], dict[str, Any]]
"""Does the task of a number, and returns values that JSON can hold."""


class RayJob(ABC):
    """What the actors do (abstract); each receives a copy, so its fields are small."""

    @abstractmethod
    def prepare(self) -> Task:
        """Do once what all tasks of an actor need, such as loading a model.

        Raises:
            ClipkitError: If the job cannot be done; it ends for all actors.
        """


@final
@dataclass(frozen=True, slots=True)
class RayCluster:
    """A Ray cluster, and what an actor needs of a machine.

    Args:
        address: Address of a running cluster, such as "auto" or "10.0.0.5:6379"; "local" or None
            starts one on this machine, for the time of the job, which nothing outside can reach.
        num_cpus: Number of CPU cores of an actor without a GPU; at most those of the largest
            machine.
        use_gpus: Whether each actor gets a GPU; None if the cluster has any.
    """

    address: str | None = None
    num_cpus: int = 1
    use_gpus: bool | None = False


def run_on_ray(job: RayJob, numbers: Sequence[int], cluster: RayCluster) -> Iterator[Any]:
    """Yield the result of each task as soon as it is done, in any order.

    Warnings that an actor logs for clipkit are logged here.

    Args:
        job: What actors do.
        numbers: Numbers of the tasks.
        cluster: Where.

    Raises:
        ConfigError: If Ray is not installed, or the cluster does not answer.
        DataError: If a task fails; the job ends.
    """
    if not numbers:
        return
    with ray_session(cluster.address) as ray:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # An actor has one task, so that none waits for a busy actor while another one is free; an
        # actor is added while all are busy.
        context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
        pool = ray.data.ActorPoolStrategy(
            min_size=1, max_size=len(numbers), max_tasks_in_flight_per_actor=1
        )
        tasks = [{"number": number} for number in numbers]
        data = ray.data.from_items(tasks, override_num_blocks=len(tasks))
        per_machine, resources = _resources(ray, cluster)
        done = data.map(_Actor, fn_constructor_args=(job, per_machine), compute=pool, **resources)
        for row in done.iter_rows():
            outcome = json.loads(row["outcome"])
            for level, message in outcome["log"]:
                _LOG.log(level, "%s", message)
            if outcome["error"]:
                raise DataError(outcome["error"])
            yield outcome["result"]


@final
class _Actor:
    """Does tasks of a job in a process of its own."""

    def __init__(self, job: RayJob, per_machine: int) -> None:
        # Whatever divides the cores of a machine by the number of its processes reads this.
        os.environ["LOCAL_WORLD_SIZE"] = str(per_machine)
        self._job = job
        self._task: Task | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Return result, error and log of a task as JSON."""
        messages = _Messages()
        result, problem = None, ""
        _LOG.addHandler(messages)
        try:
            # Not in the constructor, whose errors would start the actor again, for ever.
            self._task = self._task or self._job.prepare()
            result = self._task(int(row["number"]))
        except (ClipkitError, OSError) as error:
            problem = f"{os.uname().nodename}: {error}"
        finally:
            _LOG.removeHandler(messages)
        outcome = {"result": result, "error": problem, "log": messages.found}
        return {"outcome": json.dumps(outcome)}


@final
class _Messages(logging.Handler):
    """Collects warnings and errors."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Collect a message."""
        self.found.append((record.levelno, record.getMessage()))


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


def _resources(ray: ModuleType, cluster: RayCluster) -> tuple[int, dict[str, float]]:
    """Return the largest number of actors on a machine, and what each needs."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most_cpus = int(max(machine.get("CPU", 1) for machine in machines))
    most_gpus = int(max(machine.get("GPU", 0) for machine in machines))
    if most_gpus if cluster.use_gpus is None else cluster.use_gpus:
        return max(most_gpus, 1), {"num_gpus": 1}
    num_cpus = max(1, min(cluster.num_cpus, most_cpus))
    return max(1, most_cpus // num_cpus), {"num_cpus": num_cpus}


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
