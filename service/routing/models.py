"""Chooses the model name to send to a route.

Rules, the first that applies:
1. The user's maps apply first: the route's own map is final; MODEL_FALLBACK_MAP replaces the requested name, and the
   result is mapped like any other.
2. A name of a family that the provider serves stays.
3. The provider's model map: names of another vendor, by pattern.
4. Any other name stays: the provider knows better.
Then, if the provider denied that name within the last hour, its fallback map supplies another; without one, the route
does not serve the model. Names are compared in canonical form (`ledger.model_names`), patterns also with the name as
written.
"""

import re
from collections.abc import Callable, Mapping
from fnmatch import translate
from functools import lru_cache

from service.ledger.model_names import canonical, is_of
from service.ledger.state import RouteLedger
from service.settings import Policy, Provider, Route

FAMILY_CHARS = 40
"""Clients can invent names."""


def is_native(provider: Provider, model: str) -> bool:
    """True if the provider itself serves the name's family."""
    return is_of(model, provider.families) if provider.families else False


def map_model(route: Route, asked: str, policy: Policy) -> str:
    """Return the name to send to this route, from the settings alone."""
    if route.model_map and (own := target_of(route.model_map, asked)):
        return own
    chosen = (policy.model_map and target_of(policy.model_map, asked)) or asked
    if is_native(route.provider, chosen):
        return chosen
    return first_match(route.provider.model_map, chosen) or chosen


def target_of(names: Mapping[str, str], model: str) -> str | None:
    """Look up a name as written, then in canonical form."""
    if model in names:
        return names[model]
    wanted = canonical(model)
    return next((target for name, target in names.items() if canonical(name) == wanted), None)


def first_match(patterns: Mapping[str, str], model: str) -> str | None:
    """Return the target of the first matching pattern."""
    return next((target for pattern, target in patterns.items() if fits(pattern, model)), None)


@lru_cache(maxsize=1024)
def fits(pattern: str, model: str) -> bool:
    """True if a pattern matches a name as written (ignoring case) or in canonical form."""
    match = matcher(pattern)
    return bool(match(model.lower()) or match(canonical(model)))


@lru_cache(maxsize=1024)
def matcher(pattern: str) -> Callable[[str], object]:
    """Return a cached matcher for lower-case names. Patterns are few, since they come from settings."""
    return re.compile(translate(plain_but_stars(pattern))).match


def plain_but_stars(pattern: str) -> str:
    """Return a pattern in which brackets are literal: names such as `glm-5.2[1m]` have them."""
    return pattern.lower().replace("[", "[[]")


def is_missing(ledger: RouteLedger, model: str, policy: Policy, now_ms: int, reset_ms: int = 0) -> bool:
    """True if the provider recently denied this model, and no operator has reset the route since."""
    denied_ms = ledger.missing_models.get(model, 0)
    return denied_ms > reset_ms and now_ms - denied_ms < policy.missing_model_ms


def family_of(model: str) -> str:
    """Return the word in a model's name that identifies its family, such as "opus"; the whole name if there is none."""
    words = canonical(model).removeprefix("claude-").split("-")
    return next((word for word in words if word.isalpha() and len(word) > 2), model.lower())[:FAMILY_CHARS]


def fallback_model(route: Route, model: str) -> str | None:
    """Return the fallback for a model that the provider lacks; None if there is none."""
    found = target_of(route.provider.model_fallback, model)
    return found if found != model else None


def choose_model(
    route: Route, asked: str, ledger: RouteLedger, policy: Policy, now_ms: int, reset_ms: int = 0
) -> str | None:
    """Return the name to send to this route, or None if it lacks the model and every fallback."""
    model: str | None = map_model(route, asked, policy)
    if not ledger.missing_models:
        return model
    for _ in range(len(route.provider.model_fallback) + 1):  # ends even if the map has a cycle
        if model is None or not is_missing(ledger, model, policy, now_ms, reset_ms):
            return model
        model = fallback_model(route, model)
    return None
