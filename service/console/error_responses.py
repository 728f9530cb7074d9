"""Error responses of the admin API, in Anthropic's shape, and their OpenAPI documentation."""

import logging
from typing import Any

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException
from litestar.openapi.datastructures import ResponseSpec
from litestar.response import Response
from msgspec import Struct
from redis.exceptions import RedisError

from service.errors import AskedTooOften, ProxyError

log = logging.getLogger("ccproxy.console")


class DocumentedError(Struct, frozen=True):
    """An error: a type for programs and a message for people."""

    type: str
    message: str


class Problem(Struct, frozen=True):
    """An error's body."""

    type: str
    error: DocumentedError
    request_id: str


WORDS = {
    400: "Invalid request",
    401: "Missing or invalid token or session",
    403: "Viewer token, or missing CSRF token",
    404: "Not found",
    409: "Already exists",
    429: "Too many requests",
    503: "No worker or Redis available",
}
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
RETRY_S = 5


def documented(*statuses: int) -> dict[int, ResponseSpec]:
    """Return the OpenAPI responses for these error statuses."""
    return {status: ResponseSpec(Problem, description=WORDS[status], generate_examples=False) for status in statuses}


def fail(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Convert an exception to a response. Internal details stay in the log."""
    if isinstance(error, AskedTooOften):
        request.app.state.metrics.refuse("rate_limited")
    headers: dict[str, str] = {"cache-control": "no-store"}
    if isinstance(error, ProxyError):
        status, kind, message = error.status, error.type, error.message
        if error.retry_after_s is not None:
            headers["retry-after"] = str(error.retry_after_s)
    elif isinstance(error, HTTPException):
        status, kind = error.status_code, TYPES.get(error.status_code, "api_error")
        message = describe_validation(error)
        headers |= {"allow": error.headers["Allow"]} if error.headers and "Allow" in error.headers else {}
    elif isinstance(error, RedisError | OSError | TimeoutError):
        status, kind, message = 503, "api_error", "Redis can't be used; `ccproxy check` says why"
        headers["retry-after"] = str(RETRY_S)
    else:
        log.error("console.failed", exc_info=error)
        status, kind, message = 500, "api_error", "internal error; see the proxy's log"
    body = msgspec.json.encode(Problem(type="error", error=DocumentedError(type=kind, message=message), request_id=""))
    return Response(body, status_code=status, media_type="application/json", headers=headers)


def describe_validation(error: HTTPException) -> str:
    """Describe an invalid request, field by field."""
    extra = error.extra if isinstance(error.extra, list) else []
    faults = [f"{fault.get('key', '')}: {fault.get('message', '')}" for fault in extra if isinstance(fault, dict)]
    return "; ".join(faults) or error.detail


ERRORS: dict[Any, Any] = {RedisError: fail, OSError: fail, TimeoutError: fail, Exception: fail}
