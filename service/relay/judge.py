"""What a provider's error answer means for this request: its facts, put before routing's table.

Not here: reading the facts (`providers.facts`), or the table (`routing.failure`).
"""

from collections.abc import Sequence

from msgspec.structs import replace

from service.providers.facts import AnswerFacts, answer_facts
from service.providers.tap import StreamError
from service.routing.failure import Facts, Failure, classify

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


def judge(status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, now_ms: int) -> Failure:
    """The failure that an error answer means."""
    return classify(plain_facts(answer_facts(status, headers, body, now_ms), now_ms), now_ms)


def judge_error(error: StreamError, headers: Sequence[tuple[bytes, bytes]], now_ms: int) -> Failure:
    """The failure that an error inside a 200 means, with the status that it would have had as an answer."""
    return replace(judge(200, headers, error.data, now_ms), status=STATUS_OF_TYPE.get(error.type, 500))


def plain_facts(facts: AnswerFacts, now_ms: int) -> Facts:
    """What the provider said, in routing's terms: one end of the wait, the later of the two that may be named."""
    after_ms = now_ms + facts.retry_after_ms if facts.retry_after_ms is not None else 0
    return Facts(
        status=facts.status,
        error_type=facts.error_type,
        error_code=facts.error_code,
        message=facts.message,
        retry_at_ms=max(after_ms, facts.reset_at_ms or 0),
        should_retry=facts.should_retry,
    )
