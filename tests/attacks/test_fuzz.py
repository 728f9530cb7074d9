"""A short run of the structured fuzz, and that it notices what it is there to notice. `make fuzz` is the long run."""

import pytest

from service.ledger.events import AttemptEnded, AttemptStarted, TokenCounts
from tests.attacks.fuzz import Oracle, Seen, fuzz, readings, usual
from tests.attacks.fuzz_answers import usage_for
from tests.attacks.fuzz_requests import FuzzedRequest
from tests.attacks.raw import RawResponse, SeenRequest
from tests.support.proxies import ANTHROPIC_KEY, Server

SEED = 20_261_129
REQUESTS = 600
MARKER, KEY, KEY_ID, HOST = "fz-1-1", "ccp_ann-1_secret", "ann-1", b"127.0.0.1:5"


async def test_no_request_is_read_in_two_ways(server: Server) -> None:
    """What was decided, forwarded and counted is the same; nothing fails, blocks the loop or stays in memory."""
    verdict = await fuzz(server, SEED, range(REQUESTS))
    assert verdict.is_good, f"make fuzz SEED={SEED} REQUESTS={REQUESTS}\n{verdict.words}"
    assert verdict.forwarded > REQUESTS
    assert verdict.statuses[200] > REQUESTS // 5, verdict.words
    assert verdict.statuses[400] > REQUESTS // 5, verdict.words


def forwarded(
    line: bytes = b"POST /v1/messages HTTP/1.1", *headers: tuple[bytes, bytes], body: bytes = b""
) -> SeenRequest:
    """What a provider saw of a usual request, with these headers in place of its own."""
    known = {b"host": HOST, b"x-api-key": ANTHROPIC_KEY.encode(), b"content-length": b"1"}
    kept = [header for header in known.items() if header[0] not in dict(headers)]
    return SeenRequest(line, [*kept, *headers], body or b'{"model":"claude-haiku-4-5","messages":[]}')


def started(**fields: object) -> AttemptStarted:
    """What was written down at its start."""
    known = {"event_id": "a", "at_ms": 1, "request_id": "r", "model_asked": "claude-haiku-4-5", "client_key": KEY_ID}
    return AttemptStarted(**(known | fields))  # type: ignore[arg-type]


def ended(**fields: object) -> AttemptEnded:
    """And at its end."""
    known = {"event_id": "b", "at_ms": 2, "attempt_id": "a", "request_id": "r", "started_at_ms": 1, "outcome": "ok"}
    used = usage_for(MARKER)
    return AttemptEnded(**(known | {"tokens": used, "client_key": KEY_ID} | fields))  # type: ignore[arg-type]


def told(status: int = 200, body: bytes = f"said {MARKER}".encode()) -> RawResponse:
    """An answer."""
    return RawResponse(status, [], body)


ALL_WELL = Seen([forwarded()], [started()], [ended()])
TWO_MODELS = b'{"model":"claude-opus-5-5","messages":[],"mod\\u0065l":"claude-haiku-4-5"}'
FAULTS: dict[str, tuple[Seen, RawResponse]] = {
    "a 500": (ALL_WELL, told(500, b"")),
    "another's answer": (ALL_WELL, told(body=b"said fz-1-2")),
    "an odd status": (ALL_WELL, told(418, b"")),
    "the owner's key is shown": (ALL_WELL, told(400, ANTHROPIC_KEY.encode())),
    "forwarded, started and ended differ": (Seen([forwarded()], [], []), told()),
    "an end without a start": (Seen([forwarded()], [started()], [ended(attempt_id="c")]), told()),
    "counted for nobody": (Seen([forwarded()], [started()], [ended(client_key="")]), told()),
    "an odd method went up": (Seen([forwarded(b"TRACE /v1/models HTTP/1.1")], [started()], [ended()]), told()),
    "a target outside of the API": (Seen([forwarded(b"GET @evil/v1/x HTTP/1.1")], [started()], [ended()]), told()),
    "a path that others read otherwise": (Seen([forwarded(b"GET /v1/../x HTTP/1.1")], [started()], [ended()]), told()),
    "another host": (Seen([forwarded(b"GET /v1/x HTTP/1.1", (b"host", b"evil"))], [started()], [ended()]), told()),
    "counted as another endpoint": (Seen([forwarded(b"POST /v1/x HTTP/1.1")], [started()], [ended()]), told()),
    "two framings went up": (
        Seen([forwarded(b"POST /v1/messages HTTP/1.1", (b"transfer-encoding", b"chunked"))], [started()], [ended()]),
        told(),
    ),
    "the proxy's key went up": (
        Seen([forwarded(b"POST /v1/messages HTTP/1.1", (b"x-ccproxy-key", KEY.encode()))], [started()], [ended()]),
        told(),
    ),
    "odd credentials went up": (
        Seen([forwarded(b"POST /v1/messages HTTP/1.1", (b"authorization", b"Bearer x"))], [started()], [ended()]),
        told(),
    ),
    "a model that the key may not use": (Seen([forwarded(body=TWO_MODELS)], [started()], [ended()]), told()),
    "another model": (Seen([forwarded()], [started(model_asked="claude-haiku-3")], [ended()]), told()),
    "another stream": (Seen([forwarded()], [started(stream=True)], [ended()]), told()),
    "other tokens were counted": (Seen([forwarded()], [started()], [ended(tokens=TokenCounts())]), told()),
    "a body that others can't read": (Seen([forwarded(body=b"{")], [started()], [ended()]), told()),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_a_difference_is_noticed(kind: str) -> None:
    """Each of them, and nothing where all is well."""
    assert problems_of(ALL_WELL, told()) == set()
    assert kind in problems_of(*FAULTS[kind])


def problems_of(seen: Seen, answered: RawResponse) -> set[str]:
    """The kinds of problems that the oracle sees."""
    oracle = Oracle(FuzzedRequest(MARKER, KEY, b"POST", usual(MARKER, KEY), whole=True), KEY_ID, HOST, haiku_alone=True)
    oracle.answers([answered])
    oracle.counted(seen, [answered], MARKER)
    return {problem.kind for problem in oracle.problems}


def test_equal_keys_are_read_in_both_ways() -> None:
    """By the first and by the last, at the top, whatever stands further in."""
    first, last = readings(b'{"model":"a","x":{"model":"b","model":"c"},"mod\\u0065l":"d"}')
    assert (first["model"], last["model"]) == ("a", "d")
    assert readings(b"[1]") == readings(b"{") == []
