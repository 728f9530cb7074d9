"""The head of a stream goes before its content: what follows it, in memory and in virtual time.

The client's end is the edge's own writer, so that what a failure becomes behind the head is seen as a client sees it.
"""

import asyncio
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from service.edge.messages import refuse
from service.edge.responses import AsgiResponseWriter
from service.edge.traffic import verdict_of
from service.errors import ProxyError, Stopping
from service.http1.upstream import UpstreamError
from service.relay.client_stream import PING
from service.routing.failover import AdmissionDenied
from tests.support.fake_upstream import FOREVER, ScriptedResponse, error, reply, stream
from tests.support.relay_harness import (
    ANTHROPIC,
    ANTHROPIC_KEY,
    ASK,
    BOTH,
    ONLY_ANTHROPIC,
    STREAM,
    ZAI,
    MemoryClient,
    RelayFactory,
    RelayHarness,
)
from tests.support.streams import DELTA, END, START
from tests.support.virtual_time import advance

WHOLE = START + DELTA + END
RESET = UpstreamError("reset", "the connection broke")
BUSY = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n'
TWO_KEYS = """
[[routes]]
id = "first"
provider = "anthropic"
api_key = "first-key"

[[routes]]
id = "second"
provider = "anthropic"
api_key = "second-key"
"""


class Seen:
    """A client that reads: what came, and when."""

    def __init__(self) -> None:
        self.writer = AsgiResponseWriter(self._take, "req_own")
        self.status = 0
        self.head_s = 0.0
        self.headers: dict[bytes, bytes] = {}
        self.parts: list[tuple[float, bytes]] = []
        self.ended = False
        self.takes_s = 0.0
        self.heads = 0
        self.late = 0
        """What was sent behind the end."""
        self.verdict = ""
        self._began_s = asyncio.get_running_loop().time()

    async def _take(self, message: Any) -> None:
        await advance(self.takes_s)
        at_s = round(asyncio.get_running_loop().time() - self._began_s, 3)
        if self.ended:
            self.late += 1
            return
        if message["type"] == "http.response.start":
            self.heads += 1
            self.status, self.head_s, self.headers = message["status"], at_s, dict(message["headers"])
        else:
            assert self.status
            self.ended = not message["more_body"]
            if message["body"]:
                self.parts.append((at_s, message["body"]))

    @property
    def body(self) -> bytes:
        return b"".join(part for _, part in self.parts)

    @property
    def error(self) -> dict[str, Any]:
        """The error object of the event that ends the stream."""
        last = self.body.rstrip(b"\n").rpartition(b"\n\n")[2]
        assert last.startswith(b"event: error\ndata: "), self.body
        told = msgspec.json.decode(last.partition(b"data: ")[2])
        assert (told["type"], told["request_id"]) == ("error", "req_own")
        found: dict[str, Any] = told["error"]
        return found

    @property
    def pings_s(self) -> list[float]:
        """When pings came."""
        return [at_s for at_s, part in self.parts if part == PING]


async def ask(relay: RelayHarness, body: Mapping[str, Any] = STREAM, seen: Seen | None = None, **fields: Any) -> Seen:
    """Relay one request as the edge does."""
    seen = seen or Seen()
    request = relay.request(body, request_id="req_own", **fields)
    relay.relay.check_access(request)
    try:
        await relay.relay.handle(request, seen.writer)
    except ProxyError as told:
        verdict, _ = await refuse(told, "", None, seen.writer)  # type: ignore[arg-type]  # no bad key
    else:
        verdict, _ = verdict_of(seen.writer, None)
    seen.verdict = verdict
    return seen


# -- the head, and content behind it


