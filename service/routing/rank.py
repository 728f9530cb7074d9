"""Ranks the routes for a request, with the reason for each one that is skipped.

Rules
- The chain has the order of the settings. A name of another family than Claude asks for its vendor: routes that serve
  it natively come first. (Claude Code requests Claude names whatever its user wants.)
- A client's own credential is used for Anthropic alone, as a route of its own at the head of the chain; the owner's
  routes follow only if the client may use them.
- Skipped: no credential, or none that serves, disabled, circuit open, waiting, quota spent, model not served, model too
  small for the prompt, not the resource's route.
- Threads are sent to Anthropic alone: another vendor lacks their history.
- A route that can't keep a field on which the client relies (`request_fields`) comes after all that can, also in the
  middle of a turn, if the field may be dropped; else it is skipped.
- Above the warning threshold of its quota, or of a provider's window, a route comes after the others; so does a route
  that recovers, for a shrinking share of the requests without a session. Sessions come back as their users write.
- With session affinity the session's last route comes first if it serves the model that the first route would; in the
  middle of a turn it comes first whatever it serves. So a session that had to move to another model goes back with its
  user's next message, and two keys of one provider each keep their caches.
- Failures weigh as far as `evidence` says for the client that asks.
- If only open circuits are left, and errors that no rule knows, the route that is back first is tried all the same. A
  spent limit never is.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from service.ledger.events import Endpoint, FailureKind
from service.ledger.fold import HOUR_MS
from service.ledger.model_names import is_of
from service.ledger.state import ControlLedger, RouteLedger
from service.routing.circuit import CircuitReading, is_sound, read_circuit
from service.routing.context import too_large_for
from service.routing.models import choose_model, is_native, map_model
from service.routing.quota import (
    REFUSED,
    QuotaReading,
    WaitReading,
    is_pressed,
    is_warned,
    quota_of,
    read_waits,
    read_windows,
    week_of,
)
from service.routing.request_fields import broken_fields, unkeepable
from service.routing.view import View
from service.settings import ClientCredentials, Policy, Route

SkipReason = Literal[
    "",
    "off",
    "disabled",
    "no_credential",
    "circuit_open",
    "refused",
    "waiting",
    "quota_spent",
    "model_missing",
    "context_too_small",
    "elsewhere",
    "field_unsupported",
]
SOFT_REASONS = frozenset(("circuit_open", "refused"))
"""Reasons drawn from what was seen, not told by anybody: without another route, trying is better than not."""
MODEL_ENDPOINTS: frozenset[Endpoint] = frozenset(("messages", "count_tokens"))
FREE_ENDPOINTS: frozenset[Endpoint] = frozenset(("count_tokens", "models"))
"""Endpoints without token usage work when the quota is spent."""
CREDENTIAL_PREFIX = "sk-ant-"
"""Prefix of Anthropic's API keys and OAuth tokens; anything else is a placeholder that is never sent."""


class RoutingRequest(Struct, frozen=True):
    """The properties of a request that matter for routing.

    `least_tokens` is the least its prompt can have, 0 when that is too little to matter; `trimmed`: the provider is
    asked to shorten it. `threaded`: it continues a thread. `bound_to` is the route on which its resources
    live, `session_route` the one that served its session last; `mid_turn`: the request brings tool results, so that the
    model that asked for them should go on. `fields` are those of its body that some provider can't keep. `ramp_sample`
    is a number from 0 to 1 that follows from the request's id: a
    route that has just recovered takes the requests below its share. `client` is the key of the client that asks, None
    for none in particular: whose failures weigh depends on it.
    """

    endpoint: Endpoint = "messages"
    model: str = ""
    bound_to: str = ""
    least_tokens: int = 0
    trimmed: bool = False
    threaded: bool = False
    session_route: str = ""
    mid_turn: bool = False
    ramp_sample: float = 0.0
    client: str | None = None
    fields: tuple[str, ...] = ()

    @property
    def wait_class(self) -> Endpoint:
        """The class of endpoint whose waits apply: `count_tokens` and `models` have limits of their own."""
        return self.endpoint if self.endpoint in FREE_ENDPOINTS else "messages"


