"""Passes an answer on in the way that fits it: whole and checked, as it comes, or as a stream of events.

Not here: choosing a route or asking it (`request`), what a failure means (`routing.failure`).
"""

import asyncio
import contextlib

from service.fleet.admission import Admission
from service.fleet.clock import Clock
from service.fleet.resource_index import ResourceHome, ResourceIndex
from service.http1.upstream import UpstreamError, UpstreamResponse
from service.ledger.events import Endpoint, TokenCounts
from service.protocol.batch_results import BatchTap
from service.protocol.sse import EventTooLarge
from service.protocol.tap import JsonAnswer, StreamTap, count_in, json_usage
from service.protocol.usage_estimate import Meter, at_least, stream_tokens, tokens_in
from service.providers.headers import client_headers, length_said
from service.relay.attempt import AttemptFailed, AttemptState, ClientRequest, ResponseWriter, length_of
from service.relay.classifier import FailureClassifier
from service.relay.client_errors import redacted
from service.relay.deadline import Deadline
from service.relay.ownership import READS, is_list, own_items
from service.relay.recorder import NO_TOKENS, AttemptRecorder
from service.relay.streams import StreamRelay
from service.routing.failure import Failure
from service.settings import Settings

ANSWER_BYTES = 64 * 1024 * 1024
"""The largest answer that is read whole before it is passed on: twice the largest request."""
ERROR_BYTES = 1024 * 1024
"""An error answer is a page at most; more than this is no error answer."""
ERROR_READ_S = 5.0
"""An error's words are worth no longer wait: its status says what matters."""
JSON = (b"content-type", b"application/json")
EVENT_STREAM = "text/event-stream"
JSON_ENDPOINTS: frozenset[Endpoint] = frozenset(("messages", "count_tokens", "models"))


