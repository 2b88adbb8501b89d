"""Run the tasks of a job on a Ray cluster: each actor prepares once, then does one after another.

Ray Data schedules the tasks, starts as many actors as the cluster has room for, and starts an
actor that was lost again, elsewhere if its machine is gone, with the task that it had. A task must
therefore give the same files if it is done twice. A task whose actors are lost again and again,
such as one that needs more memory than there is, is given up, and the others are done.
"""

from __future__ import annotations

import json
import logging
import os
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, final

from clipkit.distributed.ray_session import ray_session
from clipkit.errors import ClipkitError, DataError, first_line

_LOG: Final = logging.getLogger("clipkit")
_MOST_LOST: Final = 4
"""Tasks that are given up before the job ends; it ends at the next one."""

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
        num_retries: How often a task is done again whose actor was lost.
    """

    address: str | None = None
    num_cpus: int = 1
    use_gpus: bool | None = False
    num_retries: int = 5


def run_on_ray(
    job: RayJob,
    numbers: Sequence[int],
    cluster: RayCluster,
    named: Callable[[int], str] = "task {}".format,
) -> Iterator[Any]:
    """Yield the result of each task as soon as it is done, in any order.

    Warnings that an actor logs for clipkit are logged here.

    Args:
        job: What actors do.
        numbers: Numbers of the tasks.
        cluster: Where.
        named: Returns the name of a task, for messages.

    Raises:
        ConfigError: If Ray is not installed, or the cluster does not answer.
        DataError: If a task fails, and the job ends; or if tasks were given up because their actors
            were lost, after the others are done, or as soon as more than four were given up.
    """
    if not numbers:
        return
    with ray_session(cluster.address) as ray:
        left, lost = dict.fromkeys(numbers), list[str]()
        try:
            for outcome in _outcomes(ray, job, numbers, cluster):
                for level, message in outcome["log"]:
                    _LOG.log(level, "%s", message)
                name = named(outcome["number"])
                if outcome["error"]:
                    raise DataError(f"{name}: {outcome['error']}")
                del left[outcome["number"]]
                if outcome["is_lost"]:
                    lost.append(name)
                    if len(lost) > _MOST_LOST:
                        raise DataError(_given_up(lost, cluster) + "; the job has ended")
                else:
                    yield outcome["result"]
        except ray.exceptions.RayError as error:
            names = ", ".join(map(named, list(left)[:_MOST_LOST]))
            raise DataError(
                f"{len(left)} of {len(numbers)} tasks are not done, such as {names}: "
                f"{first_line(error)} The same command continues"
            ) from error
        if lost:
            raise DataError(_given_up(lost, cluster) + "; everything else is done")


def _given_up(names: Sequence[str], cluster: RayCluster) -> str:
    return (
        f"{', '.join(names)}: given up, because the process that did it ended "
        f"{cluster.num_retries + 1} times, such as for lack of memory"
    )


def _outcomes(
    ray: ModuleType, job: RayJob, numbers: Sequence[int], cluster: RayCluster
) -> Iterator[dict[str, Any]]:
    """Yield what the actors return, in any order."""
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
    # Ray repeats the task of a lost actor for ever, and can be told otherwise in old versions only.
    counter = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Attempts).remote()
    given = (job, per_machine, counter, cluster.num_retries + 1)
    done = data.map(_Actor, fn_constructor_args=given, compute=pool, **resources)
    for row in done.iter_rows():
        yield json.loads(row["outcome"])


@final
class _Attempts:
    """Counts how often each task was begun, in a process of its own."""

    def __init__(self) -> None:
        self._counts = Counter[int]()

    def begin(self, number: int) -> int:
        """Count a task that is begun now, and return its count."""
        self._counts[number] += 1
        return self._counts[number]


@final
class _Actor:
    """Does tasks of a job in a process of its own."""

    def __init__(self, job: RayJob, per_machine: int, counter: Any, most_attempts: int) -> None:
        # Whatever divides the cores of a machine by the number of its processes reads this.
        os.environ["LOCAL_WORLD_SIZE"] = str(per_machine)
        self._job = job
        self._counter = counter
        self._most_attempts = most_attempts
        self._task: Task | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Return result, error and log of a task as JSON."""
        import ray

        number, messages = int(row["number"]), _Messages()
        result, problem = None, ""
        is_lost = ray.get(self._counter.begin.remote(number)) > self._most_attempts
        _LOG.addHandler(messages)
        try:
            if not is_lost:
                # Not in the constructor, whose errors would start the actor again, for ever.
                self._task = self._task or self._job.prepare()
                result = self._task(number)
        except (ClipkitError, OSError) as error:
            problem = f"{os.uname().nodename}: {error}"
        except Exception as error:  # such as of a GPU's memory, or of a worker that was killed
            messages.found.append((logging.ERROR, traceback.format_exc().rstrip()))
            problem = f"{os.uname().nodename}: {type(error).__name__}: {first_line(error)}"
        finally:
            _LOG.removeHandler(messages)
        outcome = {
            "number": number, "result": result, "error": problem, "is_lost": is_lost,
            "log": messages.found,
        }  # fmt: skip
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


def _resources(ray: ModuleType, cluster: RayCluster) -> tuple[int, dict[str, float]]:
    """Return the largest number of actors on a machine, and what each needs."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most_cpus = int(max(machine.get("CPU", 1) for machine in machines))
    most_gpus = int(max(machine.get("GPU", 0) for machine in machines))
    if most_gpus if cluster.use_gpus is None else cluster.use_gpus:
        return max(most_gpus, 1), {"num_gpus": 1}
    num_cpus = max(1, min(cluster.num_cpus, most_cpus))
    return max(1, most_cpus // num_cpus), {"num_cpus": num_cpus}