@pytest.mark.parametrize("late", [stream(START, 90.0, DELTA, END), stream(WHOLE, head_s=90.0)], ids=["pings", "silent"])
async def test_a_late_stream_gets_its_head_and_pings(relays: RelayFactory, late: ScriptedResponse) -> None:
    """The provider has begun or not; then all of its bytes come, unchanged, behind a comment that tells the route."""
    relay = relays.make()
    relay.upstream.script(ScriptedResponse(200, [*late.headers, (b"request-id", b"req_up")], late.steps, late.head_s))
    seen = await ask(relay)
    assert (seen.status, seen.head_s, seen.ended, seen.verdict) == (200, 45, True, "ok")
    assert seen.headers[b"content-type"].startswith(b"text/event-stream")
    assert seen.headers[b"request-id"] == seen.headers[b"x-ccproxy-request-id"] == b"req_own"
    assert seen.headers[b"x-accel-buffering"] == b"no"
    assert not {b"x-ccproxy-route", b"x-ccproxy-attempts"} & seen.headers.keys()
    assert seen.pings_s[:3] == [45, 60, 75]
    told = b": ccproxy route=anthropic attempts=1 request-id=req_up\n\n"
    assert seen.body.lstrip(PING).removeprefix(PING) != seen.body
    assert seen.body.replace(PING, b"") == told + WHOLE.replace(PING, b"")
    [end] = relay.ends
    assert (end.outcome, end.early_head, end.upstream_id, end.attempt) == ("ok", True, "req_up", 1)


async def test_content_in_time_has_its_own_head(relays: RelayFactory) -> None:
    """As it came: no comment, no ping of ours."""
    relay = relays.make()
    relay.upstream.script(stream(START, 44.9, DELTA, 10.0, END, headers={"request-id": "req_up"}))
    seen = await ask(relay)
    assert (seen.head_s, seen.body, seen.writer.early) == (44.9, WHOLE, False)
    assert (seen.headers[b"request-id"], seen.headers[b"x-ccproxy-route"]) == (b"req_up", b"anthropic")
    assert (relay.ends[0].early_head, relay.ends[0].upstream_id) == (False, "")


@pytest.mark.parametrize("head_after_ms", [0, 1, 5_000, 120_000])
async def test_when_the_head_goes_is_a_setting(relays: RelayFactory, head_after_ms: int) -> None:
    relay = relays.make(head_after_ms=head_after_ms)
    relay.upstream.script(stream(START, 90.0, DELTA, END))
    seen = await ask(relay)
    assert seen.head_s == (head_after_ms / 1000 if 0 < head_after_ms < 90_000 else 90)
    assert seen.writer.early == (0 < head_after_ms < 90_000)


async def test_pings_go_on_behind_late_content(relays: RelayFactory) -> None:
    """In silence alone, and counted from the last byte, whoever sent it."""
    relay = relays.make()
    relay.upstream.script(stream(START, 50.0, DELTA, 8.0, DELTA, 20.0, END))
    seen = await ask(relay)
    assert seen.pings_s == [45, 73]


