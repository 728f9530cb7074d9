"""A relay before fake providers, in memory and in virtual time: no socket, no Redis, no real waiting.

async def test_something(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(error(529))
    client = await relay.ask(ASK)
    assert (client.status, relay.ended) == (200, [...])
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from service.fleet.admission import Admission
from service.fleet.outbox import Outbox
from service.fleet.resource_index import ResourceIndex
from service.fleet.snapshots import Watcher
from service.ledger.events import AttemptEnded, AttemptStarted, Event
from service.oauth.credentials import Credentials, NoCredential
from service.relay import ClientRequest, Relay
from service.routing.request_fields import notable_fields
from service.settings import Route, Settings, load
from tests.support.fake_upstream import FakeUpstream
from tests.support.virtual_time import VirtualClock, advance

ANTHROPIC_KEY = "sk-ant-api03-in-memory-aaaaaaaaaaaa"
ZAI_KEY = "zai-in-memory-bbbbbbbbbbbbbbbbbbbb"
ANTHROPIC = "https://anthropic.test"
ZAI = "https://zai.test"
BOTH = {
    "ANTHROPIC_API_KEY": ANTHROPIC_KEY,
    "ANTHROPIC_BASE_URL": ANTHROPIC,
    "ZAI_API_KEY": ZAI_KEY,
    "ZAI_BASE_URL": ZAI,
    "CIRCUIT_BREAKER_ENABLED": "false",
    "API_RETRY_DELAY_MS": "1",
}
ONLY_ANTHROPIC = {name: value for name, value in BOTH.items() if not name.startswith("ZAI")}
MODEL = "claude-opus-5-5"
ASK: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]}
STREAM = ASK | {"stream": True}


class MemoryClient:
    """The client's end of a response. `at_end` is called before its last part is taken."""

    def __init__(self) -> None:
        self.started = False
        self.early = False
        self.committed = False
        self.broken = False
        self.ended = False
        self.route = ""
        self.attempts = 0
        self.dropped: tuple[str, ...] = ()
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.parts: list[bytes] = []
        self.part_times_s: list[float] = []
        self.early_s = 0.0
        self.reads = asyncio.Event()
        """Cleared, the client reads nothing: whoever writes to it waits."""
        self.reads.set()
        self.at_end: Callable[[], object] = lambda: None

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        assert not self.committed
        self.committed = True
        if not self.early:
            self.started, self.status, self.headers = True, status, dict(headers)

    async def start_early(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        assert not self.started
        await self.reads.wait()
        self.started, self.early, self.status, self.headers = True, True, 200, dict(headers)
        self.early_s = asyncio.get_running_loop().time()

    async def write(self, data: bytes) -> None:
        assert self.started
        assert not self.ended
        await self.reads.wait()
        if data:
            self.parts.append(data)
            self.part_times_s.append(asyncio.get_running_loop().time())

    async def end(self, data: bytes = b"") -> None:
        self.at_end()
        await self.write(data)
        self.ended = True

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class SlowOutbox(Outbox):
    """Acknowledges after a while."""

    acknowledge_s = 0.0

    async def append(self, stream: str, event: Event) -> int:
        seq = await super().append(stream, event)
        if self.acknowledge_s:
            await advance(self.acknowledge_s)
        return seq


class FakeCredentials(Credentials):
    """Keys as the settings have them, but tokens by route where a test gives some: the next one is a refreshed one."""

    def __init__(self, settings: Settings, clock: VirtualClock) -> None:
        super().__init__(settings, None, clock)
        self.tokens: dict[str, list[str]] = {}
        self.missing: dict[str, str] = {}
        """Routes without a credential, and why."""
        self.refresh_s = 0.0

    async def of(self, route: Route) -> str:
        if route.id in self.missing:
            raise NoCredential(self.missing[route.id])
        tokens = self.tokens.get(route.id)
        return tokens[0] if tokens else await super().of(route)

    async def refused(self, route: Route, token: str) -> bool:
        tokens = self.tokens.get(route.id, [])
        if token in tokens[:1]:
            await advance(self.refresh_s)
            tokens.pop(0)
        return bool(tokens)


class RelayHarness:
    """A relay, and all that it needs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = VirtualClock()
        self.upstream = FakeUpstream()
        self.credentials = FakeCredentials(settings, self.clock)
        self.outbox = SlowOutbox(None, replica="r1", clock=self.clock, spool_root=settings.home / "spool")
        self.watcher = Watcher(None, self.outbox, self.clock, settings)
        self.resources = ResourceIndex(None)
        self.admission = Admission(
            None,
            replica="r1",
            clock=self.clock,
            weights=settings.policy.quota.weights,
            ledger_of=self.watcher.view.ledger,
            is_away=lambda: False,
            replicas=lambda: 1,
            spent=self.watcher.view.spent,
        )
        self.relay = Relay(
            settings,
            upstream=self.upstream,
            credentials=self.credentials,
            outbox=self.outbox,
            watcher=self.watcher,
            resources=self.resources,
            admission=self.admission,
            clock=self.clock,
        )
        self.events: list[tuple[str, Event]] = []
        self.outbox.listeners += [self.watcher.fold_own, lambda stream, event: self.events.append((stream, event))]

    def request(
        self, body: Mapping[str, Any] | bytes = ASK, path: str = "/v1/messages", **fields: Any
    ) -> ClientRequest:
        """A request as the edge would have read it."""
        plain = body if isinstance(body, bytes) else msgspec.json.encode(body)
        read = {} if isinstance(body, bytes) else dict(body)
        given: dict[str, Any] = {
            "request_id": self.clock.new_request_id(),
            "method": "POST",
            "path": path,
            "headers": [(b"content-type", b"application/json")],
            "body": plain,
            "plain": plain,
            "endpoint": "messages",
            "model": read.get("model", ""),
            "stream": read.get("stream", False),
            "max_tokens": read.get("max_tokens", 0),
            "fields": notable_fields({name: msgspec.Raw(msgspec.json.encode(value)) for name, value in read.items()}),
        }
        return ClientRequest(**(given | fields))

    async def ask(
        self,
        body: Mapping[str, Any] | bytes = ASK,
        path: str = "/v1/messages",
        client: MemoryClient | None = None,
        **fields: Any,
    ) -> MemoryClient:
        """Relay one request to its end. Raises ProxyError."""
        client = client or MemoryClient()
        request = self.request(body, path, **fields)
        self.relay.check_access(request)
        await self.relay.handle(request, client)
        return client

    @property
    def ends(self) -> list[AttemptEnded]:
        """The attempts that ended."""
        return [event for _, event in self.events if isinstance(event, AttemptEnded)]

    @property
    def ended(self) -> list[tuple[str, str, str]]:
        """Route, outcome and kind of failure of the attempts that ended."""
        return [(route, event.outcome, event.kind) for route, event in self.events if isinstance(event, AttemptEnded)]

    def check_closed(self) -> None:
        """Nothing is left: no attempt without its end, no open response, nothing held."""
        begun = {event.event_id for _, event in self.events if isinstance(event, AttemptStarted)}
        assert begun == {event.attempt_id for event in self.ends}
        assert len(begun) == len(self.ends), "an attempt has ended twice"
        assert self.upstream.all_closed
        assert not self.admission._grants
        assert not self.relay._under_way


class RelayFactory:
    """Makes relays for one test, and checks at its end what they leave."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.made: list[RelayHarness] = []

    def make(
        self, variables: Mapping[str, str] = BOTH, toml: str = "", *, slow_ms: int = 60_000, **timeouts: int
    ) -> RelayHarness:
        """A relay with these variables and this TOML file; `timeouts` are fields of `Timeouts`."""
        given = {**variables, "CCPROXY_HOME": str(self.home)}
        if toml:
            (self.home / "ccproxy.toml").write_text(toml, "utf-8")
        settings = load(None, given)
        circuit = msgspec.structs.replace(settings.policy.circuit, slow_ms=slow_ms)
        settings = msgspec.structs.replace(
            settings,
            timeouts=msgspec.structs.replace(settings.timeouts, **timeouts),
            policy=msgspec.structs.replace(settings.policy, circuit=circuit),
        )
        self.made.append(RelayHarness(settings))
        return self.made[-1]


async def parts_of(*parts: bytes) -> AsyncIterator[bytes]:
    """An upload."""
    for part in parts:
        yield part
