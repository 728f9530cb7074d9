"""Which routes a request may take, in which order, and why each other one is passed over.

Rules
- The chain is in the order of the settings. A name of another family than Claude is a wish for its vendor: routes that
  serve it themselves go first. (Claude Code asks for Claude names whatever its user wants.)
- A client's own credential goes to Anthropic alone, as a route of its own at the head of the chain; the owner's routes
  follow only where the client may use them.
- Passed over: no credential, disabled, circuit open, waiting, quota spent, model not served, model too small for the
  prompt, not the resource's route.
- A thread goes to Anthropic alone: another vendor would answer without what came before.
- Above the warning threshold of its quota, or of a provider's window, a route comes after the others; so it does, for
  a growing share of the requests less, while it recovers.
- With session affinity the route that served the session last goes first, unless it comes after the others.
- When only open circuits are left, the one that closes first is tried all the same. A spent limit never is.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from service.ledger.events import Endpoint
from service.ledger.fold import HOUR_MS
from service.ledger.model_names import is_of
from service.ledger.state import ControlLedger, RouteLedger
from service.routing.circuit import CircuitReading, is_sound, read_circuit
from service.routing.context import too_large_for
from service.routing.models import choose_model, is_native, map_model
from service.routing.quota import (
    QuotaReading,
    WaitReading,
    is_pressed,
    is_warned,
    quota_of,
    read_waits,
    read_windows,
    week_of,
)
from service.routing.view import View
from service.settings import ClientCredentials, Policy, Route

SkipReason = Literal[
    "", "off", "disabled", "circuit_open", "waiting", "quota_spent", "model_missing", "context_too_small", "elsewhere"
]
MODEL_ENDPOINTS: frozenset[Endpoint] = frozenset(("messages", "count_tokens"))
FREE_ENDPOINTS: frozenset[Endpoint] = frozenset(("count_tokens", "models"))
"""What uses no tokens goes on when the quota is spent, and has limits of its own at the provider."""
CREDENTIAL_PREFIX = "sk-ant-"
"""How Anthropic's API keys and OAuth tokens begin; anything else is a placeholder, never worth sending."""


class RoutingRequest(Struct, frozen=True):
    """What routing needs to know of a request.

    `least_tokens` is the least its prompt can have, 0 when that is too little to matter; `trimmed`: the provider is
    asked to shorten it. `threaded`: it continues or begins a thread. `bound_to` is the route on which its resources
    live, `session_route` the one that served its session last. `ramp_sample` is a number from 0 to 1 that follows from
    the request's id: a route that has just recovered takes the requests below its share.
    """

    endpoint: Endpoint = "messages"
    model: str = ""
    bound_to: str = ""
    least_tokens: int = 0
    trimmed: bool = False
    threaded: bool = False
    session_route: str = ""
    ramp_sample: float = 0.0


class Candidate(Struct, frozen=True):
    """A route considered for a request; `skip_reason` says why not, `until_ms` until when.

    `without_thinking`: thinking blocks are left out, since the provider refused a signature. `probe`: its circuit is
    half open. `deprioritized`: other routes go first, since its quota is nearly spent or it has only just recovered.
    `quota` is its weekly limit, where it has one, `open_attempts` the number of attempts in progress.
    """

    route: Route
    model: str = ""
    skip_reason: SkipReason = ""
    reason: str = ""
    until_ms: int = 0
    probe: bool = False
    without_thinking: bool = False
    deprioritized: bool = False
    quota: QuotaReading | None = None
    open_attempts: int = 0

    @property
    def usable(self) -> bool:
        """Whether the route may be tried."""
        return not self.skip_reason


def choose_chain(
    routes: Sequence[Route],
    client_route: Route,
    *,
    credential: str,
    mode: ClientCredentials,
) -> tuple[Route, ...]:
    """The chain for one client. `credential` is the client's own, "" when it showed none or a key of this proxy."""
    if not passes_through(routes, credential, mode):
        return tuple(routes)
    return (client_route, *routes)


def passes_through(routes: Sequence[Route], credential: str, mode: ClientCredentials) -> bool:
    """Whether the client's own credential goes up."""
    if not credential or mode == "never":
        return False
    configured = [route for route in routes if route.off is None]
    if not configured:
        return True
    looks_real = credential.startswith(CREDENTIAL_PREFIX)
    return looks_real and (mode == "prefer" or all(route.provider.dialect != "anthropic" for route in configured))


