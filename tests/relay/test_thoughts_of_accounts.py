"""Thoughts that are valid only in the account that made them: whose move it was, and what becomes of them."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.relay.test_sessions import KEYS, thoughtful
from tests.support.fake_upstream import ScriptedResponse, SentRequest, error, reply, stream
from tests.support.relay_harness import ASK, ONLY_ANTHROPIC, STREAM, RelayFactory, RelayHarness
from tests.support.streams import DELTA, END, START

WORDS = "messages.1.content.0: Invalid `signature` in `thinking` block. The block is bound to a different organization."
BY_WORDS = error(400, "invalid_request_error", WORDS)
BY_CODE = reply(
    {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "The block can't be used.",
            "details": {"error_code": "organization_binding_mismatch"},
        },
    },
    400,
)
FORMS = pytest.mark.parametrize("mismatch", [BY_WORDS, BY_CODE], ids=["words", "code"])
DOWN = error(500)


class Accounts:
    """Two accounts, each of which takes its own thoughts alone."""

    def __init__(self, relay: RelayHarness, mismatch: ScriptedResponse) -> None:
        self.down = ""
        self._mismatch = mismatch
        relay.upstream.respond = self.respond

    def respond(self, sent: SentRequest) -> ScriptedResponse:
        """The answer of the account that is asked; the thought in the conversation is the first one's."""
        name = sent.base_url.removeprefix("https://").removesuffix(".test")
        if name == self.down:
            return DOWN
        if b'"thinking"' in sent.body and name != "first":
            return self._mismatch
        return stream(START, DELTA, END) if sent.json.get("stream") else reply()


async def turn(relay: RelayHarness, body: Mapping[str, Any], **fields: Any) -> tuple[int, str, int]:
    """Status, route and attempts of a request of the session `s1`."""
    client = await relay.ask(body, **({"session_id": "s1"} | fields))
    return client.status, client.route, client.attempts


@FORMS
@pytest.mark.parametrize("extra", [ASK, STREAM], ids=["whole", "stream"])
async def test_after_a_move_the_thoughts_are_left_behind(
    relays: RelayFactory, mismatch: ScriptedResponse, extra: Mapping[str, Any]
) -> None:
    """Once: the loss is in the ledger, and the next requests go there without them at once."""
    relay = relays.make({}, KEYS)
    accounts = Accounts(relay, mismatch)
    body = thoughtful() | {"stream": bool(extra.get("stream"))}
    assert await turn(relay, ASK) == (200, "first", 1)
    accounts.down = "first"
    assert await turn(relay, body) == (200, "second", 3)
    assert [(end.moved_from, end.lost) for end in relay.ends][-1] == ("first", "cache,thoughts")
    assert await turn(relay, body) == (200, "second", 1)
    assert b'"thinking"' not in relay.upstream.sent[-1].body


@FORMS
async def test_a_session_that_never_left_gets_the_error_as_it_is(
    relays: RelayFactory, mismatch: ScriptedResponse
) -> None:
    """Each time: somebody else has brought the thought here, and the client decides what to do."""
    relay = relays.make({}, KEYS)
    accounts = Accounts(relay, mismatch)
    accounts.down = "first"
    assert await turn(relay, ASK) == (200, "second", 2)
    accounts.down = ""
    for _ in range(2):
        client = await relay.ask(thoughtful(), session_id="s1")
        assert (client.status, client.route, client.attempts) == (400, "second", 1)
        assert client.body == mismatch.steps[0]


@FORMS
async def test_with_one_account_nobody_has_moved(relays: RelayFactory, mismatch: ScriptedResponse) -> None:
    """Whether the session is known or not."""
    relay = relays.make(ONLY_ANTHROPIC)
    Accounts(relay, mismatch)
    client = await relay.ask(thoughtful())
    assert (client.status, client.attempts, client.body) == (400, 1, mismatch.steps[0])


async def test_a_session_that_has_moved_is_known_to_have(relays: RelayFactory) -> None:
    """Also to a process that has seen no refusal: the thoughts are then left out, not shown as the client's fault."""
    relay = relays.make({}, KEYS)
    accounts = Accounts(relay, BY_WORDS)
    await turn(relay, ASK)
    accounts.down = "first"
    await turn(relay, thoughtful())
    other = relays.make({}, KEYS)
    Accounts(other, BY_WORDS).down = "first"
    other.resources._known |= relay.resources._known
    assert await turn(other, thoughtful()) == (200, "second", 2)
