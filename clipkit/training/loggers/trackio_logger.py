"""Log the history of a run with trackio."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Literal, final

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger

from clipkit.errors import ConfigError


@final
class TrackioLogger(Logger):
    """Writes metrics, configuration and environment with trackio, to this machine or a Space.

    Local data are stored in the folder that the variable ``TRACKIO_DIR`` names, and
    ``trackio show`` displays them.

    Args:
        project: Name of the project.
        name: Name of the run; None for a new name at each start.
        resume: Whether a run of this name is continued ("allow"), must exist ("must"), or is left
            as it is and a new one starts ("never").
        space_id: Space of the Hugging Face Hub, ``OWNER/NAME``; None for this machine.

    Raises:
        ConfigError: If trackio is not installed.
    """

    def __init__(
        self,
        project: str,
        name: str | None = None,
        resume: Literal["allow", "must", "never"] = "allow",
        space_id: str | None = None,
    ) -> None:
        super().__init__()
        try:
            self._trackio = importlib.import_module("trackio")
        except ImportError as error:
            raise ConfigError(
                "TrackioLogger: expected the package trackio, found none; pip install "
                "'clipkit[trackio]'"
            ) from error
        self._project = project
        self._name = name
        self._resume = resume
        self._space_id = space_id
        self._config: dict[str, Any] = {}
        self._run: Any = None

    @property
    def name(self) -> str:
        """Name of the project."""
        return self._project

    @property
    def version(self) -> str:
        """Name of the run; empty before it has one."""
        return self._name or ""

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Take the options that the run starts with.

        Args:
            params: Options by name, in plain types.
        """
        self._config.update(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values, and start the run at the first of them.

        Args:
            metrics: Values by name.
            step: Step of the values; None for the next one.
        """
        if self._run is None:
            self._run = self._trackio.init(
                project=self._project,
                name=self._name,
                resume="never" if self._name is None else self._resume,
                space_id=self._space_id,
                config=self._config,
                embed=False,
            )
            self._name = self._run.name
        self._run.log(dict(metrics), step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is waiting."""
        if self._run is not None:
            self._run.finish()
            self._run = None
            self._resume = "allow"  # a second fit, or a test after it, continues this run
