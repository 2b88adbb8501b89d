"""A file of lines that survives a full disk without stopping the run."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final, final

_LOG: Final = logging.getLogger(__name__)


@final
class BufferedLineLog:
    r"""Appends lines, in one write each time, so that those of several processes do not mix.

    Lines that the disk refuses are kept, reported once, and written before the next lines: the file
    has all of them in order as soon as there is space. Lines are small, so memory is no concern.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting = b""

    def append(self, text: str) -> None:
        """Write complete lines, after those that wait."""
        was_refused = bool(self._waiting)
        self._waiting += text.encode()
        try:
            self._write()
        except OSError as error:
            if not was_refused:
                _LOG.error("%s: not written: %s; tried again later", self.path, error.strerror)
            return
        if was_refused:
            _LOG.warning("%s: written again, nothing is missing", self.path)

    def close(self) -> None:
        """Try a last time, and report lines that are lost."""
        if not self._waiting:
            return
        try:
            self._write()
        except OSError as error:
            lines = self._waiting.count(b"\n")
            _LOG.error("%s: the last %d lines are missing: %s", self.path, lines, error.strerror)

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            written = os.write(descriptor, self._waiting)
            if written < len(self._waiting):
                # Remove it: lines of other processes must not follow half a line.
                end = os.lseek(descriptor, 0, os.SEEK_CUR)
                os.ftruncate(descriptor, end - written)
                raise OSError(28, os.strerror(28), str(self.path))
        finally:
            os.close(descriptor)
        self._waiting = b""
