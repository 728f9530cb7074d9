"""The faults of a provider, and what each has to mean: for the ledger, for the circuit, and for the client.

Not here: making them happen (`tests.fakes`), or looking (`test_matrix`).
"""

from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from service.ledger.events import FailureKind, FailureScope
from tests.fakes import FakeProvider, Reply, closed_port, reply
from tests.fakes.zai_codes import ZAI_CODES

Place = Callable[[FakeProvider], str]
"""Where the route is said to be, when that is what is wrong."""
Moved = Literal["circuit", "throttle", "quota", "credential", "model", ""]
"""What a fault moves in the route's state: its circuit's count, a wait of this scope, a model that it lacks."""


class Fault(Struct, frozen=True, kw_only=True):
    """One way to fail.

    `kind`, `scope`: what the ledger says of the attempt. `stream`, `whole`: what the client gets when every route fails
    so, as (status, error type); None: the answer is good after all. `late`: in a stream it comes after content, so
    that the client gets the error and no other route is tried.
    """

    reply: Reply = reply.message()
    place: Place | None = None
    kind: FailureKind = ""
    scope: FailureScope = ""
    stream: tuple[int, str] | None = (502, "api_error")
    whole: tuple[int, str] | None = (502, "api_error")
    late: bool = False
    final: bool = False
    repeats: int = 0
    moved: Moved = "circuit"
    kind_whole: FailureKind | None = None


CLOSED_PORT = ExitStack().enter_context(closed_port())
"""For as long as the tests run."""


def at_a_closed_port(_: FakeProvider) -> str:
    return f"http://127.0.0.1:{CLOSED_PORT}"


def under_https(fake: FakeProvider) -> str:
    return fake.base_url.replace("http://", "https://")


def answered(status: int, error_type: str, kind: FailureKind, scope: FailureScope, moved: Moved) -> Fault:
    """An error answer that is shown when every route gives it."""
    shown = (status, error_type)
    return Fault(reply=reply.error(status), kind=kind, scope=scope, stream=shown, whole=shown, moved=moved)


def credential(status: int, kind: FailureKind = "credential") -> Fault:
    """A route's own bad credential: never the client's 401 or 403."""
    return Fault(reply=reply.error(status), kind=kind, scope="credential", moved="credential")


def account(words: str, status: int = 400, error_type: str = "invalid_request_error", **means: Any) -> Fault:
    """An account's state, told in words: the next route, and never a 4xx that means the client."""
    fields: dict[str, Any] = {"kind": "credential", "scope": "credential", "moved": "credential"}
    return Fault(reply=reply.error(status, error_type, words), **(fields | means))


def account_in_stream(words: str, error_type: str = "invalid_request_error", **means: Any) -> Fault:
    """The same inside a 200."""
    return replace(account(words, **means), reply=reply.stream_error("start", error_type, words))


def clients_own(made: Reply, status: int, error_type: str) -> Fault:
    """The request's own fault, or one that may be: its answer, no other provider, nothing counted."""
    shown = (status, error_type)
    return Fault(reply=made, kind="bad_request", scope="request", final=True, moved="", stream=shown, whole=shown)


LACKING: dict[str, Any] = {
    "kind": "bad_request",
    "scope": "",
    "moved": "",
    "stream": (400, "invalid_request_error"),
    "whole": (400, "invalid_request_error"),
}
"""What this account can't do: another may, and nothing rests."""
SPENT_EXTRA: dict[str, Any] = {
    "kind": "quota",
    "scope": "quota",
    "moved": "quota",
    "stream": (429, "rate_limit_error"),
    "whole": (429, "rate_limit_error"),
}
CLOSED = "This organization has been disabled."
NO_LONG_CONTEXT = "The long context beta is not yet available for this subscription."
NOT_CLAUDE_CODE = (
    "This credential is only authorized for use with Claude Code and cannot be used for other API requests."
)
CHINESE_STAMP = reply.beijing_stamp(datetime.now(UTC) + timedelta(hours=3))
CHINESE = f"已达到 5 小时的使用上限,您的限额将在 {CHINESE_STAMP} 重置。"
"""Whole hours ahead, in Beijing time without saying so."""

THROTTLED, OVERLOADED, INTERNAL = (429, "rate_limit_error"), (529, "overloaded_error"), (500, "api_error")
TIMED_OUT = (504, "timeout_error")

