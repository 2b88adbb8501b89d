"""Errors of the API: their statuses, their bodies, and how routes document them."""

from __future__ import annotations

from typing import Any, Final, final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from clipkit.errors import ClipkitError, ConfigError, MetricError
from clipkit.search.serving.schemas import ErrorAnswer
from clipkit.suggestions import one_line

_LONGEST_ERROR: Final = 400
_SHOWN_INPUT: Final = 60
_DAMAGED_SECONDS: Final = 60
"""Value of ``Retry-After`` for a file of the collection that cannot be read."""

REASONS: Final = {
    400: "The request is damaged.",
    401: "The server has a token, and the request brings none or another one.",
    403: "The request comes from a page of another site.",
    404: "There is no such row, column, upload or page.",
    405: "The route has another method.",
    408: "The body did not arrive in time.",
    413: "The body is larger than the limit.",
    415: "The body is not of a type that the route reads.",
    416: "The file has no bytes in this range.",
    421: "The server is not reached under this host name.",
    422: "A value is out of its bounds, or of another type.",
    429: "Too many uploads at once.",
    503: "The server is loading or overloaded, or a file cannot be read; see Retry-After.",
}


@final
class HttpError(Exception):
    """A request that is refused.

    Args:
        status: Status code, a key of ``REASONS``.
        message: One line: expected, got.
        retry_seconds: Value of ``Retry-After``; None for no such header.
    """

    def __init__(self, status: int, message: str, retry_seconds: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_seconds = retry_seconds

    def response(self) -> JSONResponse:
        """Return the answer."""
        headers = {} if self.retry_seconds is None else {"Retry-After": str(self.retry_seconds)}
        return error_response(self.status, self.message, headers)


def error_response(
    status: int, message: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return an answer with one line of explanation."""
    line = one_line(message) or REASONS.get(status, "error")
    body = ErrorAnswer(error=line[:_LONGEST_ERROR])
    return JSONResponse(body.model_dump(), status, headers)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's ``responses`` for the errors of a route, with those of all routes."""
    common = (400, 401, 403, 408, 413, 421, 503)
    return {
        status: {"model": ErrorAnswer, "description": REASONS[status]}
        for status in sorted({*common, *statuses})
    }


def add_error_handlers(app: FastAPI) -> None:
    """Answer all errors with one line, and never with a traceback."""

    @app.exception_handler(HttpError)
    async def _(_: Request, error: HttpError) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def _(_: Request, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def _(_: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()[0]
        if isinstance(found.get("input"), bytes):  # the body was not parsed
            return error_response(415, "Content-Type: expected application/json")
        return error_response(422, _validation_line(found))

    @app.exception_handler(ClipkitError)
    async def _(_: Request, error: ClipkitError) -> JSONResponse:
        if isinstance(error, ConfigError | MetricError):  # of the request
            return error_response(422, str(error))
        return HttpError(503, str(error), _DAMAGED_SECONDS).response()


def _validation_line(found: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in found["loc"])
    shown = repr(found.get("input"))
    if len(shown) > _SHOWN_INPUT:
        shown = f"{shown[:_SHOWN_INPUT]}..."
    return f"{where}: {found['msg']}, got {shown}"
