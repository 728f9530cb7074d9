"""Records requests: their attempts as events, the resources that responses created, and failures in the log.

Not here: how events reach Redis (`fleet.outbox`), what they add up to (`ledger`).
"""

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from service.fleet.clock import Clock
from service.fleet.fingerprints import FleetFingerprints
from service.fleet.outbox import Outbox
from service.fleet.resource_index import ID_CHARS, ResourceHome, ResourceIndex
from service.ledger.events import FOLD_RULES, AttemptEnded, AttemptStarted, BatchItemUsed, ResourceCreated, ResourceUsed
from service.ledger.ids import derived_id, ended_id, time_of_id_ms
from service.ledger.model_names import bounded_name
from service.ledger.price import BATCH, PriceList, line_nusd, rates_for
from service.ledger.running_totals import is_news
from service.protocol.batch_results import BatchItem
from service.protocol.redaction import redact
from service.protocol.resource_totals import TotalReading
from service.providers.error_facts import windows_of
from service.relay.attempt import AttemptOutcome, AttemptPlan
from service.relay.attempt_log import log_failure, log_unread
from service.relay.client import ClientRequest, EndedAttempt, LastServed
from service.relay.priced_usage import price_usage
from service.relay.session_affinity import move_of
from service.routing.failure import Failure
from service.routing.rank import MODEL_ENDPOINTS
from service.routing.view import View
from service.settings import Settings

NO_FAILURE = Failure(kind="", scope="")
NO_MOVE = ("", "", 0)
MOST_UNREAD = 64


