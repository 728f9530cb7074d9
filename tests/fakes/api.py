"""From a request to its answer: who may ask, what the script says, what the provider would say by itself.

It works on data only; `connection.py` brings the requests and carries the answers out.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from tests.fakes import checks, oauth, reply
from tests.fakes.compression import BadEncoding, decompress
from tests.fakes.delivery import Answer
from tests.fakes.language import Error, Message, Raw, Received, Reply, Usage
from tests.fakes.resources import Resources, container, not_found
from tests.fakes.sse import Made, Piece, message_events, message_fields, message_json
from tests.fakes.zai_quota import QUOTA_PATH, ZaiQuota

if TYPE_CHECKING:
    from collections.abc import Collection

    from tests.fakes.book import Book
    from tests.fakes.vendors import Vendor

MESSAGES_PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"
STATUS_OF_TYPE = {kind: status for status, (kind, _) in reversed(reply.ERROR_TYPES.items())}


class Api:
    """One provider. `keys` are the valid credentials, None for any; `model_prefixes` of () takes every model."""

    def __init__(
        self,
        vendor: Vendor,
        book: Book,
        *,
        keys: set[str] | None,
        refresh_tokens: Collection[str] = (),
        model_prefixes: tuple[str, ...] | None = None,
    ) -> None:
        self.vendor = vendor
        self.credentials = checks.Credentials(keys)
        self.oauth = oauth.OAuth(self.credentials, set(refresh_tokens))
        self.quota = ZaiQuota()
        self.resources = Resources(vendor.models, make_message=self._batch_message)
        self._book = book
        self._prefixes = vendor.model_prefixes if model_prefixes is None else model_prefixes
        self._numbers = itertools.count(1)

    async def serve(self, request: Received) -> Answer:
        """The answer to one request."""
        checks.note_credential(request)
        path = self._canonical(request.path)
        if path is None:
            return self._answer(not_found(request.path), {})
        body = decoded(request)
        chosen = self._refusal(request, path, body) or self._book.take(request, path)
        if chosen is None:
            chosen = self._book.default if self._is_inference(request, path) else self._own(request, path, body)
        return self._answer(chosen, body, inference=path == MESSAGES_PATH)

    def _canonical(self, path: str) -> str | None:
        """The path without the base path; None for one that lies outside it."""
        base = self.vendor.base_path
        if not base or path == QUOTA_PATH:
            return path
        return path.removeprefix(base) if path.startswith(base + "/") else None

    def _is_inference(self, request: Received, path: str) -> bool:
        return path == MESSAGES_PATH and request.method == "POST"

    def _refusal(self, request: Received, path: str, body: dict[str, Any]) -> Reply | None:
        """What is refused whatever the script says."""
        if path in (oauth.TOKEN_PATH, "/", "/api/hello"):
            return None
        refusal = checks.check_credential(request, self.vendor, self.credentials.valid)
        if refusal is None and path in (MESSAGES_PATH, COUNT_PATH) and request.method == "POST":
            refusal = checks.check_message(request, body, self.vendor, self._prefixes)
            refusal = refusal or self.resources.thread_refusal(body)
        return refusal

    def _own(self, request: Received, path: str, body: dict[str, Any]) -> Reply:
        """What the provider says by itself, on every path but the one of inference."""
        kind = self.vendor.kind
        if path == COUNT_PATH and request.method == "POST":
            return reply.json({"input_tokens": max(1, len(request.body) // 4 + len(body))})
        if kind == "subscription" and path == oauth.TOKEN_PATH and request.method == "POST":
            return self.oauth.token(request)
        if kind == "subscription" and path == oauth.USAGE_PATH:
            return self.oauth.usage()
        if kind == "zai" and path == QUOTA_PATH:
            return self.quota.answer(request)
        found = self.resources.answer(request, path) if self.vendor.has_resources else None
        return found or not_found(request.path)

    # -- from a reply to an answer

    def _answer(self, chosen: Reply, body: dict[str, Any], *, inference: bool = False) -> Answer:
        request_id = self.vendor.new_request_id()
        headers: dict[str, str | None] = dict(self.vendor.answer_headers(request_id, inference=inference))
        match chosen.body:
            case Message() as message:
                answer = self._message_answer(message, body, streams=body.get("stream") is True)
            case Error() as error:
                answer = self._error_answer(error, request_id)
            case Raw() as raw:
                answer = _raw_answer(raw)
        headers |= dict(answer.headers) | self._book.extra_headers | {k.lower(): v for k, v in chosen.headers.items()}
        sent = [(name, value) for name, value in headers.items() if value is not None]
        kind = answer.kind if inference else "api"
        return replace(answer, headers=sent, delivery=chosen.delivery, request_id=request_id, kind=kind)

    def _message_answer(self, message: Message, body: dict[str, Any], *, streams: bool) -> Answer:
        streams = {"asked": streams, "json": False, "sse": True}[message.form]
        if message.error is not None and not streams:
            error = message.error
            status = STATUS_OF_TYPE.get(error.error_type, 500)
            return self._error_answer(
                Error(status=status, error_type=error.error_type, message=error.message), self.vendor.new_request_id()
            )
        made = self._made(message, body)
        self.resources.message_ids.add(made.message_id)
        return Answer(
            status=200,
            headers=[("content-type", self.vendor.sse_type if streams else "application/json")],
            pieces=message_events(made) if streams else [message_json(made)],
            streams=streams,
            kind="message",
            message_id=made.message_id,
            model=made.model,
        )

    def _made(self, message: Message, body: dict[str, Any]) -> Made:
        usage = message.usage if message.usage is not None else small_usage(next(self._numbers))
        model = message.model or str(body.get("model"))
        return Made(message, model=model, usage=usage, style=self.vendor.style, container=container(body))

    def _batch_message(self, params: dict[str, Any]) -> dict[str, Any]:
        message = reply.message().body
        return message_fields(self._made(message, params)) if isinstance(message, Message) else {}

    def _error_answer(self, error: Error, request_id: str) -> Answer:
        retry = str(error.status in (408, 409, 429) or error.status >= 500).lower()
        headers = [("content-type", "application/json")]
        if self.vendor.style == "anthropic":
            headers.append(("x-should-retry", retry))
        data = msgspec.json.encode(error_fields(error, request_id))
        return Answer(status=error.status, headers=headers, pieces=[Piece("body", data)], kind="error")


def _raw_answer(raw: Raw) -> Answer:
    headers = [("content-type", raw.content_type)] if raw.content_type else []
    streams = bool(raw.content_type and raw.content_type.startswith("text/event-stream"))
    pieces = [Piece("body", raw.body)] if raw.body else []
    return Answer(status=raw.status, headers=headers, pieces=pieces, streams=streams, kind="raw")


def error_fields(error: Error, request_id: str) -> dict[str, Any]:
    """The error's body in its shape; with a code, the message bears it as Z.AI's do."""
    fields: dict[str, Any] = {"type": error.error_type, "message": error.message}
    if error.details is not None:
        fields["details"] = error.details
    if error.code is None:
        return {"type": "error", "error": fields, "request_id": request_id}
    if error.shape == "bare":
        return {"error": {"code": error.code, "message": error.message}, "request_id": request_id}
    if error.shape == "typed":
        return {"type": "error", "error": {"type": error.code, "message": error.message}}
    fields["message"] = f"[{error.code}][{error.message}][{request_id}]"
    if error.shape == "anthropic":
        fields["code"] = error.code
    return {"type": "error", "error": fields, "request_id": request_id}


def small_usage(number: int) -> Usage:
    """The usage of the n-th unscripted answer: small, never the same in all kinds, the same in every run."""
    return Usage(
        input=11 + number % 17,
        output=5 + number % 11,
        cache_read=3 * (number % 5),
        cache_write_5m=2 * (number % 3),
        cache_write_1h=number % 2,
    )


def decoded(request: Received) -> dict[str, Any]:
    """The request's JSON object, decompressed if need be; {} when it is none."""
    try:
        encoding = (request.header("content-encoding") or "identity").lower()
        value = msgspec.json.decode(decompress(request.body, encoding))
    except (msgspec.DecodeError, UnicodeDecodeError, BadEncoding):
        return {}
    return value if isinstance(value, dict) else {}
