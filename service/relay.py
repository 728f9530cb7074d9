"""One request, from plan to bytes to outcome. The page to read first.

    rank -> failover yields an attempt -> AttemptStarted is acknowledged -> the request goes up
         -> held back until content comes (commit) -> bytes pass unchanged, a tap reads along
         -> AttemptEnded is acknowledged -> the last bytes go to the client -> the plan's verdict

Laws
- Before commit nothing goes to the client, so that every failure can be made good on another route.
- After commit no other route is tried: a broken stream ends with a well-formed `event: error`.
- Nobody ever holds a complete answer that the ledger does not.
- When the client goes, its task is cancelled: the upstream is closed at once, and what was used is accounted.

Not here: deciding (`routing`), reading what providers say (`providers`), facing the client (`edge`).
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec
from msgspec import Struct, field

from service.clock import Clock
from service.errors import AllThrottled, BadClientKey, NoRoute, NotFound, ProxyError, Unreachable
from service.ledger.events import (
    AttemptEnded,
    AttemptStarted,
    BatchItemUsed,
    Endpoint,
    FailureScope,
    Outcome,
    ResourceCreated,
    Tokens,
    Window,
)
from service.ledger.ids import derived_id, ended_id, time_of_id_ms
from service.ledger.price import PriceList, cost_nusd
from service.outbox import Outbox
from service.providers.batches import BatchItem, BatchTap
from service.providers.bodies import clean_body
from service.providers.credentials import Credentials, NoCredential
from service.providers.facts import AnswerFacts, answer_facts, windows_of
from service.providers.headers import client_headers, upstream_headers
from service.providers.sse import EventTooLarge
from service.providers.tap import JsonAnswer, StreamTap, json_usage
from service.providers.transport import Upstream, UpstreamError, Wires
from service.resources import Home, Resources
from service.routing.failover import Attempt, Plan, Result, Verdict, failover
from service.routing.failure import Facts, Failure, classify
from service.routing.rank import Ask, Candidate, choose_chain, rank
from service.settings import Route, Settings
from service.watcher import Watcher

log = logging.getLogger("ccproxy.relay")

OK = 25
"""The log level between info and warn, for answers."""

ANSWER_BYTES = 64 * 1024 * 1024
"""The largest answer that is read whole before it is passed on: twice the largest request."""
ERROR_BYTES = 1024 * 1024
"""An error answer is a page at most; more than this is no error answer."""
HELD_BYTES = 1024 * 1024
"""What is held back before commit; a start without content is a few hundred bytes, so that this is never reached."""
ERROR_READ_S = 5.0
"""An error's words are worth no longer wait: its status says what matters."""
DRAIN_S = 0.25
"""After `message_stop` the end of the body follows at once; a connection that dawdles is not worth keeping."""
SHORT_WAIT_MS = 60_000
"""Claude Code obeys a retry-after of this length, and gives up at once on one of 90 s."""
NAME_CHARS = 256
"""No model has a longer name; the ledger takes no longer one."""
NO_TOKENS = Tokens()
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
JSON_ENDPOINTS: frozenset[Endpoint] = frozenset(("messages", "count_tokens", "models"))


class Call(Struct, kw_only=True):
    """A client's request, as the edge read it.

    `body` is as it came, `plain` the same without content encoding; `upload` stands in place of both when the body is
    passed through as it comes. `path` begins with /v1/ and keeps its escapes. `credential` is the client's own, "" when
    it showed none but a key of this proxy; `withhold` names the headers that hold such a key. `base_url` is this proxy
    as the client sees it.
    """

    request_id: str
    method: str
    path: str
    query: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""
    plain: bytes = b""
    upload: AsyncIterator[bytes] | None = None
    upload_taken: bool = False
    endpoint: Endpoint = "other"
    model: str = ""
    stream: bool = False
    max_tokens: int = 0
    threaded: bool = False
    session_id: str = ""
    resource_ids: tuple[str, ...] = ()
    credential: str = ""
    client_key: str = ""
    may_use_owners: bool = True
    withhold: tuple[bytes, ...] = ()
    base_url: str = ""
    arrived_ms: int = 0
    deadline_ms: int = 600_000


