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

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from service.ledger.events import Endpoint
from service.ledger.fold import HOUR_MS
from service.ledger.model_names import is_of
from service.routing.circuit import read_circuit
from service.routing.context import too_large_for
from service.routing.models import choose_model, is_native, map_model
from service.routing.quota import QuotaReading, is_pressed, is_warned, quota_of, read_waits, read_windows, week_of
from service.routing.view import View
from service.settings import ClientCredentials, Policy, Route

PassedOver = Literal[
    "", "off", "disabled", "circuit_open", "waiting", "quota_spent", "model_missing", "context_too_small", "elsewhere"
]
MODEL_ENDPOINTS: frozenset[Endpoint] = frozenset(("messages", "count_tokens"))
FREE_ENDPOINTS: frozenset[Endpoint] = frozenset(("count_tokens", "models"))
"""What uses no tokens goes on when the quota is spent, and has limits of its own at the provider."""
CREDENTIAL_PREFIX = "sk-ant-"
"""How Anthropic's API keys and OAuth tokens begin; anything else is a placeholder, never worth sending."""


class RoutingRequest(Struct, frozen=True):
    """What routing needs to know of a request.

    `least_tokens` is what its prompt has at least, 0 when that is too little to matter; `trimmed`: the provider is
    asked to shorten it. `threaded`: it continues or begins a thread.
    `bound_to` is the route on which its resources live, `session_route` the one that served its session last. `draw`
    is the request's lot, from 0 to 1: a route that has just recovered takes those below its share.
    """

    endpoint: Endpoint = "messages"
    model: str = ""
    bound_to: str = ""
    least_tokens: int = 0
    trimmed: bool = False
    threaded: bool = False
    session_route: str = ""
    draw: float = 0.0


class Candidate(Struct, frozen=True):
    """A route considered for a request; `passed_over` says why not, `until_ms` until when.

    `without_thinking`: the provider refused a signature, so that the thoughts stay out. `probe`: its circuit is half
    open. `late`: the others go first, since its quota nears its end or it has only just recovered. `quota` is its week
    where that has a limit, `open_attempts` what is under way there.
    """

    route: Route
    model: str = ""
    passed_over: PassedOver = ""
    reason: str = ""
    until_ms: int = 0
    probe: bool = False
    without_thinking: bool = False
    late: bool = False
    quota: QuotaReading | None = None
    open_attempts: int = 0

    @property
    def usable(self) -> bool:
        """Whether the route may be tried."""
        return not self.passed_over


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


def rank(ask: RoutingRequest, chain: Sequence[Route], view: View, policy: Policy, now_ms: int) -> list[Candidate]:
    """All routes of the chain: those to try, in order, then those passed over."""
    considered = [evaluate_route(ask, route, view, policy, now_ms) for route in chain]
    if ask.endpoint in MODEL_ENDPOINTS and ask.model and not is_of(ask.model, ("claude",)):
        considered.sort(key=lambda candidate: not is_native(candidate.route.provider, ask.model))
    usable: list[Candidate] = []
    passed_over: list[Candidate] = []
    for candidate in considered:
        (passed_over if candidate.passed_over else usable).append(candidate)
    if not usable:
        usable = last_resort(passed_over)
        taken = {candidate.route.id for candidate in usable}
        passed_over = [candidate for candidate in passed_over if candidate.route.id not in taken]
    usable.sort(key=lambda candidate: (candidate.late, candidate.route.id != ask.session_route))
    return usable + passed_over


def last_resort(passed_over: Sequence[Candidate]) -> list[Candidate]:
    """Of the routes whose only fault is an open circuit, the one that closes first."""
    opened = [candidate for candidate in passed_over if candidate.passed_over == "circuit_open"]
    if not opened:
        return []
    first = min(opened, key=lambda candidate: candidate.until_ms)
    return [replace(first, passed_over="", reason="", until_ms=0)]


def recheck(candidate: Candidate, ask: RoutingRequest, view: View, policy: Policy, now_ms: int) -> Candidate:
    """A candidate whose turn comes later, as its route stands by now: passed over, or with newer figures."""
    now = evaluate_route(ask, candidate.route, view, policy, now_ms)
    return replace(candidate, quota=now.quota, open_attempts=now.open_attempts) if now.usable else now


