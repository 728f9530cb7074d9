"""What a failed attempt means: kind and scope, from plain facts. What is done about it is `failover`'s.

What means what is data: `failures.toml` beside this file, and before it the user's own rules. Here they are applied.

Rules
- Of the rules that fit, the first counts.
- The end of a wait is what the provider names: for a quota the later of its wait and its reset; else its wait alone,
  since the reset of a subscription's window, which comes with every answer, says nothing about a throttle.
- A spent window that is about some models holds those alone; a claim that nobody knows holds the model that was sent.
"""

import re
from collections.abc import Callable, Iterable
from operator import attrgetter

from msgspec import Struct

from service.ledger.events import FailureKind, FailureScope, Window
from service.routing.error_words import unquoted
from service.routing.models import family_of
from service.settings.failure_rules import Dialect, FailureRule, Rules

PATH_FIRST = re.compile(r"\s*[a-z_]\w*(?:\.(?:\d+|[a-z_]\w*)|\[\d+\])+")
"""How validators begin: `messages.0.content.1.text: ...`."""
LONG_WAIT_MS = 60_000
"""A 429 that asks for more than this says that something is spent."""
WHOLE_CLAIM = "seven_day"
"""Claims that begin with it and go on are about some models."""

SIGNATURE_WORDS = ("signature", "thinking")
"""As in "messages.1.content.0: Invalid `signature` in `thinking` block" (public issues of several proxies)."""


class Facts(Struct, frozen=True):
    """What an upstream's answer says, already read: see `service.providers.error_facts`.

    `status` 0: there was no answer, or it is an error inside a stream. `retry_at_ms` and `reset_at_ms` are Unix time, 0
    when none was named: the end of the wait that was asked for, and of the limit that was named. `unified_status` and
    `claim` are a subscription's; `model` is the one that was sent.
    """

    status: int = 0
    error_type: str = ""
    error_code: str = ""
    message: str = ""
    retry_at_ms: int = 0
    reset_at_ms: int = 0
    should_retry: bool | None = None
    unified_status: str = ""
    claim: str = ""
    dialect: Dialect = "anthropic"
    provider: str = ""
    model: str = ""

    @property
    def named_ms(self) -> int:
        """The end of the wait, as far as it is about this answer; 0 when none was named."""
        return self.retry_at_ms or (0 if self.unified_status else self.reset_at_ms)


class Failure(Struct, frozen=True):
    """Why an attempt failed and whose fault it is. `retry_at_ms` 0: no wait was named.

    `holds` is a word in the names of the models that wait, "" for all. `windows` are those that the error says are
    spent, where headers say nothing. `proven` false: no rule says that it is the request's own fault. `refresh`: the
    token is worth renewing. `scope` "": it is nobody's fault, and another route may take the request. `error_type` is
    the provider's word for it.
    """

    kind: FailureKind
    scope: FailureScope
    retry_at_ms: int = 0
    message: str = ""
    status: int = 0
    holds: str = ""
    windows: dict[str, Window] = {}
    proven: bool = True
    refresh: bool = False
    error_type: str = ""


