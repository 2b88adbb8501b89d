"""Errors of files that cannot be read: a damaged file is replaced, an overloaded machine is not."""

from __future__ import annotations

import errno
from typing import Final

from clipkit.data.storage.remote import SYSTEM_ERRNOS
from clipkit.errors import DataError

_TOO_MANY_FILES: Final = {errno.EMFILE, errno.ENFILE}
_OF_MACHINE: Final = SYSTEM_ERRNOS | {
    errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT
}  # fmt: skip
_MORE_FILES: Final = "raise the number of files that a process may open: ulimit -n 65536"


def unreadable(where: object, error: Exception, remedy: str) -> DataError:
    """Return the error of a file that cannot be read, with what mends it.

    Args:
        where: The file.
        error: Why.
        remedy: What mends a missing or damaged file; not said if the machine cannot read any.

    Examples:
        >>> unreadable("a.npy", OSError(24, "Too many open files"), "write it again")
        DataError('a.npy: cannot be read (Too many open files); raise the number of files ...')
    """
    number = getattr(error, "errno", None)
    # Arrow repeats the name of the file in its reason.
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if number in _TOO_MANY_FILES:
        remedy = _MORE_FILES
    elif number in _OF_MACHINE:
        remedy = ""
    return DataError(f"{where}: cannot be read ({reason})" + (f"; {remedy}" if remedy else ""))


def is_of_machine(error: DataError) -> bool:
    """Return whether an error of ``unreadable`` says nothing about the file.

    Too many files are open, a server does not answer, or the file may not be read.
    """
    return getattr(error.__cause__, "errno", None) in _OF_MACHINE