def evaluate_route(ask: RoutingRequest, route: Route, view: View, policy: Policy, now_ms: int) -> Candidate:
    """One route, with the first reason that speaks against it."""
    if route.off:
        return Candidate(route, passed_over="off", reason=route.off)
    if ask.bound_to and route.id != ask.bound_to:
        return Candidate(route, passed_over="elsewhere", reason=f"the resource lives on {ask.bound_to}")
    if ask.threaded and route.provider.dialect != "anthropic":
        return Candidate(route, passed_over="elsewhere", reason="threads are Anthropic's")
    if not serves(route, ask):
        return Candidate(route, passed_over="model_missing", reason=f"{route.title} does not offer {ask.endpoint}")
    if route.id in view.control.disabled:
        why = view.control.disabled[route.id] or "by an operator"
        return Candidate(route, passed_over="disabled", reason=f"disabled: {why}")
    return evaluate_state(ask, route, view, policy, now_ms)


def evaluate_state(ask: RoutingRequest, route: Route, view: View, policy: Policy, now_ms: int) -> Candidate:
    """One route, by its ledger. The pseudo-route of clients shares no state, so that nothing speaks against it."""
    if route.auth == "client":
        return Candidate(route, map_model(route, ask.model, policy) if ask.model else "")
    ledger = view.ledger(route.id)
    model = choose_model(route, ask.model, ledger, policy, now_ms) if ask.model else ""
    if model is None:
        return Candidate(route, passed_over="model_missing", reason=f"{route.title} lacks {ask.model}")
    too_large = too_large_for(route, ask.model, model, ask.least_tokens, policy, trimmed=ask.trimmed)
    if too_large:
        return Candidate(route, model, "context_too_small", too_large)
    limit_tokens = view.control.limits.get(route.id, route.weekly_tokens)
    quota = read_week(route, view, limit_tokens, policy, now_ms) if limit_tokens else None
    free = ask.endpoint in FREE_ENDPOINTS
    if quota and quota.state == "spent" and not free:
        return Candidate(route, model, "quota_spent", "weekly limit spent", quota.resets_at_ms)
    reset_ms = view.control.resets.get(route.id, 0)
    pressed = is_pressed(ledger, policy)
    wait = read_waits(ledger, policy, now_ms, reset_ms, model=model, free=free) if pressed or ledger.waits else None
    if wait:
        return Candidate(route, model, "waiting", wait.reason, wait.until_ms)
    circuit = read_circuit(ledger, policy.circuit, now_ms, replica=view.replica, reset_ms=reset_ms)
    if circuit.state == "open":
        return Candidate(
            route,
            model,
            "circuit_open",
            circuit.reason,
            circuit.until_ms,
            quota=quota,
            open_attempts=len(ledger.open),
        )
    warned = (quota is not None and quota.state == "warning") or (
        pressed and is_warned(read_windows(ledger, policy, now_ms, reset_ms), model)
    )
    return Candidate(
        route,
        model,
        until_ms=circuit.until_ms,
        probe=circuit.state == "half_open" and ask.endpoint == "messages",
        late=warned or ask.draw > circuit.share,
        quota=quota,
        open_attempts=len(ledger.open),
    )


def read_week(route: Route, view: View, limit_tokens: int, policy: Policy, now_ms: int) -> QuotaReading:
    """How much of the week's limit is gone."""
    week = week_of(now_ms, policy.quota)
    return quota_of(view.used(route.id, week[0] // HOUR_MS), limit_tokens, policy, week)


def serves(route: Route, ask: RoutingRequest) -> bool:
    """Whether the provider offers the endpoint: others than Anthropic are asked for messages alone.

    `count_tokens` of another vendor would count with another tokenizer, and cost a key that the client did not mean.
    """
    if route.provider.dialect == "anthropic":
        return True
    if ask.endpoint == "count_tokens":
        return is_native(route.provider, ask.model)
    return ask.endpoint in ("messages", "models")