class ResponseRelay:
    """Passes answers on. Raises Fault or UpstreamError for one that is none."""

    def __init__(
        self, settings: Settings, *, admission: Admission, book: AttemptRecorder, resources: ResourceIndex, clock: Clock
    ) -> None:
        self._settings = settings
        self._admission = admission
        self._judge = FailureClassifier(settings.policy.rules, clock)
        self._book = book
        self._resources = resources
        self._clock = clock

    async def answer(
        self, call: ClientRequest, one: AttemptState, upstream: UpstreamResponse, reply: ResponseWriter, limit: Deadline
    ) -> None:
        """Pass the answer on in the way that fits it. Raises Fault or UpstreamError.

        An answer is read for what its content type says, whatever was asked for: one of the other kind is a failure,
        and yet what it used counts.
        """
        if upstream.status >= 300:
            await self._read_error(one, upstream)
        elif call.method == "HEAD" or (call.endpoint == "files" and call.path.endswith("/content")):
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

    async def _read_error(self, one: AttemptState, upstream: UpstreamResponse) -> None:
        """An error answer, kept for when it is the one to show."""
        upstream.decode()
        with contextlib.suppress(TimeoutError, UpstreamError):
            async with asyncio.timeout(ERROR_READ_S):
                one.body = await upstream.read(ERROR_BYTES)
        one.decoded = upstream.decoded
        raise AttemptFailed(self._judge.classify_response(one))

    async def _whole(
        self, call: ClientRequest, one: AttemptState, upstream: UpstreamResponse, reply: ResponseWriter, limit: Deadline
    ) -> None:
        """An answer in one piece: checked, accounted, then passed on."""
        upstream.decode()
        body = await upstream.read(ANSWER_BYTES)
        answer = json_usage(body)
        one.tokens = used_of_either_kind(call, upstream, body, answer)
        if answer is None or (call.endpoint == "messages" and call.path == "/v1/messages" and not answer.is_message):
            raise AttemptFailed(self._bad_json(answer, one))
        if call.endpoint == "count_tokens" and not count_in(body):
            raise AttemptFailed(Failure("bad_answer", "route", message="the answer is no count", status=one.status))
        limit.reschedule(None)
        await self._book.record_resources(call, one, answer)
        if is_list(call) and one.route.auth != "client":
            body = await own_items(body, call, self._resources)
        if call.endpoint == "batches":
            body = body.replace(one.route.base_url.encode() + b"/v1/", call.base_url.encode() + b"/v1/")
        one.outcome = "ok"
        await self._book.record_end(call, one, final=True)
        await reply.start(upstream.status, [*self.head(one, decoded=upstream.decoded), length_of(body)])
        await reply.end(body)

    def _bad_json(self, answer: JsonAnswer | None, one: AttemptState) -> Failure:
        """What an answer with status 200 that is no answer means."""
        if answer and answer.error:
            one.body = answer.error.data
            return self._judge.classify_stream_error(one, answer.error)
        return Failure("bad_answer", "route", message="the answer is no message", status=one.status)

    async def _copy(
        self, call: ClientRequest, one: AttemptState, upstream: UpstreamResponse, reply: ResponseWriter
    ) -> None:
        """Bytes as they come (files, unknown endpoints); the last of them only once the ledger has the end."""
        is_stream = upstream.content_type == EVENT_STREAM
        if is_stream:
            upstream.decode()
        length = [] if upstream.decoded else length_said(upstream.headers)
        await reply.start(upstream.status, [*self.head(one, decoded=upstream.decoded), *length])
        meter = Meter(is_stream=is_stream)
        held = b""
        try:
            while chunk := await upstream.chunk():
                meter.feed(chunk)
                if held:
                    await reply.write(held)
                held = chunk
        finally:
            if call.method not in READS:
                one.tokens = meter.tokens(len(call.body), generates=may_generate(call))
        one.outcome = "ok"
        await self._book.record_end(call, one, final=True)
        await reply.end(held)

    async def _results(
        self, call: ClientRequest, one: AttemptState, upstream: UpstreamResponse, reply: ResponseWriter
    ) -> None:
        """The results of a batch: lines as they come, each booked before it goes on."""
        upstream.decode()
        fresh = ResourceHome(one.route.id, self._clock.new_id(), call.owner or "")
        batch = await self._resources.bind(call.resource_ids[0], fresh) if call.resource_ids else fresh
        tap = BatchTap()
        length = [] if upstream.decoded else length_said(upstream.headers)
        await reply.start(upstream.status, [*self.head(one, decoded=upstream.decoded), *length])
        held = b""
        while chunk := await upstream.chunk():
            await self._book.record_batch_items(call, one, batch, tap.feed(chunk))
            await reply.write(held)
            held = chunk
        await self._book.record_batch_items(call, one, batch, tap.finish())
        one.outcome = "ok"
        await self._book.record_end(call, one, final=True)
        await reply.end(held)

    async def _stream(
        self, call: ClientRequest, one: AttemptState, upstream: UpstreamResponse, reply: ResponseWriter, limit: Deadline
    ) -> None:
        """A stream of events."""
        if upstream.content_type != EVENT_STREAM:
            raise AttemptFailed(await self._no_stream(call, one, upstream))
        one.streamed = True
        upstream.decode()

        async def start() -> None:
            limit.reschedule(None)
            self._admission.content_came(one.grant)
            await reply.start(upstream.status, self.head(one, decoded=upstream.decoded))

        stream = StreamRelay(
            call, one, reply, book=self._book, judge=self._judge, clock=self._clock, timeouts=self._settings.timeouts
        )
        await stream.relay(upstream, start)

    async def _no_stream(self, call: ClientRequest, one: AttemptState, upstream: UpstreamResponse) -> Failure:
        """What an answer that is no stream says, where a stream was asked for."""
        upstream.decode()
        answer = json_usage(await upstream.read(ANSWER_BYTES))
        if answer:
            one.tokens = whole_tokens(call, answer)
        return self._bad_json(answer if answer and answer.error else None, one)

    def head(self, one: AttemptState, *, decoded: bool) -> list[tuple[bytes, bytes]]:
        """The headers that the client gets, should the provider have quoted the credential in one as well."""
        shared = self._settings.asks_for_keys and one.route.auth != "client"
        headers = client_headers(one.headers, shared_credential=shared, body_decoded=decoded)
        secret = one.credential
        if not secret or secret.encode() not in b"\n".join([value for _, value in headers]):
            return headers
        return [(name, redacted(value, secret)) for name, value in headers]

    def error_head(self, one: AttemptState) -> list[tuple[bytes, bytes]]:
        """The headers of an error; one that came inside a stream is an answer of its own now."""
        head = self.head(one, decoded=one.decoded)
        if one.shown_status == one.status:
            return head
        return [*((name, value) for name, value in head if name != b"content-type"), JSON]


def may_generate(call: ClientRequest) -> bool:
    """Whether what answers a request may have been made by a model: of unknown endpoints, all that do not just read."""
    return call.method not in READS and call.endpoint in ("messages", "other")


def used_of_either_kind(
    call: ClientRequest, upstream: UpstreamResponse, body: bytes, answer: JsonAnswer | None
) -> TokenCounts:
    """What an answer that was read whole used, should it be a stream instead. JSON is JSON whatever it is called."""
    if answer or upstream.content_type != EVENT_STREAM:
        return whole_tokens(call, answer) if answer else NO_TOKENS
    tap = StreamTap()
    with contextlib.suppress(EventTooLarge):
        tap.feed(body)
    return stream_tokens(tap, len(call.plain))


def whole_tokens(call: ClientRequest, answer: JsonAnswer) -> TokenCounts:
    """What an answer in one piece used: as it says, else by its size."""
    if call.method in READS:
        return NO_TOKENS  # what it tells was used by whatever made it, and is told again each time
    if not (answer.content_bytes and may_generate(call)):
        return answer.tokens
    output = 1 if answer.tokens.output else tokens_in(answer.content_bytes)
    return at_least(answer.tokens, request_bytes=len(call.plain), output=output)
