"""Fetch remote shards that will be needed soon, in the background."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Iterable
from typing import Any, Final, final

from clipkit.data.storage.cache import RemoteFile, ShardCache

_LOG = logging.getLogger(__name__)
_THREADS: Final = 4


@final
class Prefetcher:
    """Fetches shards into a cache in the background.

    A transfer that fails is retried, and its error reported, when the shard is read.

    Args:
        cache: Cache of the shards.
    """

    def __init__(self, cache: ShardCache) -> None:
        self._cache = cache
        self._wanted: queue.Queue[RemoteFile] = queue.Queue()
        self._under_way: set[RemoteFile] = set()
        self._lock = threading.Lock()
        self._process = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"cache": self._cache}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["cache"])

    def request(self, remotes: Iterable[RemoteFile]) -> None:
        """Fetch these files, unless they are there or being fetched."""
        for remote in remotes:
            with self._lock:
                if remote in self._under_way or self._cache.path_of(remote).exists():
                    continue
                self._under_way.add(remote)
            self._start()
            self._wanted.put(remote)

    def _start(self) -> None:
        with self._lock:
            if self._process == os.getpid():  # threads do not survive a fork
                return
            self._process = os.getpid()
        for number in range(_THREADS):
            # Daemons: a worker that ends must not wait for a transfer.
            threading.Thread(target=self._work, name=f"prefetch-{number}", daemon=True).start()

    def _work(self) -> None:
        while True:
            remote = self._wanted.get()
            try:
                self._cache.fetch(remote)
            except Exception as error:
                _LOG.debug("prefetch of %s failed: %s", remote.address, error)
            finally:
                with self._lock:
                    self._under_way.discard(remote)