class Candidate(Struct, frozen=True):
    """A route considered for a request; `skip_reason` says why not, `until_ms` until when.

    `without_thinking`: thinking blocks are left out, since the provider refused one. `thinking_off`: thinking is turned
    off, since the provider missed one. `probe`: its circuit is
    half open. `deprioritized`: other routes go first, since its quota is nearly spent or it has only just recovered.
    `quota` is its weekly limit, where it has one, `open_attempts` the number of attempts in progress. `wait_kind` and
    `wait_status` are those of the failure for which it waits. `breaks` are the fields on which the client relies and
    which this route drops. `last_resort`: no route is usable, and this one is back first.
    """

    route: Route
    model: str = ""
    skip_reason: SkipReason = ""
    reason: str = ""
    until_ms: int = 0
    probe: bool = False
    without_thinking: bool = False
    thinking_off: bool = False
    deprioritized: bool = False
    quota: QuotaReading | None = None
    open_attempts: int = 0
    wait_kind: FailureKind = ""
    wait_status: int = 0
    breaks: tuple[str, ...] = ()
    last_resort: bool = False

    @property
    def usable(self) -> bool:
        """True if the route may be tried."""
        return not self.skip_reason


def choose_chain(
    routes: Sequence[Route],
    client_route: Route,
    *,
    credential: str,
    mode: ClientCredentials,
) -> tuple[Route, ...]:
    """Return the chain for one client. `credential` is the client's own, "" if it sent none or a key of this proxy."""
    if not passes_through(routes, credential, mode):
        return tuple(routes)
    return (client_route, *routes)


def passes_through(routes: Sequence[Route], credential: str, mode: ClientCredentials) -> bool:
    """True if the client's own credential is passed through."""
    if not credential or mode == "never":
        return False
    configured = [route for route in routes if route.off is None]
    if not configured:
        return True
    looks_real = credential.startswith(CREDENTIAL_PREFIX)
    return looks_real and (mode == "prefer" or all(route.provider.dialect != "anthropic" for route in configured))


def serves_clients_only(routes: Sequence[Route], mode: ClientCredentials) -> bool:
    """True if there is no credential but the clients' own, which are passed through."""
    return passes_through(routes, CREDENTIAL_PREFIX, mode) and all(route.off is not None for route in routes)


def rank(request: RoutingRequest, chain: Sequence[Route], view: View, policy: Policy, now_ms: int) -> list[Candidate]:
    """Return all routes of the chain: usable ones in order, then skipped ones."""
    candidates = [evaluate_route(request, route, view, policy, now_ms) for route in chain]
    if request.endpoint in MODEL_ENDPOINTS and request.model and not is_of(request.model, ("claude",)):
        candidates.sort(key=lambda candidate: not is_native(candidate.route.provider, request.model))
    usable: list[Candidate] = []
    skipped: list[Candidate] = []
    for candidate in candidates:
        (skipped if candidate.skip_reason else usable).append(candidate)
    if not usable:
        usable, skipped = with_last_resort(skipped)
    usable.sort(key=attrgetter("breaks", "deprioritized"))
    if request.session_route:
        usable = with_session_first(usable, request)
    return usable + skipped


def with_session_first(usable: list[Candidate], request: RoutingRequest) -> list[Candidate]:
    """Move the session's last route to the front: for its caches if it serves the same model, and in the middle of a
    turn whatever it serves."""
    if usable and usable[0].route.id == request.session_route:
        return usable
    home = next((candidate for candidate in usable if candidate.route.id == request.session_route), None)
    if home is None or not goes_first(home, usable[0], request):
        return usable
    return [home, *(candidate for candidate in usable if candidate is not home)]


def goes_first(home: Candidate, first: Candidate, request: RoutingRequest) -> bool:
    """True if a session's last route goes before the first one."""
    if home.breaks and not first.breaks:
        return False
    return request.mid_turn or (not home.deprioritized and is_same_model(home, first))


def is_same_model(one: Candidate, other: Candidate) -> bool:
    """True if two routes serve the same model: a provider may answer to another's names with a model of its own."""
    return one.model == other.model and one.route.provider.families == other.route.provider.families


