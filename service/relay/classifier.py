"""Classifies a provider's error: the facts of this response, put before routing's table. An error that no rule knows
and that names a part of the request is the request's own fault.

Not here: reading the facts (`providers.error_facts`), or the table (`routing.failure`).
"""

import re
from collections.abc import Collection
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from msgspec.structs import replace

from service.fleet.clock import Clock
from service.protocol.raw_json import UNREADABLE
from service.protocol.tap import StreamError
from service.providers.error_facts import error_facts, facts_for
from service.relay.attempt import UpstreamExchange
from service.relay.client import ClientRequest
from service.routing.error_words import points_into_request
from service.routing.failure import Failure, FailureTable, Texts, classify
from service.settings.failure_rules import Rules

STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The HTTP status of each of Anthropic's error types (its documentation), for errors that came inside a 200."""


NAMED_MODEL = re.compile(r"\bmodel:\s*[`'\"]?([\w.@:/-]*\w)")
"""As in Anthropic's "model: claude-opus-5-5"."""


class FailureClassifier:
    """Tells what an error means, by the rules of the settings."""

    def __init__(self, rules: Rules, clock: Clock) -> None:
        self._table = FailureTable(rules)
        self._clock = clock

    def classify_response(self, exchange: UpstreamExchange, body: bytes) -> Failure:
        """The failure that an error response means."""
        return self._failure(exchange, exchange.upstream.status, body)

    def classify_stream_error(self, exchange: UpstreamExchange, error: StreamError) -> Failure:
        """The failure that an error inside a 200 means, with the status that it would have had as a response."""
        return replace(self._failure(exchange, 200, error.data), status=STATUS_OF_TYPE.get(error.type, 500))

    def _failure(self, exchange: UpstreamExchange, status: int, body: bytes) -> Failure:
        plan, now_ms = exchange.plan, self._clock.now_ms()
        facts = error_facts(status, exchange.upstream.headers, body, now_ms)
        texts = cache(lambda: texts_of(exchange.request))
        failure = classify(facts_for(facts, plan.route, plan.model, now_ms), now_ms, self._table, texts)
        models = (plan.model.lower(), exchange.request.model.lower())
        if failure.scope == "model" and names_another_model(failure.message, models, texts):
            return replace(failure, kind="bad_request", scope="request")
        if failure.proven or facts.is_page:  # a page is from something before the API, which knows no fields
            return failure
        points = points_into_request(failure.message, top_fields(exchange.request), plan.model)
        return replace(failure, proven=points)


def names_another_model(message: str, models: Collection[str], texts: Texts) -> bool:
    """Return true if an error names a model that the request has elsewhere (a tool's, say), and neither the one that it
    was sent for nor the one that it asked for."""
    named = NAMED_MODEL.search(message.lower())
    return named is not None and named[1] not in models and named[1] in texts()


def top_fields(request: ClientRequest) -> Collection[str]:
    """The fields at the top of a request's body, as far as it can be read."""
    try:
        return msgspec.json.decode(request.plain, type=dict[str, msgspec.Raw]).keys()
    except UNREADABLE:
        return ()


def texts_of(request: ClientRequest) -> Collection[str]:
    """All that a client has written in a request, in lower case: names and values of body, headers and query."""
    try:
        left: list[Any] = [msgspec.json.decode(request.plain)]
    except UNREADABLE:
        left = []
    left += [part for pair in parse_qsl(request.query, keep_blank_values=True) for part in pair]
    for _, value in request.headers:
        text = value.decode("latin-1")
        left += [text, *(part.strip() for part in text.split(","))]
    found = set[str]()
    while left:
        match left.pop():
            case str(text):
                found.add(text.lower())
            case list(values):
                left += values
            case dict(fields):
                left += fields.keys()
                left += fields.values()
    return found