FAULTS: dict[str, Fault] = {
    "refused": Fault(place=at_a_closed_port, kind="connect", scope="route"),
    "TLS failure": Fault(place=under_https, kind="connect", scope="route"),
    "reset before headers": Fault(reply=reply.reset("request"), kind="reset", scope="route"),
    "closed before headers": Fault(reply=reply.fin("request"), kind="reset", scope="route"),
    "reset after headers": Fault(reply=reply.reset("headers"), kind="reset", scope="route"),
    "slow headers": Fault(
        reply=reply.hang("request"), kind="timeout", scope="route", stream=TIMED_OUT, whole=TIMED_OUT
    ),
    "slow first byte": Fault(
        reply=reply.hang("headers"), kind="timeout", scope="route", stream=TIMED_OUT, whole=TIMED_OUT
    ),
    "silent mid-stream": Fault(
        reply=reply.hang("content_block_delta"),
        kind="timeout",
        scope="route",
        stream=(200, "api_error"),
        whole=TIMED_OUT,
        late=True,
    ),
    "429": Fault(
        reply=reply.error(429),
        kind="throttle",
        scope="throttle",
        stream=THROTTLED,
        whole=THROTTLED,
        moved="throttle",
        repeats=3,
    ),
    "429 with a short retry-after": Fault(
        reply=reply.error(429, retry_after_s=30),
        kind="throttle",
        scope="throttle",
        stream=THROTTLED,
        whole=THROTTLED,
        moved="throttle",
    ),
    "429 with a long retry-after": Fault(
        reply=reply.error(429, retry_after_s=7200),
        kind="quota",
        scope="quota",
        stream=THROTTLED,
        whole=THROTTLED,
        moved="quota",
    ),
    "429 with unified headers": Fault(
        reply=reply.unified_limit(), kind="quota", scope="quota", stream=THROTTLED, whole=THROTTLED, moved="quota"
    ),
    "429 of a spend limit": Fault(
        reply=reply.spend_limit(), kind="quota", scope="quota", stream=THROTTLED, whole=THROTTLED, moved="quota"
    ),
    "500": answered(*INTERNAL, "server_error", "route", "circuit"),
    "502 with HTML": Fault(reply=reply.html(), kind="server_error", scope="route"),
    "503": answered(503, "api_error", "server_error", "route", "circuit"),
    "504": answered(504, "timeout_error", "server_error", "route", "circuit"),
    "408": answered(408, "timeout_error", "timeout", "route", "circuit"),
    "529": answered(*OVERLOADED, "overloaded", "provider", "circuit"),
    "401": credential(401),
    "403": credential(403),
    "402": credential(402, "billing"),
    "400 of an empty balance": Fault(
        reply=reply.bad_request("credit"), kind="billing", scope="credential", moved="credential"
    ),
    "400": Fault(
        reply=reply.bad_request("max_tokens"),
        kind="bad_request",
        scope="request",
        final=True,
        moved="",
        stream=(400, "invalid_request_error"),
        whole=(400, "invalid_request_error"),
    ),
    "413": Fault(
        reply=reply.error(413),
        kind="bad_request",
        scope="request",
        final=True,
        moved="",
        stream=(413, "request_too_large"),
        whole=(413, "request_too_large"),
    ),
    "404 of the model": Fault(
        reply=reply.model_not_found("claude-opus-5-5"),
        kind="model_missing",
        scope="model",
        moved="model",
        stream=(404, "not_found_error"),
        whole=(404, "not_found_error"),
    ),
    "400 of a closed organisation": account(CLOSED),
    "a closed organisation in a stream": account_in_stream(CLOSED),
    "400 of spent extra usage": account("You're out of extra usage. Add more to keep going.", **SPENT_EXTRA),
    "spent extra usage in a stream": account_in_stream("You're out of extra usage.", **SPENT_EXTRA),
    "400 of a beta that the plan lacks": account(NO_LONG_CONTEXT, **LACKING),
    "a beta that the plan lacks in a stream": account_in_stream(NO_LONG_CONTEXT, **LACKING),
    "400 of a third-party client": account(NOT_CLAUDE_CODE),
    "a third-party client in a stream": account_in_stream(NOT_CLAUDE_CODE),
    "429 in Chinese with a stamp": account(CHINESE, 429, "rate_limit_error", **SPENT_EXTRA),
    "Chinese with a stamp in a stream": account_in_stream(CHINESE, "rate_limit_error", **SPENT_EXTRA),
    "400 of a revoked token": account("OAuth token has been revoked. Please obtain a new token."),
    "a revoked token in a stream": account_in_stream("OAuth token has been revoked.", "permission_error"),
    "403 of one user": clients_own(
        reply.error(403, "user_profile_suspended", "not this user"), 403, "user_profile_suspended"
    ),
    "402 of one link": clients_own(
        reply.error(402, "linked_organization_billing", "ask them"), 402, "linked_organization_billing"
    ),
    "400 in words that nobody knows": clients_own(reply.bad_request("Certainly not."), 400, "invalid_request_error"),
    "403 in words that nobody knows": clients_own(
        reply.error(403, "permission_error", "Certainly not."), 403, "permission_error"
    ),
    "words that nobody knows in a stream": clients_own(
        reply.stream_error("start", "invalid_request_error", "Certainly not."), 400, "invalid_request_error"
    ),
    "400 that names a field": clients_own(
        reply.bad_request("metadata.user_id: the account has been disabled"), 400, "invalid_request_error"
    ),
    "400 that quotes the client": clients_own(
        reply.bad_request("Unexpected value `organization has been disabled`"), 400, "invalid_request_error"
    ),
    "404 without a word": Fault(
        reply=reply.empty(404, content_type=None),
        kind="model_missing",
        scope="model",
        moved="model",
        stream=(404, "not_found_error"),
        whole=(404, "not_found_error"),
    ),
    "403 with HTML": clients_own(reply.html(403), 403, "permission_error"),
    "400 without a word": clients_own(reply.empty(400, content_type=None), 400, "invalid_request_error"),
    "500 without a word": Fault(
        reply=reply.empty(500, content_type=None), kind="server_error", scope="route", stream=INTERNAL, whole=INTERNAL
    ),
    "an error first": Fault(
        reply=reply.stream_error("start"), kind="overloaded", scope="provider", stream=OVERLOADED, whole=OVERLOADED
    ),
    "an error after message_start": Fault(
        reply=reply.stream_error("message_start", "api_error", "no"),
        kind="server_error",
        scope="route",
        stream=INTERNAL,
        whole=INTERNAL,
    ),
    "an error mid-content": Fault(
        reply=reply.stream_error("content", "api_error", "no"),
        kind="server_error",
        scope="route",
        late=True,
        stream=(200, "api_error"),
        whole=INTERNAL,
    ),
    "an empty 200": Fault(reply=reply.empty(), kind="bad_answer", scope="route"),
    "HTML with 200": Fault(reply=reply.html(200), kind="bad_answer", scope="route"),
    "garbage with 200": Fault(reply=reply.garbage(), kind="bad_answer", scope="route"),
    "truncated": Fault(reply=reply.truncated(), kind="bad_answer", scope="route", late=True, stream=(200, "api_error")),
    "truncated before content": Fault(reply=reply.message().cut("end", "bytes", 90), kind="bad_answer", scope="route"),
    "no message_stop": Fault(
        reply=reply.no_message_stop(), kind="bad_answer", scope="route", late=True, stream=(200, "api_error")
    ),
    "reset mid-content": Fault(
        reply=reply.reset("content_block_delta"), kind="reset", scope="route", late=True, stream=(200, "api_error")
    ),
    "wrong content type": Fault(reply=reply.wrong_content_type(), kind="bad_answer", scope="route", whole=None),
    "JSON for a stream": Fault(reply=reply.json_for_stream(), kind="bad_answer", scope="route", whole=None),
    "a stream for JSON": Fault(reply=reply.stream_for_json(), kind="bad_answer", scope="route", stream=None),
    "gzip": Fault(reply=reply.message().compressed("gzip"), stream=None, whole=None, moved=""),
    "chunks of one byte": Fault(reply=reply.message().in_chunks(1), stream=None, whole=None, moved=""),
    "10 MB": Fault(reply=reply.large(), stream=None, whole=None, moved=""),
}


