"""Load what is served in a thread, while the server already answers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Annotated, Final, final

from fastapi import Depends, Request

from clipkit.collection import CollectionInfo
from clipkit.errors import ClipkitError, first_line
from clipkit.search.serving.failures import HttpError
from clipkit.search.serving.load_service import Report
from clipkit.search.serving.schemas import StatusAnswer
from clipkit.search.serving.service import Service

_LOG: Final = logging.getLogger(__name__)
_RETRY_SECONDS: Final = 2


@final
class Loading:
    """State of the server: loading, ready or failed.

    Args:
        info: Content of ``collection.json``.
        load: Loads what is served; called in a thread.
    """

    def __init__(self, info: CollectionInfo, load: Callable[[Report], Service]) -> None:
        self._info = info
        self._load = load
        self._lock = threading.Lock()
        self._progress, self._message = 0.0, "starting"
        self._service: Service | None = None
        self.failure: str | None = None

    def start(self) -> None:
        """Begin to load; the process may end before it has ended."""
        threading.Thread(target=self._run, name="load", daemon=True).start()

    def _run(self) -> None:
        try:
            service = self._load(self._report)
        except ClipkitError as error:
            self._fail(str(error))
        except Exception as error:
            _LOG.debug("the collection cannot be loaded", exc_info=error)
            self._fail(f"{type(error).__name__}: {first_line(error)}")
        else:
            with self._lock:
                self._service, self._progress, self._message = service, 1.0, "ready"

    def _report(self, progress: float, message: str) -> None:
        with self._lock:
            self._progress = max(self._progress, min(1.0, progress))
            self._message = message

    def _fail(self, message: str) -> None:
        with self._lock:
            self.failure = self._message = " ".join(message.split())
        _LOG.error("loading failed: %s", self.failure)

    def close(self) -> None:
        """Drop the work that waits."""
        with self._lock:
            if self._service is not None:
                self._service.close()

    def status(self) -> StatusAnswer:
        """Return the answer of ``/api/status``."""
        with self._lock:
            service, failure = self._service, self.failure
            progress, message = self._progress, self._message
        state = "failed" if failure is not None else "loading" if service is None else "ready"
        info = self._info
        return StatusAnswer(
            state=state,  # type: ignore[arg-type]
            progress=progress,
            message=message,
            num_images=info.num_samples,
            model=info.model,
            engine="" if service is None else service.searcher.engine.description,
            columns=[] if service is None else service.columns,
            class_names=list(info.class_names),
            num_classes=len(info.class_names),
            modalities=[] if service is None else list(service.searchers),
        )

    def service(self) -> Service:
        """Return what is served.

        Raises:
            HttpError: 503 while it is loaded, and if that failed.
        """
        with self._lock:
            if self._service is not None:
                return self._service
            failure, progress, message = self.failure, self._progress, self._message
        if failure is not None:
            raise HttpError(503, f"loading failed: {failure}", 60)
        raise HttpError(503, f"loading ({progress:.0%}): {message}", _RETRY_SECONDS)


def _loading(request: Request) -> Loading:
    loading: Loading = request.app.state.loading
    return loading


def _service(loading: Annotated[Loading, Depends(_loading)]) -> Service:
    return loading.service()


CurrentLoading = Annotated[Loading, Depends(_loading)]
"""Dependency of a route: the state of the server."""

CurrentService = Annotated[Service, Depends(_service)]
"""Dependency of a route: what is served; the answer is 503 until it is loaded."""
