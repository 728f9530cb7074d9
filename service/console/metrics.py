"""`/metrics` for Prometheus: counters of this process, and gauges of the fleet.

Counters come from this process's own events and from the edge; gauges are read on each scrape. Processes that share an
address (`multiprocess`) count in files that all of them read, so that any of them reports the sum; counts of dead
processes stay, except for the last HAND_OVER_S. Labels are bounded: up to 64 model names per process, since clients may
invent them, then `other`. No secret, prompt or client text is a label. Open to the loopback; elsewhere it needs
METRICS_TOKEN or a token of the admin API.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from hmac import compare_digest
from itertools import product
from typing import Any, Literal, get_args

from litestar import Request, get
from litestar.response import Response
from msgspec.structs import astuple
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from service.console.auth import address_of
from service.console.console import Console, Desk
from service.console.error_responses import documented, fail
from service.console.fleet_status import FleetStatus
from service.errors import NotLoggedIn, ProxyError
from service.fleet.clock import Clock
from service.fleet.outbox import Outbox
from service.fleet.snapshots import Watcher
from service.ledger.events import (
    AttemptEnded,
    AttemptStarted,
    BatchItemUsed,
    Endpoint,
    Event,
    FailureKind,
    Opinion,
    ResourceUsed,
    TokenCounts,
    UsageLine,
)
from service.ledger.ids import time_of_request_id_ms
from service.ledger.usage_lines import usage_lines
from service.loopback import host_name, is_loopback
from service.problems import CODES
from service.routing.route_status import RouteState, RouteStatus
from service.settings import Settings
from service.telemetry.counters import BufferedCounter, BufferedHistogram
from service.telemetry.safe_text import visible

Counted = AttemptStarted | AttemptEnded | BatchItemUsed | ResourceUsed
MOST_MODELS = 64
MOST_FIELDS = 64
"""Maximum names of models and of unknown fields of usage as labels."""
MOST_REQUESTS = 2_000
"""Maximum requests whose last failed route is remembered."""
NUSD = 1e-9
LOOK_S = 1.0
HAND_OVER_S = 1.0
"""Interval at which counts are written to the files that siblings read."""
NOTED_EVENTS = 100
"""Events counted at once: a quarter of a millisecond."""
SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""Variable that makes prometheus_client count in files, in this folder; set by `multiprocess`."""
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
ADDED_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5)
CIRCUITS = {"closed": 0, "half_open": 1, "open": 2}
ENDPOINTS: tuple[str, ...] = get_args(Endpoint)
STATES: tuple[RouteState, ...] = get_args(RouteState)
OPINIONS = [opinion for opinion in get_args(Opinion) if opinion]
OUTCOMES = [("ok", ""), ("aborted", ""), *(("failed", kind) for kind in get_args(FailureKind) if kind)]
"""Outcomes of attempts, each with the kind of failure."""
TOKEN_KINDS = TokenCounts.__struct_fields__
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FORWARDED_HEADERS = ("x-forwarded-for", "forwarded", "x-real-ip")