class ZaiMeaning(Struct, frozen=True):
    """What one of Z.AI's codes means."""

    kind: FailureKind
    scope: FailureScope
    moved: Moved
    final: bool = False


BAD_KEY = ZaiMeaning("credential", "credential", "credential")
ACCOUNT = ZaiMeaning("billing", "credential", "credential")
REQUEST = ZaiMeaning("bad_request", "request", "", final=True)
NO_MODEL = ZaiMeaning("model_missing", "model", "model")
THROTTLE = ZaiMeaning("throttle", "throttle", "throttle")
SPENT = ZaiMeaning("quota", "quota", "quota")
ZAI: dict[int, ZaiMeaning] = {
    **dict.fromkeys((1000, 1001, 1002, 1003, 1004), BAD_KEY),
    **dict.fromkeys((1110, 1111, 1112, 1113, 1120, 1121, 1220, 1309, 1313), ACCOUNT),
    **dict.fromkeys((1210, 1213, 1214, 1261, 1300, 1301), REQUEST),
    **dict.fromkeys((1211, 1311), NO_MODEL),
    1234: ZaiMeaning("server_error", "route", "circuit"),
    1305: ZaiMeaning("overloaded", "provider", "circuit"),
    **dict.fromkeys((1302, 1303), THROTTLE),
    **dict.fromkeys((1308, 1310, 1316, 1317, 1318, 1319, 1320, 1321), SPENT),
}
assert ZAI.keys() == ZAI_CODES.keys()
