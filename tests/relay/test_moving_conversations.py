"""A conversation that moves between Anthropic and Z.AI at any turn, before fakes that enforce both providers' rules."""

import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from service.edge.body_fields import read_fields
from tests.fakes.body_rules import ANTHROPIC_RULES, ZAI_RULES, broken_rule, thought_first_in_last
from tests.support.fake_upstream import ScriptedResponse, SentRequest, error, reply, stream
from tests.support.relay_harness import ANTHROPIC, BOTH, MODEL, MemoryClient, RelayFactory, RelayHarness
from tests.support.virtual_time import JumpingLoop

TURNS = 20
BLANKS = ("", "\n", " \n")
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
RESULTS: tuple[Any, ...] = (
    "ok", "", [], [{"type": "text", "text": ""}], [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
    [{"type": "text", "text": ""}, {"type": "text", "text": "c"}], [IMAGE], [{"type": "text", "text": "see"}, IMAGE],
)  # fmt: skip
THINKING: tuple[dict[str, Any] | None, ...] = (
    None,
    {"type": "enabled", "budget_tokens": 2_000},
    {"type": "adaptive", "display": "omitted"},
    {"type": "disabled"},
)
CLEARING = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}


class Turn(Struct, frozen=True):
    """What happens at one request: who is down, what is answered, and what the client says then."""

    down: str
    thought: str
    text: str
    calls: int
    ids: str
    results: tuple[Any, ...]
    words: Any


TURN = st.builds(
    Turn,
    down=st.sampled_from(("", "", "anthropic", "zai")),
    thought=st.sampled_from(("", "thinking", "redacted", "both", "unsigned", "blank")),
    text=st.sampled_from(("so", "so", "", "\n", "gone")),
    calls=st.integers(0, 3),
    ids=st.sampled_from(("new", "count", "odd")),
    results=st.tuples(*[st.sampled_from(RESULTS)] * 3),
    words=st.sampled_from(("go on", [{"type": "text", "text": "look"}, IMAGE], [IMAGE])),
)