class Reply(Protocol):
    """The way back to the client."""

    started: bool
    """Whether a byte has gone out: then the request is committed."""
    route: str
    attempts: int

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send the head."""

    async def write(self, data: bytes) -> None:
        """Send a part of the body; waits while the client is slow."""

    async def end(self) -> None:
        """Say that the body is complete."""


class Fault(Exception):
    """An attempt failed in a way that the code below it can't go on from."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Try(Struct, kw_only=True):
    """An attempt under way: what becomes its `AttemptEnded`, and its error answer for when it is the one to show."""

    attempt: Attempt
    attempt_id: str
    started_ms: int
    outcome: Outcome = "failed"
    failure: Failure | None = None
    status: int = 0
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""
    decoded: bool = False
    tokens: Tokens = Tokens()
    windows: dict[str, Window] = field(default_factory=dict)
    first_byte_ms: int | None = None
    first_content_ms: int | None = None
    started: bool = False
    accounted: bool = False
    credential: str = ""

    @property
    def route(self) -> Route:
        """The route that is tried."""
        return self.attempt.candidate.route


class Relay:
    """Relays requests. Holds what a request needs; keeps nothing of it."""

    def __init__(
        self,
        settings: Settings,
        *,
        wires: Wires,
        credentials: Credentials,
        outbox: Outbox,
        watcher: Watcher,
        resources: Resources,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self._wires = wires
        self._credentials = credentials
        self._outbox = outbox
        self._watcher = watcher
        self._resources = resources
        self._routes = {route.id: route for route in (*settings.routes, settings.client_route)}
        self._under_way = 0

    async def handle(self, call: Call, reply: Reply) -> None:
        """Answer one request. Raises ProxyError when no route's answer is worth showing."""
        self._under_way += 1
        try:
            await self._handle(call, reply)
        finally:
            self._under_way -= 1

    async def stop(self, limit_s: float = 2.0) -> None:
        """Wait for requests that were cancelled to be accounted, within the limit."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self._under_way:  # noqa: ASYNC110 - bounded by the limit above
                    await asyncio.sleep(0.01)

    async def _handle(self, call: Call, reply: Reply) -> None:
        candidates = await self._candidates(call)
        plan = failover(candidates, self.settings.policy, call.model)
        usable = sum(candidate.usable for candidate in candidates)
        tries: list[Try] = []
        deadline = asyncio.get_running_loop().time() + call.deadline_ms / 1000
        attempt, verdict = advance(plan, None)
        while attempt:
            if attempt.wait_ms:
                await asyncio.sleep(attempt.wait_ms / 1000)
            reply.route, reply.attempts = attempt.candidate.route.id, attempt.number
            routes = {attempt.candidate.route.id, *(one.route.id for one in tries)}
            one = await self._try(call, attempt, reply, deadline, is_last=len(routes) >= usable)
            tries.append(one)
            over = reply.started or asyncio.get_running_loop().time() >= deadline
            attempt, verdict = advance(plan, Result(self.clock.now_ms(), one.failure, over))
            await self._account(call, one, final=attempt is None)
        assert verdict is not None  # noqa: S101 - the plan ends with one
        if not reply.started:
            await self._show(call, reply, verdict, tries, candidates)

    async def _candidates(self, call: Call) -> list[Candidate]:
        """The routes for this request, those to try first."""
        chain = choose_chain(
            self.settings.routes,
            self.settings.client_route,
            credential=call.credential,
            mode=self.settings.client_credentials,
            may_use_owners=call.may_use_owners,
        )
        ask = Ask(call.endpoint, call.model, await self._bound_to(call))
        return rank(ask, chain, self._watcher.view, self.settings.policy, self.clock.now_ms())

    async def _bound_to(self, call: Call) -> str:
        """The route on which the request's resources live, "" when it names none that is known."""
        for resource_id in call.resource_ids:
            if home := await self._resources.home_of(resource_id):
                return home.route
        return ""

    # -- one attempt

    async def _try(self, call: Call, attempt: Attempt, reply: Reply, deadline: float, *, is_last: bool) -> Try:
        """One attempt, to its outcome. Before commit it never raises but for cancellation."""
        one = Try(attempt=attempt, attempt_id=self.clock.new_id(), started_ms=self.clock.now_ms())
        log_attempt(call, one)
        upstream: Upstream | None = None
        try:
            async with asyncio.timeout_at(deadline) as limit:
                upstream = await self._open(call, one, limit, is_last=is_last)
                await self._answer(call, one, upstream, reply, limit)
        except Fault as fault:
            one.failure = fault.failure
        except UpstreamError as error:
            one.failure = Failure(error.kind, scope_of(error), message=str(error), status=one.status)
        except TimeoutError:
            one.failure = self._silence(one)
        except EventTooLarge as error:
            one.failure = Failure("bad_answer", "route", message=str(error), status=one.status)
        except BaseException:  # the client has gone, mostly; whatever it was, what was used is accounted
            one.outcome = "aborted"
            await asyncio.shield(self._account(call, one, final=True))
            raise
        finally:
            if upstream:
                await upstream.close()
        if one.failure and reply.started:
            await self._break_off(call, one, reply)
        return one

    def _silence(self, one: Try) -> Failure:
        """A time-out is the route's fault only if the route had its time; some clients give it a second."""
        waited_ms = self.clock.now_ms() - one.started_ms
        if waited_ms < min(self.settings.policy.circuit.slow_ms, self.settings.timeouts.first_byte_ms):
            return Failure("deadline", "", message="the client's own deadline has passed", status=one.status)
        return Failure("timeout", "route", message="the provider stayed silent for too long", status=one.status)

    async def _open(self, call: Call, one: Try, limit: asyncio.Timeout, *, is_last: bool) -> Upstream:
        """Send the request; the head of the answer. The attempt is on the ledger before its first byte goes out."""
        route = one.route
        try:
            credential = "" if route.auth == "client" else await self._credentials.of(route, one.started_ms)
        except NoCredential as error:
            raise Fault(Failure("credential", "credential", message=str(error))) from None
        one.credential = credential
        content, is_own = self._content(call, one)
        headers = upstream_headers(
            call.headers,
            dialect=route.provider.dialect,
            auth=route.auth,
            credential=credential,
            stream=call.stream,
            body_decoded=not is_own,
            pass_accept_encoding=call.endpoint in ("files", "other"),
            withhold=call.withhold,
        )
        one.started = True
        await self._outbox.append(route.id, started_event(call, one))
        url = f"{route.base_url}{call.path}{'?' + call.query if call.query else ''}"
        async with asyncio.timeout(None if is_last else self._head_limit_s(call, limit)):
            upstream = await self._wires.open(call.method, url, headers, content)
        one.status, one.headers = upstream.status, upstream.headers
        one.windows = windows_of(upstream.headers)
        one.first_byte_ms = self.clock.now_ms() - one.started_ms
        return upstream

    def _head_limit_s(self, call: Call, limit: asyncio.Timeout) -> float:
        """How long an answer may take to begin while other routes are left; whole answers may take minutes."""
        if call.stream:
            return self.settings.timeouts.first_byte_ms / 1000
        return ((limit.when() or 0) - asyncio.get_running_loop().time()) / 2

    def _content(self, call: Call, one: Try) -> tuple[bytes | AsyncIterator[bytes], bool]:
        """The body for this route, and whether it is the client's own, byte for byte."""
        if call.upload:
            if call.upload_taken:
                raise Fault(Failure("reset", "", message="an upload can't be sent twice"))
            return taken(call, call.upload), True
        if call.endpoint not in ("messages", "count_tokens"):
            return call.body, True
        cleaned = clean_body(
            call.plain,
            route=one.route,
            model_asked=call.model,
            model_sent=one.attempt.candidate.model,
            strip_thinking=self.settings.strip_thinking,
        )
        is_own = cleaned is call.plain and one.route.provider.dialect == "anthropic"
        return (call.body if is_own else cleaned), is_own

    async def _answer(self, call: Call, one: Try, upstream: Upstream, reply: Reply, limit: asyncio.Timeout) -> None:
        """Pass the answer on in the way that fits it. Raises Fault or UpstreamError."""
        if upstream.status >= 300:
            await self._read_error(one, upstream)
        elif call.method == "HEAD" or call.path.endswith("/content"):
            limit.reschedule(None)
            await self._copy(call, one, upstream, reply)
        elif call.endpoint == "messages" and call.stream:
            await self._stream(call, one, upstream, reply, limit)
        elif call.endpoint == "batches" and call.path.endswith("/results"):
            limit.reschedule(None)
            await self._results(call, one, upstream, reply)
        elif call.endpoint in JSON_ENDPOINTS or upstream.content_type == "application/json":
            await self._whole(call, one, upstream, reply, limit)
        else:
            limit.reschedule(None)
            await self._copy(call, one, upstream, reply)

    async def _read_error(self, one: Try, upstream: Upstream) -> None:
        """An error answer, kept for when it is the one to show."""
        upstream.decode()
        with contextlib.suppress(TimeoutError, UpstreamError):
            async with asyncio.timeout(ERROR_READ_S):
                one.body = await upstream.read(ERROR_BYTES)
        one.decoded = upstream.decoded
        facts = answer_facts(upstream.status, upstream.headers, one.body, self.clock.now_ms())
        raise Fault(classify(plain_facts(facts, self.clock.now_ms()), self.clock.now_ms()))

    async def _whole(self, call: Call, one: Try, upstream: Upstream, reply: Reply, limit: asyncio.Timeout) -> None:
        """An answer in one piece: checked, accounted, then passed on."""
        upstream.decode()
        body = await upstream.read(ANSWER_BYTES)
        answer = json_usage(body)
        if answer is None or (call.endpoint == "messages" and call.path == "/v1/messages" and not answer.is_message):
            raise Fault(self._bad_json(answer, one))
        limit.reschedule(None)
        one.tokens = answer.tokens
        await self._note_resources(call, one, answer)
        if call.endpoint == "batches":
            body = body.replace(one.route.base_url.encode() + b"/v1/", call.base_url.encode() + b"/v1/")
        one.outcome = "ok"
        await self._account(call, one, final=True)
        await reply.start(upstream.status, [*self._head(one, decoded=upstream.decoded), length_of(body)])
        await reply.write(body)
        await reply.end()

    def _bad_json(self, answer: JsonAnswer | None, one: Try) -> Failure:
        """What an answer with status 200 that is no answer means."""
        if answer and answer.error:
            facts = answer_facts(200, one.headers, answer.error.data, self.clock.now_ms())
            return classify(plain_facts(facts, self.clock.now_ms()), self.clock.now_ms())
        return Failure("bad_answer", "route", message="the answer is no message", status=one.status)

    async def _copy(self, call: Call, one: Try, upstream: Upstream, reply: Reply) -> None:
        """Bytes as they come (files, batch results); the last of them only once the ledger has the end."""
        await reply.start(upstream.status, self._head(one, decoded=False))
        held = b""
        async for chunk in upstream.chunks():
            if held:
                await reply.write(held)
            held = chunk
        one.outcome = "ok"
        await self._account(call, one, final=True)
        if held:
            await reply.write(held)
        await reply.end()

    async def _results(self, call: Call, one: Try, upstream: Upstream, reply: Reply) -> None:
        """The results of a batch: lines as they come, each booked before it goes on."""
        upstream.decode()
        fresh = Home(one.route.id, self.clock.new_id())
        batch = await self._resources.bind(call.resource_ids[0], fresh) if call.resource_ids else fresh
        tap = BatchTap()
        await reply.start(upstream.status, self._head(one, decoded=upstream.decoded))
        held = b""
        async for chunk in upstream.chunks():
            await self._book(call, one, batch, tap.feed(chunk))
            await reply.write(held)
            held = chunk
        await self._book(call, one, batch, tap.finish())
        one.outcome = "ok"
        await self._account(call, one, final=True)
        await reply.write(held)
        await reply.end()

    # -- streams

    async def _stream(self, call: Call, one: Try, upstream: Upstream, reply: Reply, limit: asyncio.Timeout) -> None:
        """A stream of events: held back until content comes, then passed on as it comes."""
        if upstream.content_type != "text/event-stream":
            raise Fault(await self._no_stream(one, upstream))
        upstream.decode()
        tap = StreamTap()
        chunks = aiter(upstream.chunks())
        held = Held()
        try:
            await self._hold(one, tap, held, chunks)
            limit.reschedule(None)
            await reply.start(upstream.status, self._head(one, decoded=upstream.decoded))
            await self._pass_on(call, one, tap, held, chunks, reply)
        finally:
            held.drop()
            one.tokens = tap.tokens
        if not tap.complete:
            message = "the stream ended before its end" if not tap.error else tap.error.message
            raise Fault(Failure("bad_answer", "route", message=message, status=one.status))

    async def _no_stream(self, one: Try, upstream: Upstream) -> Failure:
        """What an answer that is no stream says, where a stream was asked for."""
        upstream.decode()
        answer = json_usage(await upstream.read(ERROR_BYTES))
        return self._bad_json(answer if answer and answer.error else None, one)

    async def _hold(self, one: Try, tap: StreamTap, held: "Held", chunks: AsyncIterator[bytes]) -> None:
        """Read until content begins, the stream is complete, or it has been held for long enough."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.settings.timeouts.hold_ms / 1000
        while True:
            held.next_chunk = asyncio.ensure_future(anext(chunks, b""))
            await asyncio.wait({held.next_chunk}, timeout=max(0, until - loop.time()))
            if not held.next_chunk.done():
                one.first_content_ms = self.clock.now_ms() - one.started_ms  # and longer
                return
            chunk = (await held.next_chunk) or b""
            held.next_chunk = None
            if not chunk:
                raise Fault(Failure("bad_answer", "route", message="the stream ended before any content", status=200))
            held.add(chunk, tap.feed(chunk))
            self._check_start(one, tap)
            if tap.has_content or tap.complete or held.size > HELD_BYTES:
                one.first_content_ms = self.clock.now_ms() - one.started_ms
                return

    def _check_start(self, one: Try, tap: StreamTap) -> None:
        """An error before content, and what is no stream at all, can still be made good."""
        if tap.garbage:
            raise Fault(Failure("bad_answer", "route", message="the answer is no stream of events", status=one.status))
        if tap.error:
            facts = answer_facts(200, one.headers, tap.error.data, self.clock.now_ms())
            raise Fault(classify(plain_facts(facts, self.clock.now_ms()), self.clock.now_ms()))

    async def _pass_on(
        self, call: Call, one: Try, tap: StreamTap, held: "Held", chunks: AsyncIterator[bytes], reply: Reply
    ) -> None:
        """Bytes to the client, unchanged. The last event waits for the ledger."""
        pinger = Pinger(reply, tap, self.settings.timeouts.ping_ms / 1000)
        try:
            free, rest = held.split()
            while True:
                if free:
                    await pinger.write(free)
                if tap.complete or tap.error:
                    pinger.stop()
                    await self._finish(call, one, tap, rest, reply)
                    await drain(chunks)
                    return
                chunk = await (held.take() or anext(chunks, b""))
                if not chunk:
                    return
                size = tap.feed(chunk)
                free, rest = (chunk[:size], chunk[size:]) if not tap.error else (b"", chunk)
        finally:
            pinger.stop()

    async def _finish(self, call: Call, one: Try, tap: StreamTap, rest: bytes, reply: Reply) -> None:
        """The end of a stream: on the ledger first, then to the client."""
        one.tokens = tap.tokens
        if tap.error:
            facts = answer_facts(200, one.headers, tap.error.data, self.clock.now_ms())
            one.failure = classify(plain_facts(facts, self.clock.now_ms()), self.clock.now_ms())
            tap.complete = True  # the provider's own error event is the well-formed end
        else:
            one.outcome = "ok"
        await self._note_stream_resources(call, one, tap)
        await self._account(call, one, final=True)
        await reply.write(rest)
        await reply.end()

    async def _break_off(self, call: Call, one: Try, reply: Reply) -> None:
        """After commit the client learns the truth: the stream broke."""
        if one.accounted:
            return
        await self._account(call, one, final=True)
        if call.stream and call.endpoint == "messages":
            await reply.write(error_event(one))
            await reply.end()

    # -- the ledger

    async def _account(self, call: Call, one: Try, *, final: bool) -> None:
        """Put the attempt's end on the ledger, once."""
        one.failure = without_secret(one.failure, one.credential)
        if one.accounted or not one.started:
            return
        one.accounted = True
        event = self._ended_event(call, one, final=final)
        log_outcome(call, one, event)
        await self._outbox.append(one.route.id, event)

    def _ended_event(self, call: Call, one: Try, *, final: bool) -> AttemptEnded:
        now_ms = self.clock.now_ms()
        failure = one.failure if one.outcome == "failed" else None
        slow_ms = self.settings.policy.circuit.slow_ms
        cost = (
            cost_nusd(one.tokens, one.attempt.candidate.model, self.settings.prices) if one.tokens != NO_TOKENS else 0
        )
        return AttemptEnded(
            event_id=ended_id(one.attempt_id),
            at_ms=now_ms,
            attempt_id=one.attempt_id,
            request_id=call.request_id,
            started_at_ms=one.started_ms,
            outcome=one.outcome,
            endpoint=call.endpoint,
            kind=failure.kind if failure else "",
            scope=failure.scope if failure else "",
            status=one.status,
            message=failure.message[:300] if failure else "",
            model_asked=bounded(call.model),
            model_sent=bounded(one.attempt.candidate.model),
            client_key=call.client_key,
            session_id=call.session_id,
            stream=call.stream,
            tokens=one.tokens,
            first_byte_ms=one.first_byte_ms,
            total_ms=now_ms - one.started_ms,
            slow=call.stream and (one.first_content_ms or 0) > slow_ms,
            retry_at_ms=failure.retry_at_ms if failure else 0,
            windows=one.windows,
            cost_nusd=cost,
            price_version=self.settings.prices.version if cost is not None else "",
            final=final,
        )

    async def _note_resources(self, call: Call, one: Try, answer: JsonAnswer) -> None:
        """What a whole answer created lives on this route."""
        created = answer.container_id
        if call.threaded or (call.method == "POST" and call.endpoint in ("batches", "files")):
            created = answer.id
        await self._bind(call, one, created)

    async def _note_stream_resources(self, call: Call, one: Try, tap: StreamTap) -> None:
        await self._bind(call, one, tap.message_id if call.threaded else "")
        await self._bind(call, one, tap.container_id)

    async def _bind(self, call: Call, one: Try, resource_id: str) -> None:
        """Remember where a resource lives, for all replicas."""
        if not resource_id or resource_id in call.resource_ids:
            return
        event = ResourceCreated(
            event_id=self.clock.new_id(),
            at_ms=self.clock.now_ms(),
            resource_id=resource_id,
            resource_kind=call.endpoint,
            request_id=call.request_id,
        )
        await self._resources.bind(resource_id, Home(one.route.id, event.event_id))
        await self._outbox.append(one.route.id, event)

    async def _book(self, call: Call, one: Try, batch: Home, items: Sequence[BatchItem]) -> None:
        """Put what items of a batch used on the ledger, at the batch price; read again, they count no second time."""
        events = [batch_item_event(call, item, batch, self.settings.prices) for item in items]
        await asyncio.gather(*(self._outbox.append(one.route.id, event) for event in events))

    # -- the answer's head, and the end without an answer

    def _head(self, one: Try, *, decoded: bool) -> list[tuple[bytes, bytes]]:
        shared = bool(self.settings.client_keys) and one.route.auth != "client"
        return client_headers(one.headers, shared_credential=shared, body_decoded=decoded)

    async def _show(
        self, call: Call, reply: Reply, verdict: Verdict, tries: Sequence[Try], candidates: Sequence[Candidate]
    ) -> None:
        """Tell the client how its request ended. Raises ProxyError for an end in our own words."""
        if verdict.kind == "relayed":
            one = tries[verdict.number - 1]
            reply.route = one.route.id
            if not is_own_words(call, one):
                raise in_our_words(one)
            await reply.start(one.status, [*self._head(one, decoded=one.decoded), length_of(one.body)])
            await reply.write(one.body)
            await reply.end()
            return
        words = reasons(tries, candidates)
        if call.endpoint == "count_tokens" and not tries and call.may_use_owners:
            raise NotFound(f"no route counts tokens for {call.model or 'this request'}; estimate them ({words})")
        if verdict.kind == "throttled":
            raise throttled(verdict.until_ms, self.clock.now_ms(), words)
        if verdict.kind == "no_route":
            raise no_route(call, candidates, words)
        timed_out = any(one.failure and one.failure.kind in ("timeout", "deadline") for one in tries)
        error = Unreachable(f"no route could answer: {words}")
        if any(one.failure and one.failure.kind == "overloaded" for one in tries):
            error.status, error.type = 529, "overloaded_error"
        elif timed_out:
            error.status, error.type = 504, "timeout_error"
        raise error


class Held:
    """What was read and not yet passed on, and the read that was under way when the wait was over."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0
        self.free = 0
        self.next_chunk: asyncio.Future[bytes] | None = None

    def add(self, chunk: bytes, free: int) -> None:
        """Hold a chunk of which so many bytes may leave."""
        self.parts.append(chunk)
        self.free = self.size + free
        self.size += len(chunk)

    def split(self) -> tuple[bytes, bytes]:
        """What may leave at once, and what waits for the ledger."""
        held = b"".join(self.parts)
        return held[: self.free], held[self.free :]

    def take(self) -> "asyncio.Future[bytes] | None":
        """The read under way, once."""
        pending, self.next_chunk = self.next_chunk, None
        return pending

    def drop(self) -> None:
        """Nobody waits for the read under way any more, nor for what it may have met."""
        if self.next_chunk:
            self.next_chunk.add_done_callback(lambda read: read.cancelled() or read.exception())
            self.next_chunk.cancel()


class Pinger:
    """Keeps a silent stream alive: after 15 s of silence at an event boundary the client gets a ping."""

    def __init__(self, reply: Reply, tap: StreamTap, every_s: float) -> None:
        self._reply = reply
        self._tap = tap
        self._every_s = every_s
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()
        self._writing = False
        self._task: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(every_s, self._look)

    async def write(self, data: bytes) -> None:
        """Pass bytes on; a ping never comes between them."""
        if self._task and not self._task.done():
            await self._task
        self._writing = True
        await self._reply.write(data)
        self._writing = False
        self._last_s = self._loop.time()

    def stop(self) -> None:
        """No more pings: neither within the last event, whose bytes are held back, nor behind it."""
        self._timer.cancel()
        if self._task:
            self._task.cancel()

    def _look(self) -> None:
        silent_s = self._loop.time() - self._last_s
        if silent_s >= self._every_s and self._tap.at_boundary and not self._writing:
            self._task = self._loop.create_task(self._reply.write(PING))
            self._last_s, silent_s = self._loop.time(), 0
        self._timer = self._loop.call_later(max(0.01, self._every_s - silent_s), self._look)


def advance(plan: Plan, result: Result | None) -> tuple[Attempt | None, Verdict | None]:
    """The plan's next attempt, or its verdict."""
    try:
        return (next(plan) if result is None else plan.send(result)), None
    except StopIteration as stop:
        return None, stop.value


async def taken(call: Call, upload: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The upload, of which it is noted when its first byte is taken."""
    call.upload_taken = True
    async for part in upload:
        yield part


async def drain(chunks: AsyncIterator[bytes]) -> None:
    """Read the end of the body, so that the connection can serve again; one that dawdles is dropped."""
    with contextlib.suppress(TimeoutError, UpstreamError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in chunks:
                pass


def scope_of(error: UpstreamError) -> FailureScope:
    """Whose fault a broken connection is: a reused one that had gone stale is nobody's."""
    if error.kind == "stale_socket":
        return ""
    return "request" if error.kind == "bad_request" else "route"


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


def started_event(call: Call, one: Try) -> AttemptStarted:
    """The attempt, as it goes on the ledger before its first byte goes up."""
    return AttemptStarted(
        event_id=one.attempt_id,
        at_ms=one.started_ms,
        request_id=call.request_id,
        endpoint=call.endpoint,
        model_asked=bounded(call.model),
        model_sent=bounded(one.attempt.candidate.model),
        client_key=call.client_key,
        session_id=call.session_id,
        stream=call.stream,
        estimated_tokens=call.max_tokens,
    )


def length_of(body: bytes) -> tuple[bytes, bytes]:
    """The header that frames a whole body."""
    return b"content-length", b"%d" % len(body)


def bounded(name: str) -> str:
    """A model name as it may stand in the ledger; clients can invent any."""
    return name[:NAME_CHARS].replace("\0", "")


def batch_item_event(call: Call, item: BatchItem, batch: Home, prices: PriceList) -> BatchItemUsed:
    """What an item of a batch used. All of it but who asked follows from the batch, so that it is one event for all."""
    cost = cost_nusd(item.tokens, item.model, prices, batch=True)
    return BatchItemUsed(
        event_id=derived_id(batch.event_id, item.custom_id),
        at_ms=time_of_id_ms(batch.event_id),
        batch_id=call.resource_ids[0] if call.resource_ids else "",
        custom_id=item.custom_id[:NAME_CHARS],
        request_id=call.request_id,
        model_sent=bounded(item.model),
        client_key=call.client_key,
        tokens=item.tokens,
        cost_nusd=cost,
        price_version=prices.version if cost is not None else "",
    )


def error_event(one: Try) -> bytes:
    """The end of a broken stream, in Anthropic's words."""
    failure = one.failure
    kind = "overloaded_error" if failure and failure.kind == "overloaded" else "api_error"
    message = f"{one.route.title}: {failure.message if failure else 'the stream broke'}"
    data = msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})
    return b"\n\nevent: error\ndata: " + data + b"\n\n"