class FailureTable:
    """Rules, found by status and code. Made once; it remembers which rules a status and a code leave."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules.failures
        self._codes = {code for rule in rules.failures for code in rule.codes}
        self._found: dict[tuple[int, str], tuple[FailureRule, ...]] = {}
        self.spent_words = frozenset(rules.spent_words)
        self.held_by = {claim: window.holds for window in rules.windows for claim in window.claims}

    def first(self, facts: Facts, now_ms: int) -> FailureRule:
        """The rule that counts; the last of the packaged ones fits all. What the words quote a client may have written,
        and so it may what stands behind a path into its request."""
        words = unquoted(facts.message).lower()
        if path := PATH_FIRST.match(words):
            words = path[0]
        return next(rule for rule in self._left(facts) if fits(rule, facts, words, self.spent_words, now_ms))

    def _left(self, facts: Facts) -> Iterable[FailureRule]:
        code = facts.error_code if facts.error_code in self._codes else ""
        key = (facts.status, code)
        found = self._found.get(key)
        if found is None:
            found = tuple(
                rule for rule in self._rules if rule.covers(facts.status) and (not rule.codes or code in rule.codes)
            )
            self._found[key] = found
        return found


def fits(rule: FailureRule, facts: Facts, words: str, spent_words: frozenset[str], now_ms: int) -> bool:
    """Whether an answer whose status and code fit meets a rule's other conditions."""
    return (
        all(is_among(value_of(facts), values_of(rule)) for value_of, values_of in LISTS)
        and (is_among(facts.error_type, rule.types) or is_among(facts.error_code, rule.types))
        and has_any(rule.words, words)
        and has_any(rule.also, words)
        and (rule.should_retry is None or rule.should_retry == facts.should_retry)
        and (not rule.unified or rule.unified == unified_word(facts, spent_words))
        and (not rule.wait or rule.wait == wait_word(facts, now_ms))
        and not (rule.empty and (facts.message or facts.error_type))
    )


LISTS: tuple[tuple[Callable[[Facts], str], Callable[[FailureRule], tuple[str, ...]]], ...] = (
    (attrgetter("dialect"), attrgetter("dialects")),
    (attrgetter("provider"), attrgetter("providers")),
    (attrgetter("claim"), attrgetter("claims")),
)
"""A fact, and the values of it that a rule asks for."""


def is_among(value: str, values: tuple[str, ...]) -> bool:
    """Whether a value is one of those asked for, or begins like one that ends in a star; none asked for is all."""
    return not values or value in values or any(known[-1:] == "*" and value.startswith(known[:-1]) for known in values)


def has_any(words: tuple[str, ...], message: str) -> bool:
    """Whether one of the words that a rule asks for is in the message, which is in small letters."""
    return not words or any(word.lower() in message for word in words)


def unified_word(facts: Facts, spent_words: frozenset[str]) -> str:
    """What a subscription says of its windows: spent, open, or nothing."""
    if not facts.unified_status:
        return ""
    return "spent" if facts.unified_status in spent_words else "open"


def wait_word(facts: Facts, now_ms: int) -> str:
    """How long a wait is named."""
    if not facts.named_ms:
        return "none"
    return "long" if facts.named_ms - now_ms > LONG_WAIT_MS else "short"


def classify(facts: Facts, now_ms: int, table: FailureTable) -> Failure:
    """The failure that an error answer means; an answer without a status is one inside a stream."""
    rule = table.first(facts, now_ms)
    scope: FailureScope = "" if rule.scope == "capability" else rule.scope
    is_quota = scope == "quota"
    until_ms = max(facts.retry_at_ms, facts.reset_at_ms) if is_quota else facts.named_ms
    return Failure(
        rule.kind,
        scope,
        until_ms,
        facts.message,
        facts.status,
        held_models(facts, table) if is_quota else "",
        {rule.window: Window(used_ratio=1.0, resets_at_ms=until_ms, status="rejected")} if rule.window else {},
        rule.proven,
        rule.refresh,
        facts.error_type,
    )


def held_models(facts: Facts, table: FailureTable) -> str:
    """The models that a spent quota holds: those that its claim is about, but always the one that was refused."""
    claim, model = facts.claim, facts.model.lower()
    held = table.held_by.get(claim)
    if held is None:
        held = family_of(model) if claim.startswith(WHOLE_CLAIM) and claim != WHOLE_CLAIM else ""
    return held if held in model else family_of(model)


def is_signature_refusal(failure: Failure) -> bool:
    """Whether the provider can't check the signature of a thought: without the thoughts it takes the request."""
    words = failure.message.lower()
    return failure.status == 400 and failure.scope == "request" and all(word in words for word in SIGNATURE_WORDS)