class Providers:
    """Both providers. They refuse what breaks their rules, and answer with what each makes."""

    def __init__(self, *, strict: bool) -> None:
        self.turn: Turn
        self.refused: list[str] = []
        self.content: list[dict[str, Any]] = []
        self._anthropic_rules = (*ANTHROPIC_RULES, thought_first_in_last) if strict else ANTHROPIC_RULES
        self._numbers = itertools.count()

    def respond(self, sent: SentRequest) -> ScriptedResponse:
        """The answer of the provider that is asked."""
        is_anthropic = sent.base_url == ANTHROPIC
        if self.turn.down == ("anthropic" if is_anthropic else "zai"):
            return error(529, "overloaded_error", "busy")
        if words := broken_rule(sent.json, self._anthropic_rules if is_anthropic else ZAI_RULES):
            self.refused.append(words)
            return error(400, "invalid_request_error", words)
        self.content = self._anthropic_content(sent.json) if is_anthropic else self._zai_content()
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": self.content}
        usage = {"input_tokens": 7, "output_tokens": 9}
        if sent.json.get("stream"):
            return stream(*events_of(message, usage))
        return reply(message | {"usage": usage, "stop_reason": "end_turn"})

    def _anthropic_content(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """What Anthropic makes: thoughts only where they are on, no empty text, and ids of its own."""
        turn, number = self.turn, next(self._numbers)
        signed = {"type": "thinking", "thinking": "hm", "signature": f"sig-anthropic-{number}"}
        redacted = {"type": "redacted_thinking", "data": f"sig-anthropic-r{number}"}
        kind = (body.get("thinking") or {}).get("type", "disabled")
        chosen = {"redacted": [redacted], "both": [signed, redacted], "": []}.get(turn.thought, [signed])
        if kind == "disabled":
            chosen = []
        elif kind == "enabled" and not chosen:
            chosen = [signed]
        said = [] if turn.text in (*BLANKS, "gone") and turn.calls else [{"type": "text", "text": "well"}]
        return [*chosen, *said, *(call(f"toolu_{number}_{which}") for which in range(turn.calls))]

    def _zai_content(self) -> list[dict[str, Any]]:
        """What Z.AI makes: thoughts with signatures of its own or none, empty texts, and any ids."""
        turn, number = self.turn, next(self._numbers)
        thoughts: dict[str, list[dict[str, Any]]] = {
            "": [],
            "unsigned": [{"type": "thinking", "thinking": "hm"}],
            "blank": [{"type": "thinking", "thinking": "", "signature": ""}],
            "redacted": [{"type": "redacted_thinking", "data": f"zai-{number}"}],
        }
        signed = {"type": "thinking", "thinking": "hm", "signature": f"zai-{number}"}
        said = [] if turn.text == "gone" else [{"type": "text", "text": turn.text}]
        names = {"new": f"call_{number}_", "count": "call_", "odd": f"call.{number}/"}[turn.ids]
        return [
            *thoughts.get(turn.thought, [signed, {**signed, "signature": f"zai-{number}b"}]),
            *said,
            *(call(f"{names}{which}") for which in range(turn.calls)),
        ]


def call(name: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": name, "name": "Bash", "input": {}}


def events_of(message: dict[str, Any], usage: dict[str, int]) -> list[bytes]:
    """A message as events; each block comes whole in its start, which is all that the relay looks at."""
    parts: list[dict[str, Any]] = [{"type": "message_start", "message": message | {"content": [], "usage": usage}}]
    for index, block in enumerate(message["content"]):
        parts += [
            {"type": "content_block_start", "index": index, "content_block": block},
            {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": ""}},
            {"type": "content_block_stop", "index": index},
        ]
    parts += [
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    ]
    return [b"event: %b\ndata: %b\n\n" % (part["type"].encode(), msgspec.json.encode(part)) for part in parts]


async def ask(relay: RelayHarness, body: dict[str, Any]) -> MemoryClient:
    """A request of the session, read as the edge reads it."""
    request = relay.request(body, session_id="s1")
    fresh = msgspec.structs.replace(request, model="", stream=False, max_tokens=0, fields=())
    read_fields(fresh, relay.settings.bodies)
    relay.relay.check_access(fresh)
    client = MemoryClient()
    await relay.relay.handle(fresh, client)
    return client


async def talk(
    home: Path, providers: Providers, turns: list[Turn], fields: dict[str, Any]
) -> list[tuple[int, str, int]]:
    """A conversation's statuses, routes and attempts, through a relay in memory."""
    relay = RelayFactory(home).make(BOTH)
    relay.upstream.respond = providers.respond
    body = {"model": MODEL, "max_tokens": 8_000, "messages": [{"role": "user", "content": "begin"}], **fields}
    outcomes = []
    for turn in turns:
        providers.turn = turn
        client = await ask(relay, body)
        outcomes.append((client.status, client.route, client.attempts))
        assert client.status == 200, (client.body, providers.refused[-2:])
        calls = [block["id"] for block in providers.content if block["type"] == "tool_use"]
        results = [
            {"type": "tool_result", "tool_use_id": name, "content": content}
            for name, content in zip(calls, turn.results, strict=False)
        ]
        said: Any = results or turn.words
        body["messages"] += [{"role": "assistant", "content": providers.content}, {"role": "user", "content": said}]
    relay.check_closed()
    return outcomes


def run(home: Path, providers: Providers, turns: list[Turn], fields: dict[str, Any]) -> list[tuple[int, str, int]]:
    """A conversation in virtual time."""
    loop = JumpingLoop()
    try:
        return loop.run_until_complete(talk(home, providers, turns, fields))
    finally:
        loop.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


AROUND = [
    Turn(down, thought, text, calls, ids, RESULTS[:3], "go on")
    for down, thought, text, calls, ids in (
        ("", "both", "", 2, "new"),
        ("anthropic", "thinking", "", 2, "count"),
        ("zai", "thinking", "", 1, "new"),
        ("anthropic", "unsigned", "\n", 3, "count"),
        ("zai", "redacted", "so", 0, "new"),
    )
]


@given(
    turns=st.lists(TURN, min_size=TURNS, max_size=TURNS),
    thinking=st.sampled_from(THINKING),
    stream=st.booleans(),
    strict=st.booleans(),
    clears=st.booleans(),
)
@example(turns=AROUND * 4, thinking=THINKING[1], stream=False, strict=False, clears=True)
@example(turns=AROUND * 4, thinking=THINKING[1], stream=True, strict=True, clears=True)
@example(turns=AROUND * 4, thinking=THINKING[2], stream=True, strict=False, clears=True)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_conversation_never_ends_in_a_400(
    home: Path, turns: list[Turn], thinking: dict[str, Any] | None, *, stream: bool, strict: bool, clears: bool
) -> None:
    """Whoever answers which turn, whatever each makes, and however the rule about the first thought is read."""
    is_on = thinking is not None and thinking["type"] != "disabled"
    body: dict[str, Any] = {"thinking": thinking} if thinking else {}
    body |= {"stream": True} if stream else {}
    body |= {"context_management": CLEARING} if clears and is_on else {}
    providers = Providers(strict=strict)
    outcomes = run(home, providers, turns, body)
    assert len(outcomes) == TURNS
    assert {route for _, route, _ in outcomes} <= {"anthropic", "zai"}


def test_what_was_refused_once_is_not_sent_again(home: Path) -> None:
    """A thought of Z.AI costs one refusal, and is left out from then on; those of Anthropic stay."""
    turns = [
        Turn("", "thinking", "so", 0, "new", RESULTS[:3], "go on"),
        Turn("anthropic", "thinking", "so", 0, "new", RESULTS[:3], "go on"),
        *[Turn("", "thinking", "so", 0, "new", RESULTS[:3], "go on")] * 4,
    ]
    providers = Providers(strict=False)
    outcomes = run(home, providers, turns, {"thinking": THINKING[1]})
    assert outcomes == [(200, "anthropic", 1), (200, "zai", 2), (200, "anthropic", 2), *[(200, "anthropic", 1)] * 3]
    assert providers.refused == ["messages.3.content.0: Invalid `signature` in `thinking` block"]