class Metrics:
    """This process's metrics, in a registry of their own, so that several proxies in one program do not mix.

    `verdicts` and `reasons` are those of requests, as the edge names them; `refreshes` are the refreshes of tokens so
    far, by route and outcome; `longest_wait_ms` is that of a stream without an answer.
    """

    def __init__(
        self,
        clock: Clock,
        watcher: Watcher,
        outbox: Outbox,
        version: str,
        settings: Settings,
        *,
        verdicts: Sequence[str],
        reasons: Sequence[str],
        longest_wait_ms: Callable[[], int],
        refreshes: Callable[[], Mapping[tuple[str, ...], int]] = dict,
    ) -> None:
        routes = [route.id for route in settings.routes if route.off is None]
        self.registry = CollectorRegistry()
        self._clock = clock
        self._tallies: list[BufferedCounter | BufferedHistogram] = []
        self._timer: asyncio.TimerHandle | None = None
        self._under_way = 0
        self._noted: list[tuple[int, str, Counted]] = []
        self._models: set[str] = set()
        self._fields: set[str] = set()
        self._failed_on: OrderedDict[str, str] = OrderedDict()
        self._outbox = outbox
        self._longest_wait_ms = longest_wait_ms
        self._looking: asyncio.Task[None] | None = None
        self._now = CurrentGauges(watcher, clock, version, settings)
        self.registry.register(self._now)
        self.requests = self._counter("ccproxy_requests", "Requests by outcome", "endpoint", "verdict")
        self.requests.start_at_zero(product(ENDPOINTS, verdicts))
        self.refusals = self._counter("ccproxy_request_refusals", "Requests refused by the proxy itself", "reason")
        self.refusals.start_at_zero((reason,) for reason in reasons)
        self.early_heads = self._counter(
            "ccproxy_early_heads", "Streams whose head went before there was content, by outcome", "verdict"
        )
        self.early_heads.start_at_zero((verdict,) for verdict in verdicts)
        self.attempts = self._counter("ccproxy_attempts", "Attempts on routes", "route", "outcome", "kind")
        self.attempts.start_at_zero((route, *outcome) for route, outcome in product(routes, OUTCOMES))
        self.failovers = self._counter(
            "ccproxy_failovers", "Requests that failed over to another route", "from_route", "to_route"
        )
        self.opinions = self._counter(
            "ccproxy_second_opinions",
            "Second opinions on errors that no rule knows, by the route that failed first and what came of them",
            "route",
            "outcome",
        )
        self.opinions.start_at_zero(product(routes, OPINIONS))
        self.unknown_errors = self._counter(
            "ccproxy_unknown_errors", "Errors in words that no rule knows and no second opinion confirmed", "route"
        )
        self.unknown_errors.start_at_zero((route,) for route in routes)
        self.tokens = self._counter("ccproxy_tokens", "Tokens by kind", "route", "model", "type")
        self.cost = self._counter("ccproxy_cost_usd", "Cost of priced usage, in dollars", "route", "model")
        self.unpriced = self._counter(
            "ccproxy_unpriced", "Usage that has no known price and is not in the cost", "route", "model"
        )
        self.estimated = self._counter(
            "ccproxy_estimated_tokens", "Tokens of attempts whose usage is estimated, in whole or in part", "route"
        )
        self.estimated.start_at_zero((route,) for route in routes)
        self.unread = self._counter(
            "ccproxy_unread_usage", "Answers whose usage has a field that this version does not count", "route", "field"
        )
        self.first_byte = self._histogram(
            "gen_ai_server_time_to_first_token_seconds", "Time to first byte of streams", SECONDS, "route"
        )
        self.duration = self._histogram(
            "gen_ai_server_request_duration_seconds", "Duration of attempts", SECONDS, "route"
        )
        self.added = self._histogram(
            "ccproxy_added_latency_seconds", "Time from arrival to the first upstream attempt", ADDED_SECONDS
        )
        self.refreshes = self._counter(
            "ccproxy_token_refreshes", "Refreshes of subscriptions' tokens", "route", "outcome"
        )
        self.resent = self._counter("ccproxy_events_resent", "Events that Redis had lost, appended again", "reason")
        self._growing = (
            GrowingCounts(self.refreshes, refreshes),
            GrowingCounts(self.resent, lambda: {(reason,): count for reason, count in outbox.resent.items()}),
        )
        self.problems = Gauge(
            "ccproxy_problem",
            "1 while something is wrong with a process, else 0",
            ["problem"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.in_flight = self._gauge("ccproxy_requests_in_flight", "Requests in flight")
        self.waiting = self._gauge(
            "ccproxy_first_byte_wait_seconds", "Longest time that a stream has waited for its first byte", "livemax"
        )
        self.pending = self._gauge("ccproxy_outbox_pending_events", "Events not yet appended to their streams")
        self.spooled = self._gauge("ccproxy_spool_events", "Events spooled on this host's disk")

    def _counter(self, name: str, words: str, *labels: str) -> BufferedCounter:
        made = BufferedCounter(name, words, labels, self.registry)
        self._tallies.append(made)
        return made

    def _histogram(self, name: str, words: str, bounds: Sequence[float], *labels: str) -> BufferedHistogram:
        made = BufferedHistogram(name, words, labels, bounds, self.registry)
        self._tallies.append(made)
        return made

    def _gauge(self, name: str, words: str, of_processes: Literal["livesum", "livemax"] = "livesum") -> Gauge:
        return Gauge(name, words, registry=self.registry, multiprocess_mode=of_processes)

    async def start(self) -> None:
        """Start flushing periodically, so that siblings can report the counts."""
        if SHARED in os.environ:
            self._looking = asyncio.create_task(self._look_on(), name="metrics.look")

    async def stop(self) -> None:
        """Flush and stop."""
        self._hand_over()
        if self._looking:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    async def _look_on(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(LOOK_S)

    def _look(self) -> None:
        self.pending.set(self._outbox.pending)
        self.spooled.set(self._outbox.spooled)
        current = {problem.code for problem in self._outbox.problems.current}
        for code in CODES:
            self.problems.labels(code).set(code in current)
        for counts in self._growing:
            counts.take()
        self.waiting.set(self._longest_wait_ms() / 1000)
        self._hand_over()

    def _hand_over_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(HAND_OVER_S, self._hand_over)

    def _hand_over(self) -> None:
        """Flush the buffers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._count_noted()
        self.in_flight.set(self._under_way)
        for tally in self._tallies:
            tally.flush()

    # -- recording

    def begin(self) -> None:
        """Count the start of a request."""
        self._under_way += 1
        self._hand_over_soon()

    def end(self, endpoint: Endpoint, verdict: str, reason: str) -> None:
        """Count the end of a request."""
        self._under_way -= 1
        self.requests.add((endpoint, verdict))
        self._hand_over_soon()
        if reason:
            self.refuse(reason)

    def end_early(self, verdict: str) -> None:
        """Count how a stream ended whose head had gone before its content."""
        self.early_heads.add((verdict,))

    def refuse(self, reason: str) -> None:
        """Count a request that the proxy itself rejected, here or at the admin API."""
        self.refusals.add((reason,))
        self._hand_over_soon()

    def record_event(self, stream: str, event: Event) -> None:
        """Queue an event of this process; counting many at once costs half, but a second's would hold up requests."""
        if isinstance(event, Counted):
            self._noted.append((self._clock.now_ms(), stream, event))
            if len(self._noted) >= NOTED_EVENTS:
                self._count_noted()
            self._hand_over_soon()

    def _count_noted(self) -> None:
        noted, self._noted = self._noted, []
        for now_ms, route, event in noted:
            if isinstance(event, AttemptStarted):
                self._count_start(now_ms, route, event)
                continue
            self._count_unread(route, event.unread)
            if not isinstance(event, ResourceUsed) and (event.lines or event.cost_nusd is None):
                self._count_unpriced(route, event)
            if isinstance(event, AttemptEnded):
                self._count_end(route, event)

    def _count_start(self, now_ms: int, route: str, event: AttemptStarted) -> None:
        failed_on = self._failed_on.pop(event.request_id, None)
        if failed_on is None:
            self.added.add((), max(0, now_ms - arrived_ms(event)) / 1000)
        elif failed_on != route:
            self.failovers.add((failed_on, route))

    def _count_end(self, route: str, event: AttemptEnded) -> None:
        self.attempts.add((route, event.outcome, event.kind))
        self.duration.add((route,), event.total_ms / 1000)
        if event.stream and event.first_byte_ms is not None:
            self.first_byte.add((route,), event.first_byte_ms / 1000)
        for line in usage_lines(event):
            self._count_line(route, line)
        if event.estimated:
            self.estimated.add((route,), sum(astuple(event.tokens)))
        if event.outcome == "failed":
            self._count_failure(route, event)

    def _count_line(self, route: str, line: UsageLine) -> None:
        model = self._model(line.model)
        for kind, count in zip(TOKEN_KINDS, astuple(line.tokens), strict=True):
            if count:
                self.tokens.add((route, model, kind), count)
        if line.cost_nusd:
            self.cost.add((route, model), line.cost_nusd * NUSD)

    def _count_unread(self, route: str, fields: Sequence[str]) -> None:
        for name in fields:
            if name in self._fields or len(self._fields) < MOST_FIELDS:
                self._fields.add(name)
                self.unread.add((route, visible(name)))
            else:
                self.unread.add((route, "other"))

    def _count_unpriced(self, route: str, event: AttemptEnded | BatchItemUsed) -> None:
        for line in usage_lines(event):
            if line.cost_nusd is None:
                self.unpriced.add((route, self._model(line.model)))

    def _count_failure(self, route: str, event: AttemptEnded) -> None:
        if event.opinion:
            self.opinions.add((route, event.opinion))
        if event.words:
            self.unknown_errors.add((route,))
        if not event.final:
            while len(self._failed_on) >= MOST_REQUESTS:
                self._failed_on.popitem(last=False)
            self._failed_on[event.request_id] = route

    def _model(self, name: str) -> str:
        """Return a model's name as a label, escaped because `/metrics` is read on terminals too."""
        name = visible(name)
        if name not in self._models and len(self._models) >= MOST_MODELS:
            return "other"
        self._models.add(name)
        return name

    def text(self, standing: FleetStatus | None) -> bytes:
        """Return all metrics in Prometheus's text format."""
        self._now.standing = standing
        self._look()
        if SHARED not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        registry.register(self._now)
        return generate_latest(registry)


class GrowingCounts:
    """A counter of what is counted elsewhere: it takes what has been added since the last time."""

    def __init__(self, counter: BufferedCounter, read: Callable[[], Mapping[tuple[str, ...], int]]) -> None:
        self._counter = counter
        self._read = read
        self._taken: dict[tuple[str, ...], int] = {}
        counter.start_at_zero(read())

    def take(self) -> None:
        """Add what is new."""
        for labels, count in self._read().items():
            if more := count - self._taken.get(labels, 0):
                self._counter.add(labels, more)
                self._taken[labels] = count


class CurrentGauges(Collector):
    """Gauges that are read on each scrape."""

    def __init__(self, watcher: Watcher, clock: Clock, version: str, settings: Settings) -> None:
        self.standing: FleetStatus | None = None
        self._watcher = watcher
        self._clock = clock
        self._info = {"version": version, "settings": settings.digest}
        self._uses_redis = settings.redis_url is not None

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the gauges are unknown before a scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield all gauges."""
        readings = self._watcher.route_statuses()
        yield from route_gauges(readings)
        yield state_gauge(readings)
        yield credential_gauge(readings)
        yield cool_down_gauge(readings, self._clock.now_ms())
        info = GaugeMetricFamily("ccproxy_info", "Version and settings digest", labels=[*self._info])
        info.add_metric([*self._info.values()], 1)
        yield info
        if self._uses_redis:
            yield gauge("ccproxy_redis_up", "1 if Redis is reachable, else 0", int(self._watcher.redis_up))
        if self.standing is not None:
            yield from fleet_gauges(self.standing)


def route_gauges(readings: Iterable[RouteStatus]) -> Iterator[Metric]:
    """Yield gauges of routes, as this process sees them."""
    made = {
        name: GaugeMetricFamily(f"ccproxy_{name}", words, labels=["route"])
        for name, words in (
            ("circuit_state", "Circuit breaker: 0 closed, 1 half open, 2 open"),
            ("route_available", "1 if the route accepts requests, else 0"),
            ("quota_used_tokens", "Tokens counted towards the weekly quota, across the fleet"),
            ("quota_limit_tokens", "Weekly limit; 0 means none"),
            ("quota_overshoot_tokens", "Tokens used beyond the weekly limit"),
        )
    }
    for reading in readings:
        over = max(0, reading.used_tokens - reading.limit_tokens) if reading.limit_tokens else 0
        values = (CIRCUITS[reading.circuit], reading.available, reading.used_tokens, reading.limit_tokens, over)
        for family, value in zip(made.values(), values, strict=True):
            family.add_metric([reading.route], value)
    yield from made.values()


def state_gauge(readings: Iterable[RouteStatus]) -> Metric:
    """Return the gauge of routes' states: for each state 1 if the route is in it, else 0."""
    made = GaugeMetricFamily("ccproxy_route_state", "1 for the state of the route, else 0", labels=["route", "state"])
    for reading, state in product(readings, STATES):
        made.add_metric([reading.route, state], reading.state == state)
    return made


def credential_gauge(readings: Iterable[RouteStatus]) -> Metric:
    """Return the gauge of credentials: 0 if a route that is on has none that serves, or was refused it last."""
    words = "1 if the route's credential can be used, 0 if not, or if the provider has refused it last"
    made = GaugeMetricFamily("ccproxy_credential_usable", words, labels=["route"])
    for reading in readings:
        if reading.state != "off":
            made.add_metric([reading.route], not (reading.refused or reading.state == "no_credential"))
    return made


def cool_down_gauge(readings: Iterable[RouteStatus], now_ms: int) -> Metric:
    """Return the gauge of cool-downs, by whose they are; of several of one owner, the one that ends last counts."""
    words = "Time until a route's cool-down ends, by account, class of endpoint and scope"
    made = GaugeMetricFamily("ccproxy_cool_down_seconds", words, labels=["route", "account", "endpoint", "scope"])
    ends: dict[tuple[str, str, str, str], int] = {}
    for reading in readings:
        for wait in reading.waits:
            owner: tuple[str, str, str, str] = (reading.route, wait.account, wait.endpoint, wait.scope)
            ends[owner] = max(wait.until_ms, ends.get(owner, 0))
    for owner, until_ms in ends.items():
        made.add_metric(owner, max(0, until_ms - now_ms) / 1000)
    return made


def fleet_gauges(standing: FleetStatus) -> Iterator[Metric]:
    """Yield gauges of the ledger and the replicas."""
    lag = GaugeMetricFamily("ccproxy_stream_lag_entries", "Entries not folded yet", labels=["stream"])
    age = GaugeMetricFamily("ccproxy_snapshot_age_seconds", "Age of the last snapshot", labels=["stream"])
    dead = GaugeMetricFamily("ccproxy_dead_letters", "Events that can't be decoded", labels=["stream"])
    quarantined = GaugeMetricFamily(
        "ccproxy_quarantined_events", "Events that contradict the ledger", labels=["stream"]
    )
    for stream in standing.status.streams:
        lag.add_metric([stream.stream], stream.lag)
        if stream.snapshot_age_ms is not None:
            age.add_metric([stream.stream], stream.snapshot_age_ms / 1000)
        counts = standing.aside.get(stream.stream, (0, 0))
        dead.add_metric([stream.stream], counts[0])
        quarantined.add_metric([stream.stream], counts[1])
    yield from (lag, age, dead, quarantined)
    yield gauge("ccproxy_replicas", "Live replicas", len(standing.status.replicas))


def gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    """Return a gauge without labels."""
    return GaugeMetricFamily(name, words, value=value)


def arrived_ms(event: AttemptStarted) -> int:
    """Return when the attempt's request arrived, from the request id."""
    try:
        return time_of_request_id_ms(event.request_id)
    except ValueError:
        return event.at_ms


@get(
    "/metrics",
    media_type=CONTENT_TYPE,
    exception_handlers={ProxyError: fail},
    responses=documented(401),
    summary="Metrics for Prometheus",
    tags=["metrics"],
)
async def metrics(request: Request[Any, Any, Any], console: Desk) -> Response[bytes]:
    """Metrics of this process and gauges of the fleet."""
    await check_access(request, console)
    counted: Metrics = request.app.state.metrics
    return Response(counted.text(await console.fleet.status()), media_type=CONTENT_TYPE)


def is_on_loopback(request: Request[Any, Any, Any]) -> bool:
    """True for a request from this machine by a loopback name: any other name may resolve to the loopback (DNS
    rebinding)."""
    return is_loopback(address_of(request)) and is_loopback(host_name(request.headers.get("host", "localhost")))


def digest_of(token: str) -> bytes:
    """Return a digest for comparing tokens, so that timing does not reveal their length."""
    return sha256(token.encode()).digest()


async def check_access(request: Request[Any, Any, Any], console: Console) -> None:
    """Raise NotLoggedIn unless the request may read metrics."""
    wanted = console.settings.metrics_token.reveal()
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    if wanted and scheme.lower() == "bearer" and compare_digest(digest_of(shown.strip()), digest_of(wanted)):
        console.brake.accept(address_of(request), "metrics")
        return
    forwarded = any(name in request.headers for name in FORWARDED_HEADERS)
    if not wanted and not shown and not forwarded and is_on_loopback(request):
        return
    if not shown:
        raise NotLoggedIn("metrics need METRICS_TOKEN as Authorization: Bearer, except on the loopback")
    await console.access.authenticate(request)