def without_secret(failure: Failure | None, secret: str) -> Failure | None:
    """The failure, should the provider have quoted the credential in its words."""
    if failure is None or not secret or secret not in failure.message:
        return failure
    return msgspec.structs.replace(failure, message=failure.message.replace(secret, "***"))


def is_own_words(call: Call, one: Try) -> bool:
    """Whether an error answer can be shown as it is: the request's own fault always is."""
    own_fault = one.failure is not None and one.failure.scope == "request"
    return own_fault or call.method == "HEAD" or json_usage(one.body) is not None


def in_our_words(one: Try) -> ProxyError:
    """An error whose body is a page of some machine in between, or was cut off: its status, in Anthropic's shape."""
    error = Unreachable(f"{one.route.title} answered with status {one.status} and no message")
    error.status = one.status
    error.type = "api_error" if one.status >= 500 else "invalid_request_error"
    return error


def reasons(tries: Sequence[Try], candidates: Sequence[Candidate]) -> str:
    """Why each route did not answer, for a person."""
    failed = [f"{one.route.id}: {one.failure.message or one.failure.kind}" for one in tries if one.failure]
    passed = [f"{candidate.route.id}: {candidate.reason}" for candidate in candidates if candidate.passed_over]
    return "; ".join([*failed, *passed])


