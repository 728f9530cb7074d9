"""What an operator's reset forgets of a route: circuit, cool-downs, windows, missing models and unknown errors.

Not here: forgetting it (`service.ledger.fold`), or recording the reset.
"""

from service.ledger.events import Forgotten
from service.ledger.state import RouteLedger
from service.routing.circuit import read_circuit
from service.routing.models import is_missing
from service.routing.quota import scope_of, wait_until_ms
from service.routing.view import View
from service.settings import Policy

NOTHING = "nothing was held against it"


def read_forgotten(route_id: str, view: View, policy: Policy, now_ms: int) -> Forgotten:
    """Return what a reset now would forget: all that still holds, of whatever account and client."""
    ledger, reset_ms = view.ledger(route_id), view.control.resets.get(route_id, 0)
    circuit = read_circuit(ledger, policy.circuit, now_ms, replica=view.replica, reset_ms=reset_ms).state
    windows = [
        one for one in ledger.windows.values() if (one.resets_at_ms or one.at_ms + policy.quota_wait_ms) > now_ms
    ]
    return Forgotten(
        circuit="" if circuit == "closed" else circuit,
        cool_downs=count_cool_downs(ledger, policy, now_ms, reset_ms),
        windows=sum(one.at_ms > reset_ms for one in windows),
        missing_models=sum(is_missing(ledger, name, policy, now_ms, reset_ms) for name in ledger.missing_models),
        unknown_errors=sum(one.at_ms > reset_ms for one in ledger.refusals.values()),
    )


def count_cool_downs(ledger: RouteLedger, policy: Policy, now_ms: int, reset_ms: int) -> int:
    """Return how many cool-downs hold, of all accounts and classes of endpoint."""
    return sum(
        wait.at_ms > reset_ms and wait_until_ms(scope_of(name), wait, policy) > now_ms
        for name, wait in ledger.waits.items()
    )


def describe_forgotten(forgot: Forgotten) -> str:
    """Say what a reset forgot: `forgot an open circuit, 2 cool-downs and 1 window reading`."""
    parts = [f"{'an open' if forgot.circuit == 'open' else 'a half-open'} circuit"] if forgot.circuit else []
    counted = (
        (forgot.cool_downs, "cool-down"),
        (forgot.windows, "window reading"),
        (forgot.missing_models, "missing model"),
        (forgot.unknown_errors, "unknown error"),
    )
    parts += [f"{count} {noun}{'s' if count > 1 else ''}" for count, noun in counted if count]
    if not parts:
        return NOTHING
    return f"forgot {' and '.join(filter(None, (', '.join(parts[:-1]), parts[-1])))}"