def rank(request: RoutingRequest, chain: Sequence[Route], view: View, policy: Policy, now_ms: int) -> list[Candidate]:
    """All routes of the chain: those to try, in order, then those passed over."""
    candidates = [evaluate_route(request, route, view, policy, now_ms) for route in chain]
    if request.endpoint in MODEL_ENDPOINTS and request.model and not is_of(request.model, ("claude",)):
        candidates.sort(key=lambda candidate: not is_native(candidate.route.provider, request.model))
    usable: list[Candidate] = []
    skipped: list[Candidate] = []
    for candidate in candidates:
        (skipped if candidate.skip_reason else usable).append(candidate)
    if not usable:
        usable, skipped = with_last_resort(skipped)
    usable.sort(key=lambda candidate: (candidate.deprioritized, candidate.route.id != request.session_route))
    return usable + skipped


def with_last_resort(skipped: list[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    """Of the routes whose only fault is an open circuit, the one that closes first, as usable; and the others."""
    opened = [candidate for candidate in skipped if candidate.skip_reason == "circuit_open"]
    if not opened:
        return [], skipped
    first = min(opened, key=lambda candidate: candidate.until_ms)
    others = [candidate for candidate in skipped if candidate is not first]
    return [replace(first, skip_reason="", reason="", until_ms=0)], others


def recheck(candidate: Candidate, request: RoutingRequest, view: View, policy: Policy, now_ms: int) -> Candidate:
    """A candidate whose turn comes later, as its route stands by now: passed over, or with newer figures."""
    now = evaluate_route(request, candidate.route, view, policy, now_ms)
    return replace(candidate, quota=now.quota, open_attempts=now.open_attempts) if now.usable else now


# -- one route


def evaluate_route(request: RoutingRequest, route: Route, view: View, policy: Policy, now_ms: int) -> Candidate:
    """One route as a candidate: the outcome of the first of `RULES` that applies.

    They are not walked for a route that nothing can be held against, as it mostly is.
    """
    ledger = view.ledger(route.id)
    if is_unrestricted(request, route, view.control) and is_healthy(ledger, policy, now_ms, view.replica):
        model = map_model(route, request.model, policy) if request.model else ""
        return Candidate(route, model, open_attempts=len(ledger.open))
    check = RouteCheck(request, route, view, policy, now_ms)
    return next(outcome(check) for applies, outcome in RULES if applies(check))


def is_unrestricted(request: RoutingRequest, route: Route, control: ControlLedger) -> bool:
    """Whether request, settings and operators leave nothing to check on the route."""
    if request.endpoint != "messages" or request.bound_to or request.threaded or request.least_tokens:
        return False
    return not (route.off or route.weekly_tokens or route.id in control.disabled or route.id in control.limits)


def is_healthy(ledger: RouteLedger, policy: Policy, now_ms: int, replica: str) -> bool:
    """Whether a ledger holds no wait, no missing model, no window near its end, and no trace of failures."""
    if ledger.waits or ledger.missing_models or (ledger.windows and is_pressed(ledger, policy)):
        return False
    return is_sound(ledger, policy.circuit, now_ms, replica)


class RouteCheck(Struct, frozen=True, dict=True):
    """A request and a route, with what `RULES` read of the route's ledger: each once, when a rule asks for it."""

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
        """When an operator last reset the route; 0: never."""
        return self.view.control.resets.get(self.route.id, 0)

    @property
    def is_free(self) -> bool:
        """Whether the request uses no tokens."""
        return self.request.endpoint in FREE_ENDPOINTS

    @cached_property
    def model(self) -> str | None:
        """The name to send; None when the route lacks the model and every stand-in."""
        request = self.request
        return choose_model(self.route, request.model, self.ledger, self.policy, self.now_ms) if request.model else ""

    @cached_property
    def too_large(self) -> str:
        """Why the model can't hold the prompt; "" when it may."""
        request = self.request
        return too_large_for(
            self.route, request.model, self.model or "", request.least_tokens, self.policy, trimmed=request.trimmed
        )

    @cached_property
    def quota(self) -> QuotaReading | None:
        """The user's limit for the week, where there is one."""
        limit_tokens = self.view.control.limits.get(self.route.id, self.route.weekly_tokens)
        if not limit_tokens:
            return None
        week = week_of(self.now_ms, self.policy.quota)
        return quota_of(self.view.used(self.route.id, week[0] // HOUR_MS), limit_tokens, self.policy, week)

    @cached_property
    def wait(self) -> WaitReading | None:
        """The wait that ends last of those that hold this request."""
        return read_waits(
            self.ledger, self.policy, self.now_ms, self.reset_ms, model=self.model or "", free=self.is_free
        )

    @cached_property
    def circuit(self) -> CircuitReading:
        """The route's circuit as this replica sees it."""
        return read_circuit(
            self.ledger, self.policy.circuit, self.now_ms, replica=self.view.replica, reset_ms=self.reset_ms
        )

    @property
    def is_near_limit(self) -> bool:
        """Whether its quota, or a provider's window, nears its end."""
        if self.quota is not None and self.quota.state == "warning":
            return True
        return is_warned(read_windows(self.ledger, self.policy, self.now_ms, self.reset_ms), self.model or "")


# -- the rules


def is_elsewhere(check: RouteCheck) -> bool:
    """Whether the request's resources live on another route."""
    return bool(check.request.bound_to) and check.route.id != check.request.bound_to


def is_foreign_thread(check: RouteCheck) -> bool:
    """Whether it is a thread, which another vendor would answer without what came before."""
    return check.request.threaded and check.route.provider.dialect != "anthropic"


def lacks_endpoint(check: RouteCheck) -> bool:
    """Whether the provider does not offer the endpoint: others than Anthropic are asked for messages alone.

    `count_tokens` of another vendor would count with another tokenizer, and cost a key that the client did not mean.
    """
    route, request = check.route, check.request
    if route.provider.dialect == "anthropic":
        return False
    if request.endpoint == "count_tokens":
        return not is_native(route.provider, request.model)
    return request.endpoint not in ("messages", "models")


def elsewhere(check: RouteCheck) -> Candidate:
    """Passed over in favour of the resources' route."""
    return Candidate(check.route, "", "elsewhere", f"the resource belongs to {check.request.bound_to}")


def endpoint_missing(check: RouteCheck) -> Candidate:
    """Passed over for good: the provider has no such endpoint."""
    return Candidate(check.route, "", "model_missing", f"{check.route.title} does not offer {check.request.endpoint}")


def disabled(check: RouteCheck) -> Candidate:
    """Passed over, with the operator's reason."""
    reason = check.view.control.disabled[check.route.id] or "by an operator"
    return Candidate(check.route, "", "disabled", f"disabled: {reason}")


def usable_for_client(check: RouteCheck) -> Candidate:
    """The pseudo-route of a client's own credential: it shares no state, so that no ledger speaks against it."""
    asked = check.request.model
    model = map_model(check.route, asked, check.policy) if asked else ""
    return Candidate(check.route, model, open_attempts=len(check.ledger.open))


def model_missing(check: RouteCheck) -> Candidate:
    """Passed over: the provider denied the model lately, and no other stands in for it."""
    return Candidate(check.route, "", "model_missing", f"{check.route.title} does not have {check.request.model}")


def too_large(check: RouteCheck) -> Candidate:
    """Passed over: the model can't hold the prompt."""
    return Candidate(check.route, check.model or "", "context_too_small", check.too_large)


def is_spent(check: RouteCheck) -> bool:
    """Whether the user's limit for the week is used up."""
    return check.quota is not None and check.quota.state == "spent" and not check.is_free


def spent(check: RouteCheck) -> Candidate:
    """Passed over until the week is over."""
    until_ms = check.quota.resets_at_ms if check.quota else 0
    return Candidate(check.route, check.model or "", "quota_spent", "weekly limit reached", until_ms)


def waiting(check: RouteCheck) -> Candidate:
    """Passed over until the wait is over."""
    reason, until_ms = (check.wait.reason, check.wait.until_ms) if check.wait else ("", 0)
    return Candidate(check.route, check.model or "", "waiting", reason, until_ms)


def circuit_open(check: RouteCheck) -> Candidate:
    """Passed over until the circuit closes, but with all that it takes to be tried as the last resort."""
    return Candidate(
        check.route,
        check.model or "",
        "circuit_open",
        check.circuit.reason,
        check.circuit.until_ms,
        quota=check.quota,
        open_attempts=len(check.ledger.open),
    )


def usable(check: RouteCheck) -> Candidate:
    """To be tried: perhaps as a probe, perhaps after the others."""
    circuit, request = check.circuit, check.request
    return Candidate(
        check.route,
        check.model or "",
        until_ms=circuit.until_ms,
        probe=circuit.state == "half_open" and request.endpoint == "messages",
        deprioritized=check.is_near_limit or request.ramp_sample > circuit.share,
        quota=check.quota,
        open_attempts=len(check.ledger.open),
    )


RULES: tuple[tuple[Callable[[RouteCheck], object], Callable[[RouteCheck], Candidate]], ...] = (
    (lambda check: check.route.off, lambda check: Candidate(check.route, "", "off", check.route.off or "")),
    (is_elsewhere, elsewhere),
    (is_foreign_thread, lambda check: Candidate(check.route, "", "elsewhere", "only Anthropic supports threads")),
    (lacks_endpoint, endpoint_missing),
    (lambda check: check.route.id in check.view.control.disabled, disabled),
    (lambda check: check.route.auth == "client", usable_for_client),
    (lambda check: check.model is None, model_missing),
    (lambda check: check.too_large, too_large),
    (is_spent, spent),
    (lambda check: check.wait, waiting),
    (lambda check: check.circuit.state == "open", circuit_open),
    (lambda _: True, usable),
)
"""What becomes of a route: (predicate, outcome), in the order in which they are asked."""
