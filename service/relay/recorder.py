"""Writes one request down: its attempts as events, the resources that answers created, and the lines of the log.

Not here: how events reach Redis (`fleet.outbox`), what they add up to (`ledger`).
"""

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from service.fleet.clock import Clock
from service.fleet.outbox import Outbox
from service.fleet.resource_index import ID_CHARS, ResourceHome, ResourceIndex
from service.ledger.events import FOLD_RULES, AttemptEnded, AttemptStarted, BatchItemUsed, ResourceCreated, TokenCounts
from service.ledger.ids import derived_id, ended_id, time_of_id_ms
from service.ledger.model_names import bounded_name
from service.ledger.price import PriceList, cost_nusd
from service.protocol.batch_results import BatchItem
from service.protocol.redaction import redact
from service.protocol.tap import JsonAnswer, StreamTap
from service.relay.attempt import AttemptState, ClientRequest
from service.routing.failure import Failure
from service.settings import Settings
from service.telemetry.log import logger_of_lines

log = logger_of_lines("ccproxy.relay")

OK = 25
"""The log level between info and warn, for answers."""

NO_TOKENS = TokenCounts()


class AttemptRecorder:
    """The ledger as a request sees it."""

    def __init__(self, settings: Settings, *, outbox: Outbox, resources: ResourceIndex, clock: Clock) -> None:
        self._settings = settings
        self._outbox = outbox
        self._resources = resources
        self._clock = clock

    async def record_start(self, call: ClientRequest, one: AttemptState) -> None:
        """Put the attempt on the ledger, before its first byte goes up."""
        one.started = True
        await self._outbox.append(one.route.id, started_event(call, one))

    async def record_end(self, call: ClientRequest, one: AttemptState, *, final: bool) -> None:
        """Put the attempt's end on the ledger, once."""
        one.failure = redacted(one.failure, one.credential, call.credential)
        if one.accounted or not one.started:
            return
        one.accounted = True
        event = self._ended_event(call, one, final=final)
        log_outcome(call, one, event)
        one.ended_seq = await self._outbox.append(one.route.id, event)

    def _ended_event(self, call: ClientRequest, one: AttemptState, *, final: bool) -> AttemptEnded:
        now_ms = self._clock.now_ms()
        failure = one.failure if one.outcome == "failed" else None
        slow_ms = self._settings.policy.circuit.slow_ms
        cost = (
            cost_nusd(one.tokens, one.attempt.candidate.model, self._settings.prices) if one.tokens != NO_TOKENS else 0
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
            message=failure.message if failure else "",
            model_asked=bounded_name(call.model),
            model_sent=bounded_name(one.attempt.candidate.model),
            client_key=call.client_key,
            session_id=call.session_id,
            stream=call.stream,
            tokens=one.tokens,
            first_byte_ms=one.first_byte_ms,
            total_ms=now_ms - one.started_ms,
            slow=call.stream and (one.first_content_ms or 0) > slow_ms,
            probe=one.probe,
            retry_at_ms=failure.retry_at_ms if failure else 0,
            windows=one.windows | failure.windows if failure else one.windows,
            cost_nusd=cost,
            price_version=self._settings.prices.version if cost is not None else "",
            final=final,
            holds=failure.holds if failure else "",
            fold_rules=FOLD_RULES,
        )

    async def record_resources(self, call: ClientRequest, one: AttemptState, answer: JsonAnswer) -> None:
        """What a whole answer created lives on this route."""
        is_made = call.method == "POST" and call.endpoint in ("batches", "files", "other")
        if call.threaded or (is_made and not answer.content_bytes):
            await self._bind(call, one, answer.id)
        await self._bind(call, one, answer.container_id, *answer.file_ids)

    async def record_stream_resources(self, call: ClientRequest, one: AttemptState, tap: StreamTap) -> None:
        """What a stream created likewise."""
        await self._bind(call, one, tap.message_id if call.threaded else "", tap.container_id, *tap.file_ids)

    async def _bind(self, call: ClientRequest, one: AttemptState, *resource_ids: str) -> None:
        """Remember where resources live and whose they are, for all replicas."""
        for resource_id in resource_ids:
            if 0 < len(resource_id) <= ID_CHARS and resource_id.isprintable() and resource_id not in call.resource_ids:
                await self._bind_one(call, one, resource_id)

    async def _bind_one(self, call: ClientRequest, one: AttemptState, resource_id: str) -> None:
        event = ResourceCreated(
            event_id=self._clock.new_id(),
            at_ms=self._clock.now_ms(),
            resource_id=resource_id,
            resource_kind=call.endpoint,
            request_id=call.request_id,
            client_key=call.client_key,
        )
        await self._resources.bind(resource_id, ResourceHome(one.route.id, event.event_id, call.owner or ""))
        await self._outbox.append(one.route.id, event)

    async def record_batch_items(
        self, call: ClientRequest, one: AttemptState, batch: ResourceHome, items: Sequence[BatchItem]
    ) -> None:
        """Put what items of a batch used on the ledger, at the batch price; read again, they count no second time."""
        events = [batch_item_event(call, item, batch, self._settings.prices) for item in items]
        await asyncio.gather(*(self._outbox.append(one.route.id, event) for event in events))


def started_event(call: ClientRequest, one: AttemptState) -> AttemptStarted:
    """The attempt, as it goes on the ledger before its first byte goes up."""
    return AttemptStarted(
        event_id=one.attempt_id,
        at_ms=one.started_ms,
        request_id=call.request_id,
        endpoint=call.endpoint,
        model_asked=bounded_name(call.model),
        model_sent=bounded_name(one.attempt.candidate.model),
        client_key=call.client_key,
        session_id=call.session_id,
        stream=call.stream,
        estimated_tokens=call.max_tokens,
    )


def batch_item_event(call: ClientRequest, item: BatchItem, batch: ResourceHome, prices: PriceList) -> BatchItemUsed:
    """What an item of a batch used. All of it but who asked follows from the batch, so that it is one event for all."""
    cost = cost_nusd(item.tokens, item.model, prices, batch=True)
    return BatchItemUsed(
        event_id=derived_id(batch.event_id, item.custom_id),
        at_ms=time_of_id_ms(batch.event_id),
        batch_id=call.resource_ids[0] if call.resource_ids else "",
        custom_id=bounded_name(item.custom_id),
        request_id=call.request_id,
        model_sent=bounded_name(item.model),
        client_key=call.client_key,
        tokens=item.tokens,
        cost_nusd=cost,
        price_version=prices.version if cost is not None else "",
        fold_rules=FOLD_RULES,
    )


def redacted(failure: Failure | None, *secrets: str) -> Failure | None:
    """The failure with what may be kept of its words; they may be a provider's, and quote a credential or a prompt."""
    if failure is None or (message := redact(failure.message, *secrets)) == failure.message:
        return failure
    return msgspec.structs.replace(failure, message=message)


def log_attempt(call: ClientRequest, one: AttemptState) -> None:
    """→ Anthropic POST /v1/messages. Said of what is not the usual way alone: each answer has a line of its own."""
    route, model = one.route, one.attempt.candidate.model
    is_mapped = bool(call.model) and model != call.model
    level = logging.INFO if is_mapped or one.attempt.number > 1 else logging.DEBUG
    if not log.isEnabledFor(level):
        return
    extra = {"request": call.request_id, "route": route.id}
    if is_mapped:
        log.info("  model remap: %s → %s", call.model, model, extra=extra)
    log.log(level, "→ %s %s %s", route.title, call.method, call.path, extra=extra)


def log_outcome(call: ClientRequest, one: AttemptState, event: AttemptEnded) -> None:
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