def throttled(until_ms: int, now_ms: int, words: str) -> AllThrottled:
    """Every route waits: how long, and whether it is worth waiting."""
    wait_ms = max(0, until_ms - now_ms)
    error = AllThrottled(f"every route waits, the first for {wait_ms // 1000} s: {words}")
    error.retry_after_s = -(-wait_ms // 1000)
    error.should_retry = wait_ms <= SHORT_WAIT_MS
    return error


def no_route(call: Call, candidates: Sequence[Candidate], words: str) -> NoRoute | BadClientKey:
    """No route was even tried."""
    if not call.may_use_owners:
        return BadClientKey("this key is not known to the proxy; ask whoever runs it for one")
    if not call.credential and all(candidate.passed_over == "off" for candidate in candidates):
        return BadClientKey(
            "this proxy has no provider key, and the request brings none: set ANTHROPIC_API_KEY or ZAI_API_KEY for the "
            "proxy, or log in with Claude Code"
        )
    return NoRoute(f"no route can take this request: {words}")


def log_attempt(call: Call, one: Try) -> None:
    """→ Anthropic POST /v1/messages"""
    if not log.isEnabledFor(logging.INFO):
        return
    route, model = one.route, one.attempt.candidate.model
    if call.model and model != call.model:
        log.info("  model remap: %s → %s", call.model, model, extra={"request": call.request_id, "route": route.id})
    log.info("→ %s %s %s", route.title, call.method, call.path, extra={"request": call.request_id, "route": route.id})


def log_outcome(call: Call, one: Try, event: AttemptEnded) -> None:
    """← Z.AI 200 | 1,200→300 tokens | 1.24 s"""
    extra = {"request": call.request_id, "route": one.route.id}
    tokens = event.tokens
    if one.outcome == "ok":
        read = tokens.input + tokens.cache_read + tokens.cache_write_5m + tokens.cache_write_1h
        spent = f"{read:,}→{tokens.output:,} tokens | " if read or tokens.output else ""
        log.log(OK, "← %s %d | %s%.2f s", one.route.title, one.status, spent, event.total_ms / 1000, extra=extra)
    elif one.outcome == "aborted":
        log.info("← %s client gone | %.2f s", one.route.title, event.total_ms / 1000, extra=extra)
    else:
        words = f"{event.kind} | {event.message}" if event.message else event.kind
        log.warning("← %s %s | %s", one.route.title, one.status or "no answer", words, extra=extra)