async def test_what_is_no_stream_has_no_early_head(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(reply(head_s=100.0))
    seen = await ask(relay, ASK)
    assert (seen.status, seen.head_s, seen.writer.early) == (200, 100, False)


async def test_a_byte_order_mark_does_not_follow_a_ping(relays: RelayFactory) -> None:
    """It counts at the start of a stream; anywhere else it spoils the first event."""
    relay = relays.make()
    relay.upstream.script(stream(b"\xef\xbb\xbf" + START, 50.0, DELTA, END))
    seen = await ask(relay)
    assert b"\xef\xbb\xbf" not in seen.body
    assert seen.body.endswith(WHOLE)


@pytest.mark.parametrize("told", [b"req_up\xff", b"req up", b"x" * 200, ANTHROPIC_KEY.encode(), b"", b"a\nb"])
async def test_what_a_provider_calls_its_id_is_told_if_it_is_one(relays: RelayFactory, told: bytes) -> None:
    relay = relays.make()
    relay.upstream.script(
        ScriptedResponse(
            200, [(b"content-type", b"text/event-stream"), (b"request-id", told)], (START, 50.0, DELTA, END)
        )
    )
    seen = await ask(relay)
    assert b": ccproxy route=anthropic attempts=1\n\n" in seen.body
    assert relay.ends[0].upstream_id == ""


# -- failover behind the head


FAULTS: dict[str, tuple[ScriptedResponse | UpstreamError, str]] = {
    "reset": (stream(50.0, RESET), "reset"),
    "reset behind message_start": (stream(START, 50.0, RESET), "reset"),
    "an error first": (stream(50.0, BUSY), "overloaded"),
    "an error behind message_start": (stream(START, 50.0, BUSY), "overloaded"),
    "no content": (stream(START, 50.0), "bad_answer"),
    "a page": (reply(b"<html>", content_type="text/html", head_s=50.0), "bad_answer"),
    "529": (reply(error(529, "overloaded_error").steps[0], 529, head_s=50.0), "overloaded"),  # type: ignore[arg-type]
    "401": (reply(error(401, "authentication_error").steps[0], 401, head_s=50.0), "credential"),  # type: ignore[arg-type]
    "silence": (stream(head_s=FOREVER), "timeout"),
    "pings for ever": (stream(START, *(1.0, PING) * 400), "timeout"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_failover_behind_the_head_is_unseen(relays: RelayFactory, fault: str) -> None:
    """One message, of the next route; nothing of the first but time."""
    response, kind = FAULTS[fault]
    relay = relays.make()
    relay.upstream.script(response, base_url=ANTHROPIC)
    relay.upstream.script(stream(START, 20.0, DELTA, END), base_url=ZAI)
    seen = await ask(relay)
    assert (seen.status, seen.head_s, seen.ended, seen.verdict) == (200, 45, True, "ok")
    assert seen.body.replace(PING, b"") == b": ccproxy route=zai attempts=2\n\n" + WHOLE.replace(PING, b"")
    assert relay.ended == [("anthropic", "failed", kind), ("zai", "ok", "")]
    assert all(end.early_head for end in relay.ends)
    assert [end.attempt for end in relay.ends] == [1, 2]
    silences = [later - before for (before, _), (later, _) in zip(seen.parts, seen.parts[1:], strict=False)]
    assert max(silences) <= 15


async def test_a_wait_behind_the_head_goes_on(relays: RelayFactory) -> None:
    """The last route's short throttle is waited for, and a ping falls into the wait."""
    relay = relays.make(ONLY_ANTHROPIC, ping_ms=1_000)
    throttle = reply(error(429, "rate_limit_error").steps[0], 429, headers={"retry-after": "2"}, head_s=50.0)  # type: ignore[arg-type]
    relay.upstream.script(throttle, stream(WHOLE))
    seen = await ask(relay)
    assert seen.body.endswith(b": ccproxy route=anthropic attempts=2\n\n" + WHOLE)
    assert {46, 50, 51} <= {int(at_s) for at_s in seen.pings_s}


async def test_a_second_opinion_behind_the_head(relays: RelayFactory) -> None:
    """It answers: the client never hears of the first refusal. It refuses too: the client hears of the first."""
    unknown = reply(error(400, "invalid_request_error", "the flux is out of phase").steps[0], 400, head_s=50.0)  # type: ignore[arg-type]
    relay = relays.make({}, TWO_KEYS)
    relay.upstream.script(unknown, stream(START, 30.0, DELTA, END))
    seen = await ask(relay)
    assert seen.body.endswith(b": ccproxy route=second attempts=2\n\n" + WHOLE)
    relay.upstream.script(unknown, unknown)
    seen = await ask(relay)
    assert (seen.status, seen.head_s, seen.verdict) == (200, 45, "client_error")
    assert seen.error == {"type": "invalid_request_error", "message": "the flux is out of phase"}
    assert relay.ends[-1].opinion == "confirmed"


async def test_a_slot_is_waited_for_behind_the_head(relays: RelayFactory) -> None:
    relay = relays.make({**ONLY_ANTHROPIC, "ANTHROPIC_CONCURRENCY": "1"}, head_after_ms=500)
    relay.upstream.script(stream(WHOLE[:-10], 1.0, WHOLE[-10:]), stream(WHOLE))
    first, second = await asyncio.gather(ask(relay), ask(relay))
    assert (first.writer.early, second.writer.early) == (False, True)
    assert second.body.endswith(WHOLE)


async def test_a_probe_ends_with_content_not_with_the_head(
    relays: RelayFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease of a half-open circuit is not given back by an early head."""
    relay = relays.make(ONLY_ANTHROPIC)
    ended: list[float] = []
    monkeypatch.setattr(relay.admission, "note_content", lambda _: ended.append(asyncio.get_running_loop().time()))
    began_s = asyncio.get_running_loop().time()
    relay.upstream.script(stream(START, 50.0, DELTA, 10.0, END))
    await ask(relay)
    assert [at_s - began_s for at_s in ended][:1] == [50]


# -- failures behind the head


BAD = error(400, "invalid_request_error", "messages.0.content: Field required")
KINDS: dict[str, tuple[ScriptedResponse | UpstreamError, str, str, str]] = {
    "overloaded": (error(529, "overloaded_error"), "overloaded_error", "is overloaded", "provider_error"),
    "unavailable": (error(503), "overloaded_error", "had an internal error", "provider_error"),
    "timeout": (error(504, "timeout_error"), "overloaded_error", "", "provider_error"),
    "throttle": (
        error(429, "rate_limit_error", headers={"retry-after": "40"}),
        "overloaded_error", "try again in 40 seconds", "throttled",
    ),
    "quota": (
        error(429, "rate_limit_error", headers={"retry-after": "7200"}),
        "overloaded_error", "try again in 2 hours", "throttled",
    ),
    "server error": (error(500), "api_error", "had an internal error", "provider_error"),
    "credential": (error(401, "authentication_error"), "api_error", "does not accept the API key", "provider_error"),
    "its own fault": (BAD, "invalid_request_error", "messages.0.content: Field required", "client_error"),
    "too large": (error(413, "request_too_large", "too large"), "request_too_large", "too large", "client_error"),
    "reset": (RESET, "api_error", "broke off the connection", "provider_error"),
    "no message": (stream(START), "api_error", "can't be read", "provider_error"),
}  # fmt: skip


def after(response: ScriptedResponse | UpstreamError, wait_s: float) -> ScriptedResponse:
    """The same a while later."""
    if isinstance(response, UpstreamError):
        return stream(wait_s, response)
    return ScriptedResponse(response.status, response.headers, response.steps, wait_s)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failure_behind_the_head_is_an_event(relays: RelayFactory, kind: str) -> None:
    """Of a type that clients take for what it is; before the head, the same failure has its status."""
    response, error_type, words, verdict = KINDS[kind]
    relay = relays.make(ONLY_ANTHROPIC)
    relay.upstream.script(after(response, 50.0))
    seen = await ask(relay)
    assert (seen.status, seen.head_s, seen.ended, seen.verdict) == (200, 45, True, verdict)
    assert seen.error["type"] == error_type
    assert words in seen.error["message"]
    assert seen.body.count(b"event: error") == 1
    assert b"message_start" not in seen.body
    assert [end.outcome for end in relay.ends] == ["failed"]
    relay = relays.make(ONLY_ANTHROPIC)
    relay.upstream.script(after(response, 40.0))
    seen = await ask(relay)
    assert seen.status >= 400
    assert (seen.head_s, seen.writer.early, seen.verdict) == (40, False, verdict)


async def test_the_object_of_an_error_keeps_all_its_fields(relays: RelayFactory) -> None:
    """Also on several lines, as some providers write; without the credential, should they quote it."""
    told = {"type": "error", "error": {"type": "invalid_request_error", "message": f"no\n{ANTHROPIC_KEY}",
            "details": {"error_code": "thread_not_found"}}}  # fmt: skip
    body = msgspec.json.format(msgspec.json.encode(told), indent=2)
    relay = relays.make(ONLY_ANTHROPIC)
    relay.upstream.script(reply(body, 413, head_s=50.0))
    seen = await ask(relay)
    assert seen.error == {**told["error"], "message": "no\n***"}  # type: ignore[dict-item]


async def test_the_clients_own_limit_behind_the_head(relays: RelayFactory) -> None:
    """In Anthropic's words, with the wait that no header can tell; of a type after which Claude Code asks again, and
    then is told by status."""
    relay = relays.make({"ANTHROPIC_BASE_URL": ANTHROPIC, "CIRCUIT_BREAKER_ENABLED": "false"})
    own = error(429, "rate_limit_error", "Number of requests has exceeded your limit", headers={"retry-after": "40"})
    relay.upstream.script(after(own, 50.0))
    seen = await ask(relay, credential="sk-ant-api03-own-cccccccccccccccc")
    assert seen.error == {
        "type": "overloaded_error",
        "message": "Number of requests has exceeded your limit (retry after 40 s)",
    }
    assert seen.verdict == "throttled"


async def test_a_provider_that_names_a_wait_is_quoted(relays: RelayFactory) -> None:
    """No header can tell it any more."""
    relay = relays.make(ONLY_ANTHROPIC)
    relay.upstream.script(after(error(529, "overloaded_error", headers={"retry-after": "30"}), 50.0))
    seen = await ask(relay)
    assert seen.error["message"].endswith("(retry after 30 s)")


async def test_the_deadline_runs_to_content_head_or_no_head(relays: RelayFactory) -> None:
    """Over all routes: what the client's own limit ends is a time-out for it, and nobody's fault that had no time."""
    relay = relays.make()
    relay.upstream.script(stream(START, 60.0, RESET), stream(START, *(1.0, PING) * 100))
    seen = await ask(relay, deadline_ms=100_000)
    assert (seen.status, seen.parts[-1][0], seen.verdict) == (200, 100, "provider_error")
    assert seen.error["type"] == "overloaded_error"
    assert "did not answer in time" in seen.error["message"]
    assert relay.ended == [("anthropic", "failed", "reset"), ("zai", "failed", "deadline")]


async def test_a_client_of_little_patience_makes_no_route_fail(relays: RelayFactory) -> None:
    """A provider that is at work for longer than a first byte may take, and for less than its content may."""
    relay = relays.make(ONLY_ANTHROPIC)
    relay.upstream.script(stream(START, *(5.0, PING) * 100), stream(head_s=FOREVER))
    for _ in range(2):
        await ask(relay, deadline_ms=100_000)
    assert [(end.kind, end.scope) for end in relay.ends] == [("deadline", ""), ("timeout", "route")]


@pytest.mark.parametrize("head_after_ms", [4_999, 5_000, 5_001])
async def test_a_head_at_the_deadline_does_no_harm(relays: RelayFactory, head_after_ms: int) -> None:
    """Whichever comes first: one answer, and the event loop has nothing to complain of."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    relay = relays.make(ONLY_ANTHROPIC, head_after_ms=head_after_ms)
    relay.upstream.script(stream(START, 60.0, DELTA, END))
    seen = await ask(relay, deadline_ms=5_000)
    assert seen.status == (200 if seen.writer.early else 504)
    assert seen.ended
    await asyncio.sleep(0)
    assert complaints == []


@pytest.mark.parametrize("head_after_ms", [4_999, 5_000, 5_001])
@pytest.mark.parametrize("late_by_s", [-0.001, 0.0, 0.001])
async def test_content_at_the_deadline_is_one_answer(
    relays: RelayFactory, head_after_ms: int, late_by_s: float
) -> None:
    """An answer or an error, whole."""
    relay = relays.make(ONLY_ANTHROPIC, head_after_ms=head_after_ms)
    relay.upstream.script(stream(START, 5.0 + late_by_s, DELTA, END))
    seen = await ask(relay, deadline_ms=5_000)
    assert seen.ended
    is_answered = b"message_stop" in seen.body
    assert is_answered == (b"content_block_delta" in seen.body)
    assert (relay.ends[0].outcome == "ok") == is_answered
    assert is_answered or seen.status == 504 or seen.error["type"] == "overloaded_error"


async def test_what_breaks_behind_late_content_ends_as_ever(relays: RelayFactory) -> None:
    """No other route: the client has content."""
    relay = relays.make()
    relay.upstream.script(stream(START, 50.0, DELTA, RESET))
    seen = await ask(relay)
    assert (seen.verdict, relay.ended) == ("provider_error", [("anthropic", "failed", "reset")])
    assert seen.error["type"] == "api_error"
    assert "The answer is incomplete" in seen.error["message"]


async def test_a_fault_of_our_own_is_an_event(relays: RelayFactory) -> None:
    """A proxy that has to stop says so in the stream."""
    seen = Seen()
    await seen.writer.start_early([(b"content-type", b"text/event-stream")])
    await refuse(Stopping("the proxy is shutting down; try again"), "", None, seen.writer)  # type: ignore[arg-type]
    assert seen.error == {"type": "overloaded_error", "message": "the proxy is shutting down; try again"}
    assert relays.made == []


# -- a client that goes, and one that does not read


@pytest.mark.parametrize("at_s", [44.9, 45.0, 45.1, 61.0])
@pytest.mark.parametrize("response", [stream(head_s=FOREVER), stream(START, FOREVER)], ids=["silent", "begun"])
async def test_a_client_that_goes_ends_the_attempt(
    relays: RelayFactory, at_s: float, response: ScriptedResponse
) -> None:
    """Before the head, with it, behind it; no ping comes after that."""
    relay = relays.make()
    relay.upstream.script(response)
    seen = Seen()
    task = asyncio.create_task(ask(relay, seen=seen))
    await advance(at_s)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    parts = len(seen.parts)
    await advance(60)
    assert len(seen.parts) == parts
    assert relay.ended == [("anthropic", "aborted", "")]


async def test_a_client_that_goes_during_a_failover_ends_it(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(stream(START, 50.0, RESET), stream(START, FOREVER))
    task = asyncio.create_task(ask(relay))
    await advance(70)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert relay.ended == [("anthropic", "failed", "reset"), ("zai", "aborted", "")]


async def test_content_waits_for_a_head_that_is_being_sent(relays: RelayFactory) -> None:
    """The client reads nothing as its head goes; when it reads again, all comes in order."""
    relay = relays.make()
    relay.upstream.script(stream(START, 50.0, DELTA, END))
    client = MemoryClient()
    task = asyncio.create_task(relay.ask(STREAM, client=client))
    await advance(44)
    client.reads.clear()
    await advance(11)
    assert not client.started
    client.reads.set()
    await task
    assert client.early
    assert client.parts == [PING, b": ccproxy route=anthropic attempts=1\n\n" + START + DELTA, END]


async def test_no_head_follows_that_of_an_error(relays: RelayFactory) -> None:
    """A failure just before the head is due, to a client that takes it slowly."""
    relay = relays.make(ONLY_ANTHROPIC)
    relay.upstream.script(after(BAD, 44.0))
    seen = Seen()
    seen.takes_s = 10.0
    await ask(relay, seen=seen)
    await advance(60)
    assert (seen.status, seen.heads, seen.late) == (400, 1, 0)
    assert msgspec.json.decode(seen.body)["type"] == "error"


async def test_no_ping_comes_behind_the_end(relays: RelayFactory) -> None:
    """While the provider's connection is read to its end."""
    relay = relays.make(ping_ms=100)
    relay.upstream.script(stream(WHOLE, 0.2, b": bye\n\n"))
    seen = await ask(relay)
    await advance(1)
    assert (seen.body, seen.late) == (WHOLE, 0)


# -- clocks


async def test_who_thinks_for_four_minutes_loses_nobody(relays: RelayFactory) -> None:
    """Pings for 240 s, then an answer: the first route serves it, nothing of it is slow, and no circuit counts it."""
    relay = relays.make({name: value for name, value in BOTH.items() if name != "CIRCUIT_BREAKER_ENABLED"})
    thought = (
        b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
        b'"content_block":{"type":"thinking","thinking":"","signature":""}}\n\n'
    )
    start = START.partition(b"event: content_block_start")[0]
    pings = (5.0, PING) * 48
    for _ in range(6):
        relay.upstream.script(stream(start, thought, *pings, DELTA, END), base_url=ANTHROPIC)
        seen = await ask(relay)
        assert seen.body.count(b"message_start") == 2
    assert relay.ended == [("anthropic", "ok", "")] * 6
    assert not any(end.slow for end in relay.ends)
    [status] = [status for status in relay.watcher.route_statuses() if status.route == "anthropic"]
    assert status.circuit == "closed"


@pytest.mark.parametrize("first", [stream(START, *(1.0, PING) * 1_000), stream(START, *(1.0, b": ping\n\n") * 1_000)])
async def test_pings_for_ever_are_left_in_bounded_time(relays: RelayFactory, first: ScriptedResponse) -> None:
    """While a route is left 300 s, else the deadline; the route had its time."""
    relay = relays.make()
    relay.upstream.script(first, stream(WHOLE))
    seen = await ask(relay)
    assert [at_s for at_s, part in seen.parts if b"message_start" in part] == [300]
    assert relay.ended == [("anthropic", "failed", "timeout"), ("zai", "ok", "")]
    assert relay.ends[0].scope == "route"
    relay = relays.make(ONLY_ANTHROPIC)
    relay.upstream.script(first)
    seen = await ask(relay)
    assert seen.parts[-1][0] == 600
    assert seen.error["type"] == "overloaded_error"


async def test_the_first_contents_limit_is_a_setting(relays: RelayFactory) -> None:
    relay = relays.make(first_content_ms=70_000)
    relay.upstream.script(stream(START, *(1.0, PING) * 1_000), stream(WHOLE))
    seen = await ask(relay)
    assert [at_s for at_s, part in seen.parts if b"message_start" in part] == [70]


HEARTBEATS = {"pings": PING, "comments": b": still here\n\n", "pings without a name": b'data: {"type":"ping"}\n\n'}


@pytest.mark.parametrize("name", HEARTBEATS)
@pytest.mark.parametrize("cut", [False, True])
async def test_after_content_pings_are_silence(relays: RelayFactory, name: str, cut: bool) -> None:  # noqa: FBT001
    """However they come, cut in two as well: the idle limit ends the stream, with an error, once."""
    relay = relays.make(idle_ms=30_000)
    beat = HEARTBEATS[name]
    steps = (0.5, beat[:7], 0.5, beat[7:]) if cut else (1.0, beat)
    relay.upstream.script(stream(START, DELTA, *steps * 500))
    seen = await ask(relay)
    assert 30 <= seen.parts[-1][0] <= 33
    assert seen.error["type"] == "api_error"
    assert relay.ended == [("anthropic", "failed", "timeout")]
    assert relay.ends[0].message == "the provider sent nothing but pings for too long"


async def test_an_event_without_an_end_is_silence(relays: RelayFactory) -> None:
    """Any byte keeps a connection, not a client."""
    relay = relays.make(idle_ms=30_000)
    relay.upstream.script(stream(START, DELTA, b"event: content_block_delta\ndata: ", *(1.0, b"x") * 500))
    seen = await ask(relay)
    assert 30 <= seen.parts[-1][0] <= 33
    assert relay.ended == [("anthropic", "failed", "timeout")]


async def test_content_between_pings_goes_on(relays: RelayFactory) -> None:
    """Longer than any limit in sum."""
    relay = relays.make(idle_ms=30_000)
    relay.upstream.script(stream(START, DELTA, *(*(1.0, PING) * 25, DELTA) * 30, END))
    seen = await ask(relay)
    assert (seen.verdict, relay.ended) == ("ok", [("anthropic", "ok", "")])


async def test_an_open_thought_has_the_first_contents_limit(relays: RelayFactory) -> None:
    """Also between two texts, where a short idle limit would end it; and that limit ends it."""
    thought = (
        b'event: content_block_start\ndata: {"type":"content_block_start","index":1,'
        b'"content_block":{"type":"thinking","thinking":"","signature":""}}\n\n'
    )
    relay = relays.make(idle_ms=30_000)
    relay.upstream.script(
        stream(START, DELTA, thought, *(5.0, PING) * 48, DELTA, END),
        stream(START, DELTA, thought, *(5.0, PING) * 148, DELTA, END),
    )
    assert (await ask(relay)).verdict == "ok"
    seen = await ask(relay)
    assert 300 <= seen.parts[-1][0] <= 310
    assert relay.ended == [("anthropic", "ok", ""), ("anthropic", "failed", "timeout")]


async def test_a_slow_client_is_not_the_providers_silence(relays: RelayFactory) -> None:
    """What waits for the client is no time of the provider's."""
    relay = relays.make(idle_ms=30_000, ping_ms=5_000)
    relay.upstream.script(stream(START, DELTA, PING, DELTA, PING, DELTA, END))
    seen = Seen()
    seen.takes_s = 25.0
    assert (await ask(relay, seen=seen)).verdict == "ok"


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
async def test_a_compressed_stream_is_read_behind_the_head(relays: RelayFactory, line_end: bytes) -> None:
    """With a mark at its start and either kind of line ends: what the client gets is plain, and whole."""
    start, delta, end = (part.replace(b"\n", line_end) for part in (START, DELTA, END))
    packer = zlib.compressobj(wbits=31)
    steps = [packer.compress(part) + packer.flush(zlib.Z_SYNC_FLUSH) for part in (b"\xef\xbb\xbf" + start, delta, end)]
    relay = relays.make()
    relay.upstream.script(stream(steps[0], 50.0, *steps[1:], packer.flush(), headers={"content-encoding": "gzip"}))
    seen = await ask(relay)
    assert b"content-encoding" not in seen.headers
    assert seen.body.endswith(b": ccproxy route=anthropic attempts=1\n\n" + start + delta + end)
    assert relay.ended == [("anthropic", "ok", "")]


async def test_a_limit_that_is_reached_behind_the_head_is_told(
    relays: RelayFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next route has no room any more for this request: it is not asked, and the client reads why."""
    relay = relays.make()
    admit = relay.admission.admit_attempt

    async def refuse_zai(entry: Any) -> Any:
        is_zai = entry.candidate.route.id == "zai"
        return (
            AdmissionDenied("spent", "no room", until_ms=relay.clock.now_ms() + 3_600_000)
            if is_zai
            else await admit(entry)
        )

    monkeypatch.setattr(relay.admission, "admit_attempt", refuse_zai)
    relay.upstream.script(stream(START, 50.0, RESET))
    seen = await ask(relay)
    assert (seen.heads, seen.ended, len(relay.upstream.sent)) == (1, True, 1)
    assert (seen.error["type"], "weekly limit" in seen.error["message"]) == ("api_error", True)
    assert relay.ended == [("anthropic", "failed", "reset")]


async def test_a_thread_whose_home_fails_behind_the_head_asks_for_all(relays: RelayFactory) -> None:
    """In the words that clients know, with their code; the other account gets nothing of the thread."""
    relay = relays.make({}, TWO_KEYS)
    relay.upstream.script(stream(WHOLE), stream(START, 50.0, RESET))
    begun = await ask(relay, STREAM | {"thread": {"type": "create"}}, threaded=True)
    assert begun.verdict == "ok"
    goes_on = STREAM | {"thread": {"type": "continue", "previous_message_id": "msg_1"}}
    seen = await ask(relay, goes_on, threaded=True, continues_thread=True, resource_ids=("msg_1",))
    assert (seen.heads, seen.ended, len(relay.upstream.sent)) == (1, True, 2)
    assert seen.error["type"] == "invalid_request_error"
    assert seen.error["message"].startswith("capability_rejected: beta_header:message-threads-2026-08-12;")
    assert seen.error["details"] == {"error_code": "thread_not_found"}
