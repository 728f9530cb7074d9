"""Classifies a failed attempt: kind and scope, from plain facts. Reactions are in `failover`.

The classification is data: the user's own rules, then `failures.toml` beside this file.

Rules
- The first matching rule counts.
- The end of a wait is the one that the provider names: for a quota the later of its wait and its reset; else its wait
  alone, since the reset of a subscription's window, which comes with every response, does not concern a throttle.
- A used-up window of some models blocks those alone; an unknown claim blocks the model that was sent.
"""

import re
from collections.abc import Callable, Iterable
from operator import attrgetter

from msgspec import Struct

from service.ledger.events import FailureKind, FailureScope, Window
from service.routing.error_words import unquoted, without_echoes
from service.routing.models import family_of
from service.settings.failure_rules import Dialect, FailureRule, Rules

PATH_FIRST = re.compile(r"\s*[a-z_]\w*(?:\.(?:\d+|[a-z_]\w*)|\[\d+\])+")
"""How validators begin: `messages.0.content.1.text: ...`."""
LONG_WAIT_MS = 60_000
"""A 429 with a longer wait means that a limit is used up."""
WHOLE_CLAIM = "seven_day"
"""Claims that begin with it and continue concern some models."""

REFUSED_THOUGHTS = (
    ("signature", "thinking"),  # Invalid `signature` in `thinking` block
    ("`data`", "redacted_thinking"),  # Invalid `data` in `redacted_thinking` block
    ("thinking", "cannot be modified"),  # ... blocks in the latest assistant message cannot be modified
    ("thinking is disabled", "cannot contain"),
    ("signature", "compaction"),
)
"""The words of errors about thoughts that the provider can't verify (public issues of several proxies and clients)."""
MISSING_THOUGHT = ("expected", "thinking", "but found")
"""As in "Expected `thinking` or `redacted_thinking`, but found `tool_use`" (public issues): thinking is on, and a turn
does not begin with a thinking block."""
OTHER_ACCOUNT = ("organization_binding_mismatch", "bound to a different organization")
"""Thoughts of some models are valid in the account that made them alone (Anthropic's documentation)."""


CLIENTS_SCOPES = frozenset(("request", "model"))
"""Scopes that take nothing from other requests, so that nobody gains by writing a rule's words."""
Texts = Callable[[], Iterable[str]]
"""Reads the texts of a request, in lower case; called only where a rule's words fit."""


class Facts(Struct, frozen=True):
    """Facts from an upstream's response; see `service.providers.error_facts`.

    `status` 0: no response, or an error inside a stream. `retry_at_ms` and `reset_at_ms` are Unix time, 0 if none was
    named: the end of the requested wait, and of the named limit. `unified_status` and `claim` are a subscription's;
    `model` is the one that was sent. `is_page`: it is a web page or plain text, no JSON.
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
    is_page: bool = False

    @property
    def named_ms(self) -> int:
        """The end of the wait that concerns this response; 0 if none was named."""
        return self.retry_at_ms or (0 if self.unified_status else self.reset_at_ms)


class Failure(Struct, frozen=True):
    """Kind and scope of a failed attempt. `retry_at_ms` 0: no wait was named.

    `holds` is a substring of the models that wait, "" for all. `windows` are those that the error reports as used up,
    where headers don't. `proven` false: no rule says that it is the request's own fault. `refresh`: the token is worth
    renewing. `scope` "": nobody's fault, and another route may serve the request. `error_type` and `error_code` are the
    provider's.
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
    error_code: str = ""


class FailureTable:
    """Rules indexed by status and code, with a cache."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules.failures
        self._codes = {code for rule in rules.failures for code in rule.codes}
        self._found: dict[tuple[int, str], tuple[FailureRule, ...]] = {}
        self.spent_words = frozenset(rules.spent_words)
        self.held_by = {claim: window.holds for window in rules.windows for claim in window.claims}

    def first(self, facts: Facts, now_ms: int, texts: Texts = tuple) -> FailureRule:
        """Return the first matching rule; the last packaged one matches everything.

        A client may have written what the message quotes, what follows a path into its request, and what stands in
        `texts`, those of the request: none of this is matched.
        """
        message = facts.message.lower()
        words = providers_own(message)

        def matches(rule: FailureRule) -> bool:
            if not fits(rule, facts, words, self.spent_words, now_ms):
                return False
            if not rule.words or rule.scope in CLIENTS_SCOPES:
                return True
            phrases = [phrase.lower() for phrase in (*rule.words, *rule.also)]
            left = providers_own(without_echoes(message, phrases, texts()))
            return has_any(rule.words, left) and has_any(rule.also, left)

        return next(rule for rule in self._left(facts) if matches(rule))

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


def providers_own(message: str) -> str:
    """Return the words that a provider has not taken from a request: neither quoted, nor behind a path into it."""
    words = unquoted(message)
    path = PATH_FIRST.match(words)
    return path[0] if path else words


def fits(rule: FailureRule, facts: Facts, words: str, spent_words: frozenset[str], now_ms: int) -> bool:
    """True if a response with a matching status and code meets a rule's other conditions."""
    return (
        all(is_among(value_of(facts), values_of(rule)) for value_of, values_of in LISTS)
        and says(rule, facts, words)
        and (rule.should_retry is None or rule.should_retry == facts.should_retry)
        and (not rule.unified or rule.unified == unified_word(facts, spent_words))
        and (not rule.wait or rule.wait == wait_word(facts, now_ms))
    )


