"""Relays a provider's response in the way that fits it: whole and checked, as it comes, or as an event stream.

Each way returns the last part of the response, which is sent once the ledger has the attempt's end (`attempt_runner`).
Not here: choosing a route or sending the request (`request`), what a failure means (`routing.failure`).
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

from service.fleet.admission import Admission
from service.fleet.clock import Clock
from service.fleet.resource_index import ResourceHome, ResourceIndex
from service.http1.upstream import UpstreamError, UpstreamResponse
from service.ledger.events import Endpoint
from service.protocol.batch_results import BatchTap
from service.protocol.resource_totals import TotalsTap, totals_in
from service.protocol.sse import EventTooLarge
from service.protocol.tap import JsonAnswer, StreamError, StreamTap, count_in, json_usage
from service.protocol.usage_estimate import Meter, UsageEstimator, tokens_in, with_at_least
from service.protocol.usage_reader import NO_USAGE, UsageReading, meaning_of
from service.providers.headers import client_headers, length_said, request_id_of
from service.relay.attempt import AttemptFailed, FinalPart, UpstreamExchange
from service.relay.classifier import FailureClassifier
from service.relay.client import READS, ClientRequest, content_length
from service.relay.client_errors import redacted
from service.relay.ownership import is_list, note_found, own_items
from service.relay.passthrough import COMMENT, EVENT_STREAM, BodyPassthrough, parts_of
from service.relay.recorder import AttemptRecorder
from service.relay.streams import StreamRelay, bad_answer
from service.routing.rank import MODEL_ENDPOINTS
from service.settings import Settings

ANSWER_BYTES = 64 * 1024 * 1024
"""The largest answer that is read whole before it is passed on: twice the largest request."""
ERROR_BYTES = 1024 * 1024
"""An error answer is a page at most; more than this is no error answer."""
ERROR_READ_S = 5.0
"""An error's message is not worth waiting for any longer: its status says what matters."""
JSON = "application/json"
NO_CONTENT = (204, 205)
"""Statuses whose answers have no body, and no length either."""
JSON_ENDPOINTS: frozenset[Endpoint] = frozenset(("messages", "count_tokens", "models"))
RESOURCE_ENDPOINTS: frozenset[Endpoint] = frozenset(("batches", "files", "other"))

HeaderList = list[tuple[bytes, bytes]]


