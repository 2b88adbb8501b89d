"""From what a user writes (braces, globs, folders, lists, unions) to the URLs of shards."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from glob import has_magic
from pathlib import Path
from typing import Any, Final

from clipkit.errors import DataError, ShardError

PIPE_PREFIX: Final = "pipe:"
STALL_SECONDS: Final = 60.0
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
_RANGE = re.compile(r"^(-?\d+|[A-Za-z])\.\.(-?\d+|[A-Za-z])(?:\.\.(-?\d+))?$")


def is_local(url: str) -> bool:
    """Whether ``url`` is a path of this machine."""
    return url.startswith("file://") or not (url.startswith(PIPE_PREFIX) or _SCHEME.match(url))


def local_path(url: str) -> Path:
    """The path that a local URL names."""
    return Path(url.removeprefix("file://")).expanduser()


def base_name(url: str) -> str:
    """The last part of a path or URL, without the signature that a signed URL carries.

    Example:
        >>> base_name("https://host/a/00000.tar?signature=abc")
        '00000.tar'
    """
    path = url.partition("?")[0] if url.startswith(("http://", "https://")) else url
    return path.rstrip("/").rpartition("/")[2]


def file_system(url: str, stall_seconds: float = STALL_SECONDS) -> tuple[Any, str]:
    """The fsspec file system for a remote URL, and the path inside it.

    Args:
        url: Where the file is.
        stall_seconds: An HTTP server that sends nothing for so long has failed. A slow one that
            sends something may take as long as it likes, where aiohttp's default would end any
            request after five minutes; other schemes have limits of their own packages.

    Raises:
        DataError: If the scheme is unknown or its package is not installed.
    """
    import fsspec

    options: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        import aiohttp

        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=stall_seconds, sock_read=stall_seconds
        )
        options["client_kwargs"] = {"timeout": timeout}
    try:
        system, path = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise DataError(f"{url}: cannot be opened: {error}") from error
    return system, str(path)


def expand_braces(pattern: str) -> Iterator[str]:
    """Every string that a pattern with ``{a,b}`` and ``{000..127}`` stands for, nested too.

    Example:
        >>> list(expand_braces("{a,b}-{09..10}.tar"))
        ['a-09.tar', 'a-10.tar', 'b-09.tar', 'b-10.tar']
    """
    start = pattern.find("{")
    while start != -1:
        end = _closing(pattern, start)
        choices = _choices(pattern[start + 1 : end]) if end != -1 else None
        if choices is not None:
            tails = list(expand_braces(pattern[end + 1 :]))
            for choice in choices:
                for middle in expand_braces(choice):
                    yield from (f"{pattern[:start]}{middle}{tail}" for tail in tails)
            return
        start = pattern.find("{", start + 1)
    yield pattern


def _closing(pattern: str, start: int) -> int:
    depth = 0
    for position in range(start, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[position], 0)
        if depth == 0:
            return position
    return -1


def _choices(inside: str) -> list[str] | None:
    """What one pair of braces offers; None where the braces mean themselves."""
    match = _RANGE.match(inside)
    if match:
        first, last, step_text = match.groups()
        step = abs(int(step_text or 1)) or 1
        if first.isalpha() != last.isalpha():
            return None
        if first.isalpha():
            low, high = ord(first), ord(last)
            return [chr(code) for code in _inclusive(low, high, step)]
        padded = any(
            len(text.lstrip("-")) > 1 and text.lstrip("-")[0] == "0" for text in (first, last)
        )
        width = max(len(first), len(last)) if padded else 0
        return [str(number).zfill(width) for number in _inclusive(int(first), int(last), step)]
    parts, depth = [""], 0
    for character in inside:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts if len(parts) > 1 else None


def _inclusive(first: int, last: int, step: int) -> range:
    return range(first, last + 1, step) if first <= last else range(first, last - 1, -step)


def expand_urls(urls: str | Path | Sequence[str | Path], *, allow_pipe: bool = False) -> list[str]:
    """The URLs of shards, in the order given; inside a glob or folder by name.

    Args:
        urls: One pattern or several: braces, globs, folders (their ``*.tar``), ``"::"`` unions.
        allow_pipe: Whether ``pipe:COMMAND`` may run a command of this machine.

    Raises:
        ShardError: If a pattern matches nothing or a shard is named twice.
        DataError: If a pipe is given and not allowed.
    """
    patterns = [urls] if isinstance(urls, str | Path) else list(urls)
    found: list[str] = []
    for pattern in patterns:
        text = str(pattern)
        if text.startswith(PIPE_PREFIX):
            if not allow_pipe:
                raise DataError(
                    f"{text}: a pipe runs a command of this machine; if you trust whoever wrote "
                    f"it, allow it: data.allow_pipe: true, or allow_pipe=True in Python"
                )
            found += expand_braces(text)
            continue
        for part in filter(None, text.split("::")):
            found += _expand_one(part)
    if not found:
        raise ShardError(
            f"no shards: expected URLs, folders or patterns of tar files, got {urls!r}"
        )
    seen: set[str] = set()
    for url in found:
        if url in seen:
            raise ShardError(
                f"{url}: named twice; to repeat a source, give it more epochs or weight"
            )
        seen.add(url)
    return found


def _expand_one(pattern: str) -> list[str]:
    found: list[str] = []
    for url in expand_braces(pattern):
        local = is_local(url)
        if local and local_path(url).is_dir():
            matches = sorted(str(path) for path in local_path(url).glob("*.tar"))
        elif local and has_magic(url) and not local_path(url).exists():
            matches = _local_glob(url)
        elif not local and "*" in url:  # "?" begins the query of a signed URL
            matches = _remote_glob(url)
        else:
            matches = [url]
        if not matches:
            raise ShardError(f"{url}: no shards match; expected at least one .tar file there")
        found += matches
    return found


def _local_glob(pattern: str) -> list[str]:
    path = local_path(pattern)
    anchor = Path(path.anchor) if path.is_absolute() else Path()
    relative = str(path.relative_to(path.anchor)) if path.is_absolute() else str(path)
    return sorted(
        str(match)
        for match in anchor.glob(relative)
        if match.is_file() and match.suffix not in {".npz", ".json", ".idx", ".txt"}
    )


def _remote_glob(pattern: str) -> list[str]:
    system, path = file_system(pattern)
    return sorted(system.unstrip_protocol(match) for match in system.glob(path))