def with_last_resort(skipped: list[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    """Move the route that is back first, of those skipped for what was seen there, to the usable ones; returns both."""
    opened = [candidate for candidate in skipped if candidate.skip_reason in SOFT_REASONS]
    if not opened:
        return [], skipped
    first = min(opened, key=lambda candidate: candidate.until_ms)
    others = [candidate for candidate in skipped if candidate is not first]
    return [replace(first, skip_reason="", reason="", until_ms=0, last_resort=True)], others


def recheck(candidate: Candidate, request: RoutingRequest, view: View, policy: Policy, now_ms: int) -> Candidate:
    """Re-evaluate a candidate whose turn comes later: skipped by now, or with current data."""
    now = evaluate_route(request, candidate.route, view, policy, now_ms)
    return replace(candidate, quota=now.quota, open_attempts=now.open_attempts) if now.usable else now


# -- one route


def evaluate_route(request: RoutingRequest, route: Route, view: View, policy: Policy, now_ms: int) -> Candidate:
    """Evaluate one route: the outcome of the first of `RULES` that applies.

    The rules are not evaluated for a route that clearly passes all of them, the usual case.
    """
    ledger = view.ledger(route.id)
    if is_unrestricted(request, route, view.control) and is_healthy(ledger, policy, now_ms, view.replica):
        quota = weekly_quota(route, view, policy, now_ms)
        if quota is None or has_room(route, view, quota):
            model = map_model(route, request.model, policy) if request.model else ""
            return Candidate(route, model, quota=quota, open_attempts=len(ledger.open))
    check = RouteCheck(request, route, view, policy, now_ms)
    return next(outcome(check) for applies, outcome in RULES if applies(check))


def is_unrestricted(request: RoutingRequest, route: Route, control: ControlLedger) -> bool:
    """True if request, settings and operators leave nothing to check on the route but its weekly limit."""
    if request.endpoint != "messages" or request.bound_to or request.threaded or request.least_tokens:
        return False
    if request.fields and broken_fields(route.provider.dialect, request.fields):
        return False
    return not (route.off or route.id in control.disabled)


def weekly_quota(route: Route, view: View, policy: Policy, now_ms: int) -> QuotaReading | None:
    """Return the reading of a route's weekly limit, which is an operator's or of the settings; None without one. A
    client's own route has none."""
    limit_tokens = view.control.limits.get(route.id, route.weekly_tokens)
    if not limit_tokens or route.auth == "client":
        return None
    week = week_of(now_ms, policy.quota)
    return quota_of(view.used(route.id, week[0] // HOUR_MS), limit_tokens, policy, week)


def has_room(route: Route, view: View, quota: QuotaReading) -> bool:
    """True if a weekly limit is far from its end."""
    return quota.state == "ok" and not is_rest_short(route, view, quota)


def is_healthy(ledger: RouteLedger, policy: Policy, now_ms: int, replica: str) -> bool:
    """True if a ledger has no wait, no missing model, no window near its end, no failures, and a credential."""
    if ledger.waits or ledger.refusals or ledger.missing_models or (ledger.windows and is_pressed(ledger, policy)):
        return False
    if ledger.notices and lacks_credential(ledger, replica):
        return False
    return is_sound(ledger, policy.circuit, now_ms, replica)


def lacks_credential(ledger: RouteLedger, replica: str) -> bool:
    """True if a replica has found that the route's credential can't serve."""
    notice = ledger.notices.get(replica)
    return notice is not None and notice.forbids


class RouteCheck(Struct, frozen=True, dict=True):
    """A request and a route, with lazily computed inputs of `RULES`."""

    request: RoutingRequest
    route: Route
    view: View
    policy: Policy
    now_ms: int

    @property
    def ledger(self) -> RouteLedger:
        """The route's ledger."""
        return self.view.ledger(self.route.id)

    @property
    def reset_ms(self) -> int:
        """Time of an operator's last reset of the route; 0: never."""
        return self.view.control.resets.get(self.route.id, 0)

    @property
    def account(self) -> str:
        """The account that the route has now; "" when that is not known."""
        return self.view.accounts.get(self.route.id, "")

    @property
    def is_free(self) -> bool:
        """True if the request uses no tokens."""
        return self.request.endpoint in FREE_ENDPOINTS

    @cached_property
    def model(self) -> str | None:
        """The name to send; None if the route lacks the model and every fallback."""
        asked = self.request.model
        return choose_model(self.route, asked, self.ledger, self.policy, self.now_ms, self.reset_ms) if asked else ""

    @property
    def breaks(self) -> tuple[str, ...]:
        """The fields on which the client relies and which the provider drops."""
        return broken_fields(self.route.provider.dialect, self.request.fields)

    @cached_property
    def too_large(self) -> str:
        """Why the model can't hold the prompt; "" if it can."""
        request = self.request
        return too_large_for(
            self.route, request.model, self.model or "", request.least_tokens, self.policy, trimmed=request.trimmed
        )

    @cached_property
    def quota(self) -> QuotaReading | None:
        """The user's weekly quota, if there is one."""
        return weekly_quota(self.route, self.view, self.policy, self.now_ms)

    @cached_property
    def wait(self) -> WaitReading | None:
        """The last-ending wait that blocks this request."""
        return read_waits(
            self.ledger,
            self.policy,
            self.now_ms,
            self.reset_ms,
            model=self.model or "",
            account=self.account,
            endpoint=self.request.wait_class,
            client=self.request.client,
        )

    @cached_property
    def circuit(self) -> CircuitReading:
        """The route's circuit for this replica."""
        return read_circuit(
            self.ledger,
            self.policy.circuit,
            self.now_ms,
            replica=self.view.replica,
            reset_ms=self.reset_ms,
            client=self.request.client,
        )

    @property
    def is_near_limit(self) -> bool:
        """True if its quota, or a provider's window, is near its end."""
        if self.quota is not None and (
            self.quota.state == "warning" or is_rest_short(self.route, self.view, self.quota)
        ):
            return True
        windows = read_windows(self.ledger, self.policy, self.now_ms, self.reset_ms, account=self.account)
        return is_warned(windows, self.model or "")


def is_rest_short(route: Route, view: View, quota: QuotaReading) -> bool:
    """True if nothing is under way, and a request lately had to reserve more than is left of the week's limit."""
    return view.spent.get(route.id) == quota.name and not view.ledger(route.id).open


# -- the rules


def needs_field(check: RouteCheck) -> str:
    """Return a field that the client relies on, the provider can't keep, and nobody may drop; "" if there is none."""
    request = check.request
    return unkeepable(check.route.provider.dialect, request.fields) if request.endpoint == "messages" else ""


def field_unsupported(check: RouteCheck) -> Candidate:
    """Skip for good: the answer would not be what the client asked for."""
    reason = f"{check.route.title} does not support {needs_field(check)}"
    return Candidate(check.route, "", "field_unsupported", reason)


def is_elsewhere(check: RouteCheck) -> bool:
    """True if the request's resources live on another route."""
    return bool(check.request.bound_to) and check.route.id != check.request.bound_to


def is_foreign_thread(check: RouteCheck) -> bool:
    """True for a thread on another vendor's route, which lacks its history."""
    return check.request.threaded and check.route.provider.dialect != "anthropic"


def lacks_endpoint(check: RouteCheck) -> bool:
    """True if the provider lacks the endpoint: others than Anthropic only serve messages.

    `count_tokens` of another vendor would use another tokenizer, and a key that the client did not mean.
    """
    route, request = check.route, check.request
    if route.provider.dialect == "anthropic":
        return False
    if request.endpoint == "count_tokens":
        return not is_native(route.provider, request.model)
    return request.endpoint not in ("messages", "models")


def elsewhere(check: RouteCheck) -> Candidate:
    """Skip in favour of the resources' route."""
    return Candidate(check.route, "", "elsewhere", f"the resource belongs to {check.request.bound_to}")


def endpoint_missing(check: RouteCheck) -> Candidate:
    """Skip for good: the provider has no such endpoint."""
    return Candidate(check.route, "", "model_missing", f"{check.route.title} does not offer {check.request.endpoint}")


def disabled(check: RouteCheck) -> Candidate:
    """Skip with the operator's reason."""
    reason = check.view.control.disabled[check.route.id] or "by an operator"
    return Candidate(check.route, "", "disabled", f"disabled: {reason}")


def no_credential(check: RouteCheck) -> Candidate:
    """Skip until the replica's next notice: this second or after the next log-in, nobody knows."""
    return Candidate(check.route, "", "no_credential", check.ledger.notices[check.view.replica].message)


def usable_for_client(check: RouteCheck) -> Candidate:
    """Use the pseudo-route of a client's own credential: it shares no state, so no ledger applies."""
    asked = check.request.model
    model = map_model(check.route, asked, check.policy) if asked else ""
    return Candidate(check.route, model, open_attempts=len(check.ledger.open))


def model_missing(check: RouteCheck) -> Candidate:
    """Skip: the provider recently denied the model, and there is no fallback."""
    return Candidate(check.route, "", "model_missing", f"{check.route.title} does not have {check.request.model}")


def too_large(check: RouteCheck) -> Candidate:
    """Skip: the model can't hold the prompt."""
    return Candidate(check.route, check.model or "", "context_too_small", check.too_large)


def is_spent(check: RouteCheck) -> bool:
    """True if the user's weekly limit is used up."""
    return check.quota is not None and check.quota.state == "spent" and not check.is_free


def spent(check: RouteCheck) -> Candidate:
    """Skip until the week ends."""
    until_ms = check.quota.resets_at_ms if check.quota else 0
    return Candidate(check.route, check.model or "", "quota_spent", "weekly limit reached", until_ms)


def waiting(check: RouteCheck) -> Candidate:
    """Skip until the wait ends."""
    wait = check.wait
    assert wait is not None  # noqa: S101 - the rule applies when there is one
    why: SkipReason = "refused" if wait.scope == REFUSED else "waiting"
    return Candidate(
        check.route,
        check.model or "",
        why,
        wait.reason,
        wait.until_ms,
        wait_kind=wait.kind,
        wait_status=wait.status,
    )


def circuit_open(check: RouteCheck) -> Candidate:
    """Skip until the circuit closes, with everything needed to try it as a last resort."""
    return Candidate(
        check.route,
        check.model or "",
        "circuit_open",
        check.circuit.reason,
        check.circuit.until_ms,
        quota=check.quota,
        open_attempts=len(check.ledger.open),
        breaks=check.breaks,
    )


def usable(check: RouteCheck) -> Candidate:
    """Use: perhaps as a probe, perhaps after the others."""
    circuit, request = check.circuit, check.request
    return Candidate(
        check.route,
        check.model or "",
        until_ms=circuit.until_ms,
        probe=circuit.state == "half_open" and request.endpoint == "messages",
        deprioritized=check.is_near_limit or is_ramped_away(check),
        quota=check.quota,
        open_attempts=len(check.ledger.open),
        breaks=check.breaks,
    )


def is_ramped_away(check: RouteCheck) -> bool:
    """True if a route that recovers leaves the request to others. A session goes back when its user writes."""
    request = check.request
    return request.ramp_sample > check.circuit.share and not request.session_route


RULES: tuple[tuple[Callable[[RouteCheck], object], Callable[[RouteCheck], Candidate]], ...] = (
    (lambda check: check.route.off, lambda check: Candidate(check.route, "", "off", check.route.off or "")),
    (is_elsewhere, elsewhere),
    (is_foreign_thread, lambda check: Candidate(check.route, "", "elsewhere", "only Anthropic supports threads")),
    (lacks_endpoint, endpoint_missing),
    (needs_field, field_unsupported),
    (lambda check: check.route.id in check.view.control.disabled, disabled),
    (lambda check: lacks_credential(check.ledger, check.view.replica), no_credential),
    (lambda check: check.route.auth == "client", usable_for_client),
    (lambda check: check.model is None, model_missing),
    (lambda check: check.too_large, too_large),
    (is_spent, spent),
    (lambda check: check.wait, waiting),
    (lambda check: check.circuit.state == "open", circuit_open),
    (lambda _: True, usable),
)
"""Evaluation of a route: (predicate, outcome), in order."""