def says(rule: FailureRule, facts: Facts, words: str) -> bool:
    """True if an error's type and words are those of a rule."""
    if not has_form(rule, facts):
        return False
    is_of_type = is_among(facts.error_type, rule.types) or is_among(facts.error_code, rule.types)
    return is_of_type and has_any(rule.words, words) and has_any(rule.also, words)


LISTS: tuple[tuple[Callable[[Facts], str], Callable[[FailureRule], tuple[str, ...]]], ...] = (
    (attrgetter("dialect"), attrgetter("dialects")),
    (attrgetter("provider"), attrgetter("providers")),
    (attrgetter("claim"), attrgetter("claims")),
)
"""A fact, and the values that a rule accepts."""


def is_among(value: str, values: tuple[str, ...]) -> bool:
    """True if a value is accepted, by name or by a prefix that ends in a star; an empty list accepts all."""
    return not values or value in values or any(known[-1:] == "*" and value.startswith(known[:-1]) for known in values)


def has_any(words: tuple[str, ...], message: str) -> bool:
    """True if the message (in lower case) contains one of the words; no words accept all."""
    return not words or any(word.lower() in message for word in words)


def has_form(rule: FailureRule, facts: Facts) -> bool:
    """True if the response is empty, or a page, where the rule asks for that."""
    is_empty = not (facts.message or facts.error_type)
    return (is_empty or not rule.empty) and (facts.is_page or not rule.page)


def unified_word(facts: Facts, spent_words: frozenset[str]) -> str:
    """Return a subscription's status as spent, open, or none."""
    if not facts.unified_status:
        return ""
    return "spent" if facts.unified_status in spent_words else "open"


def wait_word(facts: Facts, now_ms: int) -> str:
    """Return the length class of a named wait."""
    if not facts.named_ms:
        return "none"
    return "long" if facts.named_ms - now_ms > LONG_WAIT_MS else "short"


def classify(facts: Facts, now_ms: int, table: FailureTable, texts: Texts = tuple) -> Failure:
    """Return the failure that an error response means; one without a status is inside a stream. `texts`: see
    `FailureTable.first`."""
    rule = table.first(facts, now_ms, texts)
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
        facts.error_code,
    )


def held_models(facts: Facts, table: FailureTable) -> str:
    """Return the models that a used-up quota blocks: those that its claim concerns, but always the rejected one."""
    claim, model = facts.claim, facts.model.lower()
    held = table.held_by.get(claim)
    if held is None:
        held = family_of(model) if claim.startswith(WHOLE_CLAIM) and claim != WHOLE_CLAIM else ""
    return held if held in model else family_of(model)


def is_thought_refusal(failure: Failure) -> bool:
    """True if the provider can't verify a thought: without thinking blocks it accepts the request."""
    if not is_request_refusal(failure):
        return False
    words = failure.message.lower()
    return is_binding_mismatch(failure) or any(all(word in words for word in form) for form in REFUSED_THOUGHTS)


def lacks_thought(failure: Failure) -> bool:
    """True if the provider misses a thinking block: with thinking turned off it accepts the request."""
    words = failure.message.lower()
    return is_request_refusal(failure) and all(word in words for word in MISSING_THOUGHT)


def is_binding_mismatch(failure: Failure) -> bool:
    """True if a thought is refused because another account has made it."""
    words = f"{failure.error_type} {failure.error_code} {failure.message}".lower()
    return is_request_refusal(failure) and any(form in words for form in OTHER_ACCOUNT)


def is_request_refusal(failure: Failure) -> bool:
    """True if a provider has refused the request as it is."""
    return failure.status == 400 and failure.scope == "request"