class AttemptRecorder:
    """Writes a request's events to the ledger, and its lines to the log."""

    def __init__(
        self,
        settings: Settings,
        *,
        outbox: Outbox,
        view: View,
        resources: ResourceIndex,
        clock: Clock,
        fingerprints: FleetFingerprints,
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._view = view
        self._resources = resources
        self._clock = clock
        self._fingerprints = fingerprints
        self._unread: set[str] = set()
        """Unknown fields of usage that the log has named."""

    async def record_start(self, request: ClientRequest, plan: AttemptPlan) -> None:
        """Record that the attempt starts. Returns when the event is durable, so that the first byte may be sent."""
        await self._outbox.append(plan.route.id, started_event(request, plan))

    async def record_end(self, request: ClientRequest, outcome: AttemptOutcome, *, final: bool) -> AttemptOutcome:
        """Record how the attempt ended, once. Returns the outcome as recorded, its failure's message redacted.

        `final`: no other attempt follows.
        """
        if outcome.failure:
            outcome = replace(
                outcome, failure=redacted_failure(outcome.failure, outcome.credential, request.credential)
            )
        if outcome.recorded or not outcome.started:
            return outcome
        event = self._ended_event(request, outcome, final=final)
        ended = EndedAttempt(outcome.plan.attempt.number, outcome.plan.route, event, outcome.first_content_ms)
        if request.last is None or request.last.number <= ended.number:  # a second opinion may be there first
            request.last = ended
        if event.outcome == "failed":
            log_failure(request, outcome.plan, event)
        ended_seq = await self._outbox.append(outcome.plan.route.id, event)
        return replace(outcome, recorded=True, ended_seq=ended_seq)

    def _ended_event(self, request: ClientRequest, outcome: AttemptOutcome, *, final: bool) -> AttemptEnded:
        plan = outcome.plan
        moved_from, lost, cost_of_move = self._move(request.last_served, outcome) if request.last_served else NO_MOVE
        now_ms = outcome.ended_ms or self._clock.now_ms()
        failure = outcome.failure if outcome.failure and outcome.result == "failed" else NO_FAILURE
        words, body = self._fingerprints_of(request, outcome, failure) if failure.kind else ("", "")
        used = price_usage(outcome.usage, plan.model, self._settings.prices, now_ms)
        if outcome.usage.unread:
            self._note_unread(plan, outcome.usage.unread)
        return AttemptEnded(
            event_id=ended_id(plan.attempt_id),
            at_ms=now_ms,
            attempt_id=plan.attempt_id,
            request_id=request.request_id,
            started_at_ms=plan.started_ms,
            outcome=outcome.result,
            endpoint=request.endpoint,
            kind=failure.kind,
            scope=failure.scope,
            status=outcome.status,
            message=failure.message,
            model_asked=bounded_name(request.model),
            model_sent=bounded_name(plan.model),
            client_key=request.client_key,
            session_id=request.session_id,
            stream=request.stream,
            tokens=used.tokens,
            first_byte_ms=outcome.first_byte_ms,
            total_ms=now_ms - plan.started_ms,
            slow=request.stream and (outcome.first_part_ms or 0) > self._settings.policy.circuit.slow_ms,
            probe=plan.probe,
            retry_at_ms=failure.retry_at_ms,
            windows=windows_of(outcome.headers) | failure.windows,
            cost_nusd=used.cost_nusd,
            price_version=self._settings.prices.version if used.cost_nusd is not None else "",
            final=final,
            holds=failure.holds,
            fold_rules=FOLD_RULES,
            account=outcome.account,
            words=words,
            body=body,
            moved_from=moved_from,
            lost=lost,
            move_cost_nusd=cost_of_move,
            dropped=plan.dropped,
            opinion=outcome.opinion,
            model_served=used.model_served,
            lines=used.lines,
            unread=outcome.usage.unread,
            attempt=plan.attempt.number,
            early_head=outcome.early_head,
            upstream_id=outcome.untold_id,
            estimated=outcome.usage.estimated,
        )

    def _move(self, last: LastServed, outcome: AttemptOutcome) -> tuple[str, str, int]:
        """What the move of a session lost, and the price of its prompt without what a cache had of it; 0 for a model
        without a price."""
        moved_from, lost = move_of(last, outcome)
        if not lost:
            return moved_from, lost, 0
        usage = outcome.usage
        own = usage.lines(usage.model or outcome.plan.model)[0]
        read_anew = replace(own, tokens=replace(usage.tokens, output=0, cache_read=0), tools={})
        return moved_from, lost, line_nusd(read_anew, self._settings.prices, at_ms=self._clock.now_ms()) or 0

    def _fingerprints_of(self, request: ClientRequest, outcome: AttemptOutcome, failure: Failure) -> tuple[str, str]:
        """Fingerprints of an error that no rule knows, and of the request that met it or timed out; "" for others."""
        fingerprints = self._fingerprints.current
        if failure.proven:
            return "", fingerprints.of_body(request.plain) if failure.kind == "timeout" else ""
        words = ""
        if outcome.is_evidence and request.endpoint in MODEL_ENDPOINTS:
            words = fingerprints.of_words(request.endpoint, failure.status, failure.error_type, failure.message)
        return words, fingerprints.of_body(request.plain)

    def _note_unread(self, plan: AttemptPlan, fields: Sequence[str]) -> None:
        """Log the fields of usage that nobody reads, each once."""
        for name in fields:
            if name not in self._unread and len(self._unread) < MOST_UNREAD:
                self._unread.add(name)
                log_unread(plan.route, name)

    async def record_resources(self, request: ClientRequest, plan: AttemptPlan, resource_ids: Sequence[str]) -> None:
        """Record, for all replicas, that resources live on this route, and whose they are."""
        for resource_id in resource_ids:
            if (
                0 < len(resource_id) <= ID_CHARS
                and resource_id.isprintable()
                and resource_id not in request.resource_ids
            ):
                await self._record_resource(request, plan, resource_id)

    async def _record_resource(self, request: ClientRequest, plan: AttemptPlan, resource_id: str) -> None:
        event = ResourceCreated(
            event_id=self._clock.new_id(),
            at_ms=self._clock.now_ms(),
            resource_id=resource_id,
            resource_kind=request.endpoint,
            request_id=request.request_id,
            client_key=request.client_key,
        )
        await self._resources.bind(resource_id, ResourceHome(plan.route.id, event.event_id, request.owner or ""))
        await self._outbox.append(plan.route.id, event)

    async def record_batch_items(
        self, request: ClientRequest, plan: AttemptPlan, batch: ResourceHome, items: Sequence[BatchItem]
    ) -> None:
        """Record what items of a batch used, at the batch price; read again, they are not counted twice."""
        events = [batch_item_event(request, item, batch, self._settings.prices) for item in items]
        self._note_unread(plan, [name for item in items for name in item.usage.unread])
        await asyncio.gather(*(self._outbox.append(plan.route.id, event) for event in events))

    async def record_totals(self, request: ClientRequest, plan: AttemptPlan, totals: Sequence[TotalReading]) -> None:
        """Record running totals that have grown, as far as this process knows; fold books the growth, once."""
        for total in totals:
            self._note_unread(plan, total.unread)
            event = self._total_event(request, total)
            if not is_news(self._view.ledger(plan.route.id), event):
                continue
            # The first route on which anybody saw it is its home, so that its growth is kept in one place.
            home = await self._resources.bind(total.resource_id, ResourceHome(plan.route.id, event.event_id))
            if home.route == plan.route.id or is_news(self._view.ledger(home.route), event):
                await self._outbox.append(home.route, event)

    def _total_event(self, request: ClientRequest, total: TotalReading) -> ResourceUsed:
        now_ms = self._clock.now_ms()
        rates = rates_for(total.model, self._settings.prices, at_ms=now_ms, speed=total.speed, geo=total.geo)
        return ResourceUsed(
            event_id=self._clock.new_id(),
            at_ms=now_ms,
            resource_id=total.resource_id,
            kind=total.kind,
            part=total.part,
            request_id=request.request_id,
            client_key=request.client_key,
            model=total.model,
            tokens=total.tokens,
            tools=total.tools,
            speed=total.speed,
            geo=total.geo,
            active_ms=total.active_ms,
            made_at_ms=total.made_at_ms,
            rates_nusd=rates,
            cost_nusd=total.cost_nusd,
            price_version=self._settings.prices.version if rates else "",
            unread=total.unread,
            fold_rules=FOLD_RULES,
        )


def started_event(request: ClientRequest, plan: AttemptPlan) -> AttemptStarted:
    """The event that an attempt starts."""
    return AttemptStarted(
        event_id=plan.attempt_id,
        at_ms=plan.started_ms,
        request_id=request.request_id,
        endpoint=request.endpoint,
        model_asked=bounded_name(request.model),
        model_sent=bounded_name(plan.model),
        client_key=request.client_key,
        session_id=request.session_id,
        stream=request.stream,
        estimated_tokens=request.max_tokens,
    )


def batch_item_event(request: ClientRequest, item: BatchItem, batch: ResourceHome, prices: PriceList) -> BatchItemUsed:
    """Return the usage of a batch's item. All but the caller follows from the batch, so it is one event for all."""
    at_ms = time_of_id_ms(batch.event_id)
    used = price_usage(item.usage, item.usage.model, prices, at_ms, tier=BATCH)
    return BatchItemUsed(
        event_id=derived_id(batch.event_id, item.custom_id),
        at_ms=at_ms,
        batch_id=request.resource_ids[0] if request.resource_ids else "",
        custom_id=bounded_name(item.custom_id),
        request_id=request.request_id,
        model_sent=item.usage.model,
        client_key=request.client_key,
        tokens=used.tokens,
        cost_nusd=used.cost_nusd,
        price_version=prices.version if used.cost_nusd is not None else "",
        fold_rules=FOLD_RULES,
        lines=used.lines,
        unread=item.usage.unread,
        estimated=item.usage.estimated,
    )


def redacted_failure(failure: Failure, *secrets: str) -> Failure:
    """The failure with what may be kept of its message: a provider's may quote a credential or a prompt."""
    return replace(failure, message=redact(failure.message, *secrets))