class ResponseRelay:
    """Relays responses up to their last part."""

    def __init__(
        self,
        settings: Settings,
        *,
        admission: Admission,
        recorder: AttemptRecorder,
        resources: ResourceIndex,
        estimator: UsageEstimator,
        clock: Clock,
    ) -> None:
        self._timeouts = settings.timeouts
        self._asks_for_keys = settings.asks_for_keys
        self._admission = admission
        self._classifier = FailureClassifier(settings.policy.rules, clock)
        self._recorder = recorder
        self._resources = resources
        self._estimator = estimator
        self._clock = clock

    async def relay(self, exchange: UpstreamExchange) -> FinalPart:
        """Relay a response. Raises AttemptFailed or UpstreamError for a failure.

        It is read for what its content type says, whatever was asked for: one of the other kind is a failure, and yet
        what it used counts.
        """
        if exchange.upstream.status >= 300:
            await self._fail(exchange)
        return await self._way_of(exchange.request, exchange.upstream)(exchange)

    def _way_of(
        self, request: ClientRequest, upstream: UpstreamResponse
    ) -> Callable[[UpstreamExchange], Awaitable[FinalPart]]:
        """Return the method that relays a response of this kind."""
        if is_copied(request, upstream):
            return self._copy
        if request.stream and request.endpoint == "messages":
            return self._stream
        if request.endpoint == "batches" and request.path.endswith("/results"):
            return self._batch_results
        if request.endpoint in JSON_ENDPOINTS or upstream.content_type == JSON:
            return self._whole
        return self._copy

    async def _fail(self, exchange: UpstreamExchange) -> None:
        """Raise AttemptFailed with the provider's error, kept in case it is the one to show."""
        upstream, body = exchange.upstream, b""
        upstream.decode()
        with contextlib.suppress(TimeoutError, UpstreamError):
            async with asyncio.timeout(ERROR_READ_S):
                body = await upstream.read(ERROR_BYTES)
        raise AttemptFailed(self._classifier.classify_response(exchange, body), body)

    async def _whole(self, exchange: UpstreamExchange) -> FinalPart:
        """A response in one piece, checked before anything of it is sent."""
        request, upstream, route = exchange.request, exchange.upstream, exchange.plan.route
        upstream.decode()
        body = await upstream.read(ANSWER_BYTES)
        answer = json_usage(body)
        meaning = meaning_of(request.method, request.endpoint, request.path)
        if meaning == "request":
            exchange.progress.usage = self._usage_of_body(exchange, body, answer)
        if answer is None or is_wrong_type(request, answer):
            raise self._no_message(exchange, answer, body)
        if request.endpoint == "count_tokens" and not count_in(body):
            raise bad_answer("the response is not a token count")
        if request.endpoint in RESOURCE_ENDPOINTS:
            body = await self._with_own_resources(exchange, body)
        if meaning == "running_total":
            await self._recorder.record_totals(request, exchange.plan, totals_in(request.path, body))
        if request.endpoint == "batches":
            body = body.replace(route.base_url.encode() + b"/v1/", request.base_url.encode() + b"/v1/")
        head = [*self._head(exchange), content_length(body)]
        return FinalPart(body, (upstream.status, head), resource_ids=created_ids(request, answer))

    async def _with_own_resources(self, exchange: UpstreamExchange, body: bytes) -> bytes:
        """The body; of a list the caller's own items alone. What the path names is noted as found on this route."""
        request, route = exchange.request, exchange.plan.route
        if is_list(request) and route.auth != "client":
            exchange.deadline.reschedule(None)
            return await own_items(body, request, self._resources)
        if request.names_in_path:
            home = ResourceHome(route.id, self._clock.new_id(), request.owner or "")
            await note_found(request, home, self._resources)
        return body

    def _usage_of_body(self, exchange: UpstreamExchange, body: bytes, answer: JsonAnswer | None) -> UsageReading:
        """Return the usage of a body that was read whole, even if it is a stream. The content type is not relied on."""
        request, model = exchange.request, exchange.plan.model
        if answer:
            usage = whole_usage(request, answer)
            self._estimator.learn_whole(model, usage.tokens.output)
            return usage
        if exchange.upstream.content_type != EVENT_STREAM:
            return NO_USAGE
        tap = StreamTap()
        with contextlib.suppress(EventTooLarge):
            tap.feed(body)
        return self._estimator.of_stream(tap, model, request.plain)

    def _no_message(self, exchange: UpstreamExchange, answer: JsonAnswer | None, body: bytes) -> AttemptFailed:
        """The failure of a response with status 200 that is no message. It may tell an error in another shape, such as
        Z.AI's `{"code":1113,"msg":"...","success":false}`."""
        if answer is None:
            return bad_answer("the response is not a message")
        error = answer.error or StreamError("api_error", "", body)
        failure = self._classifier.classify_stream_error(exchange, error)
        is_unknown = not answer.error and failure.kind == "stream_error"
        return bad_answer("the response is not a message") if is_unknown else AttemptFailed(failure, error.data)

    async def _copy(self, exchange: UpstreamExchange) -> FinalPart:
        """Bytes as they come: files, unknown endpoints."""
        request, upstream = exchange.request, exchange.upstream
        exchange.deadline.reschedule(None)
        meaning = meaning_of(request.method, request.endpoint, request.path)
        is_stream = upstream.content_type == EVENT_STREAM
        meter = Meter(is_stream=is_stream)
        totals = TotalsTap(request.path) if is_stream and meaning == "running_total" else None
        try:
            async with self._passing(exchange) as (parts, body):
                async for part in parts:
                    if part is not COMMENT:
                        meter.feed(part)
                    if totals:
                        await self._recorder.record_totals(request, exchange.plan, totals.feed(part))
                    await body.write(part)
        finally:
            if meaning == "request":
                exchange.progress.usage = meter.usage(len(request.body), generates=may_generate(request))
        return FinalPart(body.held)

    async def _batch_results(self, exchange: UpstreamExchange) -> FinalPart:
        """The results of a batch: whole lines as they come, each recorded before any of it is sent."""
        request, upstream = exchange.request, exchange.upstream
        exchange.deadline.reschedule(None)
        upstream.decode()
        fresh = ResourceHome(exchange.plan.route.id, self._clock.new_id(), request.owner or "")
        batch = await self._resources.bind(request.resource_ids[0], fresh) if request.resource_ids else fresh
        tap = BatchTap()
        async with self._passing(exchange) as (parts, body):
            async for part in parts:
                items, ready = tap.feed(part)
                await self._recorder.record_batch_items(request, exchange.plan, batch, items)
                if ready:
                    await body.write(ready)
        items, rest = tap.finish()
        await self._recorder.record_batch_items(request, exchange.plan, batch, items)
        return FinalPart(body.held + rest)

    @contextlib.asynccontextmanager
    async def _passing(
        self, exchange: UpstreamExchange
    ) -> AsyncIterator[tuple[AsyncGenerator[bytes, None], BodyPassthrough]]:
        """Send the head; the parts of the body to pass on, and what they are written to."""
        upstream, response = exchange.upstream, exchange.response
        if upstream.content_type == EVENT_STREAM:
            upstream.decode()
        head = self._head_of_copy(exchange)
        await response.start(upstream.status, head)
        async with contextlib.aclosing(parts_of(upstream, self._timeouts.ping_ms / 1000)) as parts:
            yield parts, BodyPassthrough(response, head)

    async def _stream(self, exchange: UpstreamExchange) -> FinalPart:
        """A stream of events, held back until content comes."""
        upstream, deadline = exchange.upstream, exchange.deadline
        if upstream.content_type != EVENT_STREAM:
            raise await self._no_stream(exchange)
        exchange.progress.is_event_stream = True
        upstream.decode()

        async def commit() -> bytes:
            deadline.reschedule(None)
            self._admission.note_content(exchange.plan.grant)
            await exchange.response.start(upstream.status, self._head(exchange))
            return route_comment(exchange) if exchange.response.early else b""

        stream = StreamRelay(
            exchange,
            commit,
            classifier=self._classifier,
            estimator=self._estimator,
            clock=self._clock,
            timeouts=self._timeouts,
        )
        return await stream.relay()

    async def _no_stream(self, exchange: UpstreamExchange) -> AttemptFailed:
        """The failure of a response that is no stream, where a stream was asked for."""
        exchange.upstream.decode()
        body = await exchange.upstream.read(ANSWER_BYTES)
        answer = json_usage(body)
        if answer:
            exchange.progress.usage = whole_usage(exchange.request, answer)
        return self._no_message(exchange, answer, body)

    def _head(self, exchange: UpstreamExchange) -> HeaderList:
        upstream = exchange.upstream
        hides_account = self._asks_for_keys and exchange.plan.route.auth != "client"
        return response_headers(
            upstream.headers, exchange.credential, hides_account=hides_account, body_decoded=upstream.decoded
        )

    def _head_of_copy(self, exchange: UpstreamExchange) -> HeaderList:
        """With the provider's content length, unless the body is decoded on the way, or there can't be one."""
        upstream = exchange.upstream
        has_length = not (upstream.decoded or upstream.status in NO_CONTENT)
        return [*self._head(exchange), *(length_said(upstream.headers) if has_length else ())]


