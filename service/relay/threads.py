"""Threads: the provider holds a conversation's history, so that only the route which holds it can go on with it.

A thread that a request begins may be begun on any route: the request has the whole conversation. Where the route of a
thread can't serve its continuation, the client is asked for the whole conversation, if some route would take that now.

Not here: where a thread lives (`fleet.resource_index`), whose it is (`ownership`).
"""

from collections.abc import Sequence

from service.errors import ThreadLost
from service.providers.error_facts import object_of
from service.relay.attempt import AttemptOutcome
from service.relay.request_plan import RequestPlan
from service.routing.rank import Candidate

LOST = "thread_not_found"
"""The provider's code for a thread that this account does not have."""
OWN_FAULTS = frozenset(("too_large", "unsupported", "answered"))
"""Verdicts that the whole conversation would not change."""


def thread_lost(plan: RequestPlan) -> ThreadLost | None:
    """The error for a request whose thread can't be continued now, while the whole conversation could be served.

    None for all other requests, and where the thread's route has found a fault in the request itself.
    """
    verdict = plan.final_verdict
    if plan.in_full is None or verdict.kind in OWN_FAULTS:
        return None
    shown = plan.outcomes[verdict.number - 1 :][:1] if verdict.kind == "relayed" else ()
    if any(map(is_lost, shown)):
        return ThreadLost.where("its provider does not have this thread (any more)")
    if any(map(is_answer, shown)) or not is_servable(plan.outcomes, plan.in_full()):
        return None
    return ThreadLost.where("the route of this thread can't serve it now")


def is_servable(outcomes: Sequence[AttemptOutcome], candidates: Sequence[Candidate]) -> bool:
    """Return true if a route is left for the whole conversation, other than those which were tried just now."""
    tried = {outcome.plan.route.id for outcome in outcomes}
    return any(candidate.usable and candidate.route.id not in tried for candidate in candidates)


def is_answer(outcome: AttemptOutcome) -> bool:
    """Return true if an error is about the request itself, or the client's own credential."""
    is_request = outcome.failure is not None and outcome.failure.scope == "request"
    return is_request or outcome.plan.route.auth == "client"


def is_lost(outcome: AttemptOutcome) -> bool:
    """Return true if the owner's account does not have the thread; a client is told of its own by the provider."""
    error = object_of(outcome.body).get("error")
    details = error.get("details") if isinstance(error, dict) else None
    is_owners = outcome.plan.route.auth != "client"
    return is_owners and isinstance(details, dict) and details.get("error_code") == LOST
