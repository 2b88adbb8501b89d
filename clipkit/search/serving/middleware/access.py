"""Who may use the server: host names, pages of other sites, the token."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from http.cookies import CookieError, SimpleCookie
from typing import Final, final
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from clipkit.search.serving.failures import error_response
from clipkit.search.serving.page import page_files

_COOKIE_SECONDS: Final = 30 * 24 * 3600
_BEARER: Final = "bearer "
_ROOT: Final = "/"
_PUBLIC: Final = "/static/"
_LOOPBACK_NAMES: Final = frozenset({"localhost", "localhost."})
_OTHER_SITES: Final = frozenset({"cross-site", "same-site"})


@final
class AccessControl:
    """Refuses requests under other host names, from pages of other sites, and without the token.

    A page of another site can have its name resolve to this machine (DNS rebinding); its requests
    then have that name in ``Host``. IP addresses are accepted, because no name resolves to another
    one under them.

    Args:
        app: The application.
        token: Secret that requests must bring; None for none.
        allowed_hosts: Further names under which the server is reached.
    """

    def __init__(self, app: ASGIApp, token: str | None, allowed_hosts: tuple[str, ...]) -> None:
        self._app = app
        self._named = frozenset(name.lower() for name in allowed_hosts)
        self._gate = None if token is None else TokenGate(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope, Headers(scope=scope))
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the answer to a request that must not reach the application."""
        given = headers.getlist("host")
        host = host_name(given[0]) if len(given) == 1 else None
        if host is None or not self._is_known(host):
            return error_response(
                421,
                f"Host: expected localhost, an IP address or a name of --allowed-host, got "
                f"{', '.join(given) or 'none'}",
            )
        if self._is_of_another_site(scope, headers, given[0]):
            return error_response(
                403, "Origin: expected a request of this server's own page, got another site's"
            )
        return None if self._gate is None else self._gate.refusal(scope, headers)

    def _is_known(self, host: str) -> bool:
        return host in _LOOPBACK_NAMES or host in self._named or _is_ip_address(host)

    def _is_of_another_site(self, scope: Scope, headers: Headers, host: str) -> bool:
        """Return whether a browser sent the request for a page of another site."""
        opens_page = scope["method"] == "GET" and scope["path"] == _ROOT
        if headers.get("sec-fetch-site") in _OTHER_SITES and not opens_page:
            return True
        origin = headers.get("origin")
        if origin is None:
            return False
        parts = _split(origin)
        return parts is None or not (parts[0] == host.lower() or parts[1] in self._named)


@final
class TokenGate:
    """Checks the token of requests, and gives browsers a cookie.

    ``/?token=TOKEN`` sets the cookie and redirects to ``/``, so that the token does not stay in the
    address bar. Scripts of the page cannot read the cookie, and it is not the token.

    Args:
        token: The token.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        # Cookies are shared by all ports of a machine: the name must differ between servers.
        self._cookie_name = f"clipkit_{_digest(b'name', self._token)[:12]}"
        self._cookie = _digest(b"cookie", self._token)

    def refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the answer to a request that must not reach the application."""
        if scope["path"].startswith(_PUBLIC):  # what the page for the token consists of
            return None
        opens_page = scope["path"] == _ROOT and scope["method"] == "GET"
        if opens_page and (given := _query_token(scope)) is not None:
            return self._welcome(scope) if self._is_token(given) else _token_page()
        if self._has_token(headers):
            return None
        if opens_page:
            return _token_page()
        answer = error_response(
            401, "token: expected the header 'Authorization: Bearer TOKEN', or the page's cookie"
        )
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    def _has_token(self, headers: Headers) -> bool:
        given = headers.get("authorization", "")
        if given[: len(_BEARER)].lower() == _BEARER:
            return self._is_token(given[len(_BEARER) :].strip())
        cookie = _cookie_value(headers, self._cookie_name)
        return hmac.compare_digest(cookie.encode(), self._cookie.encode())

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors="replace"), self._token)

    def _welcome(self, scope: Scope) -> Response:
        answer = RedirectResponse(_ROOT, 303)
        answer.set_cookie(
            self._cookie_name,
            self._cookie,
            max_age=_COOKIE_SECONDS,
            httponly=True,
            samesite="strict",
            secure=scope["scheme"] == "https",
        )
        return answer


def host_name(header: str) -> str | None:
    """Return the name in a ``Host`` header, without the port; None if the header is damaged.

    Examples:
        >>> host_name("Localhost:8000"), host_name("[::1]:80"), host_name("a@b")
        ('localhost', '::1', None)
    """
    parts = _split(f"http://{header}")
    return None if parts is None else parts[1]


def _split(address: str) -> tuple[str, str] | None:
    """Return ``name:port`` and the name of an address without path; None if it is damaged."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return None
    rest = (parts.path, parts.query, parts.fragment)
    if not parts.hostname or any(rest) or "@" in parts.netloc or port == 0:
        return None
    return parts.netloc.lower(), parts.hostname


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _query_token(scope: Scope) -> str | None:
    given = parse_qs(scope["query_string"].decode("latin-1")).get("token")
    return None if given is None else given[0]


def _cookie_value(headers: Headers, name: str) -> str:
    try:
        cookies = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookies[name].value if name in cookies else ""


def _token_page() -> Response:
    file = page_files()["token.html"]
    return Response(file.content, 401, media_type=file.media_type)


def _digest(purpose: bytes, token: bytes) -> str:
    return hmac.new(token, b"clipkit search " + purpose, hashlib.sha256).hexdigest()