def is_copied(request: ClientRequest, upstream: UpstreamResponse) -> bool:
    """Return true if a body is passed on as it comes: it has none, or is nothing that has to be whole."""
    if request.method == "HEAD":
        return True
    if request.endpoint in MODEL_ENDPOINTS:
        return False
    if upstream.status in NO_CONTENT or upstream.content_type == EVENT_STREAM:
        return True
    return request.endpoint == "files" and request.path.endswith("/content")


def route_comment(exchange: UpstreamExchange) -> bytes:
    """What headers say of the route, as a comment of an event stream whose head had gone before a route was known."""
    plan = exchange.plan
    told = {
        "route": plan.route.id,
        "attempts": str(plan.attempt.number),
        "dropped": ",".join(plan.dropped),
        "request-id": request_id_of(exchange.upstream.headers, exchange.credential),
    }
    return f": ccproxy {' '.join(f'{name}={value}' for name, value in told.items() if value)}\n\n".encode()


def response_headers(
    headers: Sequence[tuple[bytes, bytes]], credential: str, *, hides_account: bool, body_decoded: bool
) -> HeaderList:
    """The headers that the client gets, without the credential in case the provider has quoted it."""
    passed = client_headers(headers, shared_credential=hides_account, body_decoded=body_decoded)
    if not credential or credential.encode() not in b"\n".join(dict(passed).values()):
        return passed
    return [(name, redacted(value, credential)) for name, value in passed]


def is_wrong_type(request: ClientRequest, answer: JsonAnswer) -> bool:
    """Return true if a message was asked for and something else came."""
    return request.endpoint == "messages" and request.path == "/v1/messages" and not answer.is_message


def created_ids(request: ClientRequest, answer: JsonAnswer) -> tuple[str, ...]:
    """The resources that a whole response names as created."""
    is_created = request.method == "POST" and request.endpoint in ("batches", "files", "other")
    own = (answer.id,) if request.threaded or (is_created and not answer.content_bytes) else ()
    return tuple(filter(None, (*own, answer.container_id, *answer.file_ids)))


def may_generate(request: ClientRequest) -> bool:
    """Return true if a model may have made the response: for unknown endpoints, unless the method only reads."""
    return request.method not in READS and request.endpoint in ("messages", "other")


def whole_usage(request: ClientRequest, answer: JsonAnswer) -> UsageReading:
    """Return the usage of a response in one piece: as reported, else estimated from its size."""
    usage = answer.usage
    if usage.unbilled or not (answer.content_bytes and may_generate(request)):
        return usage
    output = 1 if usage.tokens.output else tokens_in(answer.content_bytes)
    return with_at_least(usage, request_bytes=len(request.plain), output=output)
