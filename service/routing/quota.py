"""Weekly quotas and waits: readings of a route's ledger under the policy at `now`.

A week begins on Monday 00:00 UTC. Tokens that count are input and output, as the original proxy counted them; what
was read from or written to a prompt cache stands in the ledger apart.
"""

from typing import Literal

from msgspec import Struct

from service.ledger.events import Tokens
from service.ledger.fold import HOUR_MS
from service.ledger.state import RouteLedger, Usage, Wait
from service.settings import Policy

QuotaState = Literal["ok", "warning", "spent"]
WEEK_MS = 7 * 24 * HOUR_MS
FIRST_MONDAY_MS = 4 * 24 * HOUR_MS
"""1970-01-05, the first Monday of Unix time."""


class QuotaReading(Struct, frozen=True):
    """A route's week so far. `limit_tokens` 0 is no limit."""

    state: QuotaState
    used_tokens: int
    limit_tokens: int
    week_start_ms: int
    resets_at_ms: int

    @property
    def used_percent(self) -> float:
        """Percent of the limit that is gone; 0 without a limit."""
        return 100 * self.used_tokens / self.limit_tokens if self.limit_tokens else 0.0


class WaitReading(Struct, frozen=True):
    """A wait that still holds: its scope, its end and why."""

    scope: str
    until_ms: int
    reason: str


def week_start_ms(now_ms: int) -> int:
    """The last Monday 00:00 UTC."""
    return now_ms - (now_ms - FIRST_MONDAY_MS) % WEEK_MS


def counted_tokens(usage: Usage | Tokens) -> int:
    """The tokens that count against a weekly limit."""
    return usage.input + usage.output


def read_quota(ledger: RouteLedger, limit_tokens: int, policy: Policy, now_ms: int) -> QuotaReading:
    """How much of the week's limit is gone."""
    start_ms = week_start_ms(now_ms)
    first_hour = start_ms // HOUR_MS
    used = sum(counted_tokens(usage) for hour, usage in ledger.hours.items() if hour >= first_hour)
    state: QuotaState = "ok"
    if limit_tokens and used >= limit_tokens:
        state = "spent"
    elif limit_tokens and used * 100 >= limit_tokens * policy.warning_percent:
        state = "warning"
    return QuotaReading(state, used, limit_tokens, start_ms, start_ms + WEEK_MS)


def read_waits(ledger: RouteLedger, policy: Policy, now_ms: int, reset_ms: int = 0) -> WaitReading | None:
    """The wait of a route that ends last, or None when it may be asked now."""
    holding = [
        WaitReading(scope, until_ms, f"{wait.kind} {wait.status or ''}".strip())
        for scope, wait in ledger.waits.items()
        if wait.at_ms > reset_ms and (until_ms := wait_until_ms(scope, wait, policy)) > now_ms
    ]
    return max(holding, key=lambda wait: wait.until_ms, default=None)


def wait_until_ms(scope: str, wait: Wait, policy: Policy) -> int:
    """The end of a wait: the provider's word, else the policy's time after it began."""
    return wait.until_ms or wait.at_ms + (policy.credential_wait_ms if scope == "credential" else policy.wait_ms)
