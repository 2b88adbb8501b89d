"""Options of the server: address, access, limits."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Final

from clipkit.errors import ConfigError, check_at_least, check_range

MIN_TOKEN_LENGTH: Final = 16
_MAX_PORT: Final = 65_535


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of requests, which bound memory and time whatever clients send.

    Args:
        upload_bytes: Largest size of an uploaded image or sound file.
        upload_pixels: Largest number of pixels of an uploaded image.
        upload_seconds: Largest duration of an uploaded sound.
        uploads_at_once: Number of uploads that are received and decoded at a time.
        kept_uploads: Number of uploads whose embeddings are kept; the least recently used are
            removed.
        body_bytes: Largest size of a JSON body.
        body_seconds: Time in which a request's body must have arrived.
        request_seconds: Time in which a request must be answered, its body excluded.
        waiting: Number of requests that wait for a thread, beyond those that run.
        threads: Number of threads that decode images, read tables and search.
        thumbnail_bytes: Memory for thumbnails.
        table_bytes: Memory for keys, captions and classes of images.

    Raises:
        ConfigError: If a limit is not above 0; ``waiting`` may be 0.
    """

    upload_bytes: int = 20_000_000
    upload_pixels: int = 50_000_000
    upload_seconds: float = 600.0
    uploads_at_once: int = 8
    kept_uploads: int = 256
    body_bytes: int = 262_144
    body_seconds: float = 30.0
    request_seconds: float = 60.0
    waiting: int = 256
    threads: int = 4
    thumbnail_bytes: int = 64 * 2**20
    table_bytes: int = 512 * 2**20

    def __post_init__(self) -> None:
        check_at_least("Limits.waiting", self.waiting, 0)
        for field_of_class in fields(self):
            name, value = field_of_class.name, getattr(self, field_of_class.name)
            if name != "waiting" and not value > 0:
                raise ConfigError(f"Limits.{name}: expected more than 0, got {value}")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Options of ``clipkit search serve``.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 for a free one.
        token: Secret that every request must bring; None for none.
        allowed_hosts: Further names under which browsers reach the server, such as that of a
            reverse proxy; they need a token, too. Names of this machine's loopback and IP addresses
            are always accepted.
        model: Name or path of the model; None for the one that the collection names.
        device: Device of the model, or "auto" for a GPU if there is one.
        limits: Limits of requests.

    Raises:
        ConfigError: If the port is out of range, the token is short, or the server is open to other
            machines without a token.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    model: str | None = None
    device: str = "auto"
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_range("--port", self.port, 0, _MAX_PORT)
        if self.token is not None and not _is_token(self.token):
            raise ConfigError(
                f"token: expected at least {MIN_TOKEN_LENGTH} printable ASCII characters without "
                f"spaces, got {len(self.token)} characters; "
                '`python -c "import secrets; print(secrets.token_urlsafe())"` makes one'
            )
        if self.token is None and is_open(self.host, self.allowed_hosts):
            option, *names = "--host", self.host
            if is_loopback(self.host):
                option, *names = "--allowed-host", *self.allowed_hosts
            raise ConfigError(
                f"{option}: {names[0]} can be reached from other machines, which needs a token"
            )


def is_open(host: str, allowed_hosts: Sequence[str]) -> bool:
    """Return whether other machines reach a server: by its address, or through a proxy's name.

    Examples:
        >>> is_open("127.0.0.1", []), is_open("127.0.0.1", ["search.example.org"])
        (False, True)
    """
    return bool(allowed_hosts) or not is_loopback(host)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens on an address.

    Examples:
        >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def new_token() -> str:
    """Return a random token of 256 bits."""
    return secrets.token_urlsafe(32)


def _is_token(text: str) -> bool:
    return (
        len(text) >= MIN_TOKEN_LENGTH and text.isascii() and text.isprintable() and " " not in text
    )
