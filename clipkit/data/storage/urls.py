"""Expand what users write (braces, globs, folders, lists, unions) to addresses of shards.

A text is parsed once, into an ``Address`` with its kind. Names from a disk, a store or an index are
addresses from the start: they are never expanded, and never commands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import Any, Final, Literal, final

from clipkit.addresses import PIPE_PREFIX, has_scheme, is_local, local_path
from clipkit.data.storage.braces import expand_braces
from clipkit.errors import DataError, ShardError

STALL_SECONDS: Final = 60.0
UNION: Final = "::"
_NOT_SHARDS: Final = frozenset({".npz", ".json", ".idx", ".txt"})


@final
@dataclass(frozen=True, slots=True)
class Address:
    """Address of a file.

    Args:
        text: Path, URL, or command with the prefix ``pipe:``.
        kind: Kind of ``text``. Only ``parse_address`` creates "pipe", and only if it is allowed.
    """

    text: str
    kind: Literal["file", "remote", "pipe"]

    def __str__(self) -> str:
        return self.text

    @property
    def is_local(self) -> bool:
        """Whether this is a path of this machine."""
        return self.kind == "file"

    @property
    def path(self) -> Path:
        """The path of a local file, as it is: neither ``~`` nor anything else is expanded."""
        assert self.is_local, f"{self.text} is no path"
        return Path(self.text)

    @property
    def name(self) -> str:
        """The last part, without the signature that a signed URL carries."""
        return base_name(self.text)

    @property
    def folder(self) -> Address | None:
        """Folder of the file; None for a command's output."""
        if self.kind == "pipe":
            return None
        if self.is_local:
            return file_address(self.path.parent)
        return Address(self.text.partition("?")[0].rpartition("/")[0], self.kind)

    def child(self, name: str) -> Address:
        """Return the address of a file in this folder; ``name`` is not expanded."""
        if self.is_local:
            return file_address(self.path / name)
        return Address(f"{self.text}/{name}", self.kind)


Patterns = str | Path | Address | Sequence[str | Path | Address]
"""Patterns of shards; see ``expand_urls``."""


def file_address(path: Path) -> Address:
    """Return the address of a file that was listed, so that its name is not expanded."""
    return Address(str(path), "file")


def parse_address(text: str, *, allow_pipe: bool = False) -> Address:
    """Classify a user's text as a path, a URL or a command; only ``~`` is expanded."""
    if text.startswith(PIPE_PREFIX):
        if not allow_pipe:
            raise DataError(
                f"{text}: a pipe runs a command of this machine; if you trust its author, "
                f"allow it: data.storage.allow_pipe: true, or allow_pipe=True in Python"
            )
        return Address(text, "pipe")
    return file_address(local_path(text)) if is_local(text) else Address(text, "remote")


def base_name(url: str) -> str:
    """Return the last part of a path or URL, without the signature of a signed URL.

    Examples:
        >>> base_name("https://host/a/00000.tar?signature=abc")
        '00000.tar'
    """
    path = url.partition("?")[0] if url.startswith(("http://", "https://")) else url
    return path.rstrip("/").rpartition("/")[2]


def file_system(url: str, stall_seconds: float = STALL_SECONDS) -> tuple[Any, str]:
    """Return the fsspec file system for a remote URL, and the path inside it."""
    import fsspec

    import clipkit.data.storage.forks  # noqa: F401 (it registers what a fork has to do)

    if UNION in url:
        # fsspec would open a chain of file systems, one inside the other.
        raise DataError(f"{url}: expected the URL of one file, got several joined by {UNION!r}")
    options: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        import aiohttp

        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=stall_seconds, sock_read=stall_seconds
        )
        options["client_kwargs"] = {"timeout": timeout}
    try:
        system, path = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError, TypeError, AttributeError) as error:
        # Schemes that open a part of another file system need arguments that a URL cannot have.
        raise DataError(f"{url}: cannot be opened: {error}") from error
    return system, str(path)


def expand_urls(urls: Patterns, *, allow_pipe: bool = False) -> list[Address]:
    """Return the addresses of patterns, in their order; inside a glob or folder by name."""
    found: list[Address] = []
    for pattern in _listed(urls):
        if isinstance(pattern, Address):
            found.append(pattern)
        else:
            for one in parse_patterns(pattern, allow_pipe=allow_pipe):
                found += _matches(one)
    if not found:
        raise ShardError(
            f"no shards: expected URLs, folders or patterns of tar files, got {urls!r}"
        )
    return found


def parse_patterns(urls: Patterns, *, allow_pipe: bool = False) -> Iterator[Address]:
    """Split unions and expand braces; folders, globs and ``Address`` stay as they are."""
    for pattern in _listed(urls):
        if isinstance(pattern, Address):
            continue
        if (path := _existing(pattern)) is not None:
            yield file_address(path)
        elif isinstance(pattern, Path):
            yield from (file_address(local_path(text)) for text in expand_braces(str(pattern)))
        else:
            # A command may contain "::".
            parts = [pattern] if pattern.startswith(PIPE_PREFIX) else pattern.split(UNION)
            texts = (text for part in parts if part for text in expand_braces(part))
            yield from (parse_address(text, allow_pipe=allow_pipe) for text in texts)


def _listed(urls: Patterns) -> list[str | Path | Address]:
    return [urls] if isinstance(urls, str | Path | Address) else list(urls)


def _existing(pattern: str | Path) -> Path | None:
    """Return the file or folder of exactly this name, which has priority."""
    if isinstance(pattern, str) and has_scheme(pattern) and not is_local(pattern):
        return None
    path = pattern if isinstance(pattern, Path) else local_path(pattern)
    return path if exists(path) else None


def exists(path: Path) -> bool:
    """Return whether a path exists; False for a name that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a name, or with a NUL
        return False


def _matches(address: Address) -> list[Address]:
    if address.is_local:
        return _files(address.path)
    if address.kind == "remote" and "*" in address.text:  # "?" begins the query of a signed URL
        return _nonempty(_remote_glob(address.text), address.text)
    return [address]


def _files(path: Path) -> list[Address]:
    """List the tars of a folder, what a glob matches, or the file itself."""
    if is_folder(path):
        paths = sorted(path.glob("*.tar"))
    elif has_magic(str(path)) and not exists(path):
        paths = _local_glob(path)
    else:
        paths = [path]
    return _nonempty([file_address(path) for path in paths], str(path))


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; False for a name that no folder can have."""
    return exists(path) and path.is_dir()


def _nonempty(found: list[Address], pattern: str) -> list[Address]:
    if not found:
        raise ShardError(f"{pattern}: no shards match; expected at least one .tar file there")
    return found


def _local_glob(path: Path) -> list[Path]:
    anchor = Path(path.anchor) if path.is_absolute() else Path()
    relative = str(path.relative_to(path.anchor)) if path.is_absolute() else str(path)
    try:
        return sorted(
            match
            for match in anchor.glob(relative)
            if match.is_file() and match.suffix not in _NOT_SHARDS
        )
    except (OSError, ValueError) as error:
        raise ShardError(f"{path}: cannot be searched: {error}") from error


def _remote_glob(pattern: str) -> list[Address]:
    system, path = file_system(pattern)
    try:
        names = sorted(system.unstrip_protocol(match) for match in system.glob(path))
    except Exception as error:  # the stores' errors have no common base
        raise ShardError(f"{pattern}: cannot be listed: {error or type(error).__name__}") from error
    return [Address(name, "remote") for name in names]
