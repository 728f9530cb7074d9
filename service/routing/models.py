"""Which model name a route is asked for.

Rules, the first that fits:
1. What the user set applies at once: the route's own map is final; MODEL_FALLBACK_MAP puts another name in place of the
   one asked, which is then mapped like any other.
2. A name of a family that the provider serves stays as it is.
3. The provider's model map: names of another vendor, by pattern.
4. Any other name stays as it is: the provider knows better.
Then, when the provider denied that name within the last hour, its fallback map names another; without one, the route
does not serve the model.
Names are compared in their normal form (`ledger.model_names`), patterns with the name as it was written, too.
"""

import re
from collections.abc import Callable, Mapping
from fnmatch import translate
from functools import lru_cache

from service.ledger.model_names import canonical, is_of
from service.ledger.state import RouteLedger
from service.settings import Policy, Provider, Route

FAMILY_CHARS = 40
"""Names are the client's to invent."""


def is_native(provider: Provider, model: str) -> bool:
    """Whether a name belongs to a family that the provider serves itself."""
    return is_of(model, provider.families) if provider.families else False


def map_model(route: Route, asked: str, policy: Policy) -> str:
    """The name to send to this route, as far as settings tell."""
    if route.model_map and (own := target_of(route.model_map, asked)):
        return own
    chosen = (policy.model_map and target_of(policy.model_map, asked)) or asked
    if is_native(route.provider, chosen):
        return chosen
    return first_match(route.provider.model_map, chosen) or chosen


def target_of(names: Mapping[str, str], model: str) -> str | None:
    """What a map of names has for this one: as it is written, else in normal form."""
    if model in names:
        return names[model]
    wanted = canonical(model)
    return next((target for name, target in names.items() if canonical(name) == wanted), None)


def first_match(patterns: Mapping[str, str], model: str) -> str | None:
    """The target of the first pattern that fits."""
    return next((target for pattern, target in patterns.items() if fits(pattern, model)), None)


def fits(pattern: str, model: str) -> bool:
    """Whether a pattern fits a name as it was written, whatever the case, or in normal form."""
    match = matcher(pattern)
    return bool(match(model.lower()) or match(canonical(model)))


@lru_cache(maxsize=1024)
def matcher(pattern: str) -> Callable[[str], object]:
    """Tells whether a name in small letters fits a pattern. Patterns are the settings': few, and asked often."""
    return re.compile(translate(plain_but_stars(pattern))).match


def plain_but_stars(pattern: str) -> str:
    """A pattern in which brackets mean themselves: names such as `glm-5.2[1m]` have them."""
    return pattern.lower().replace("[", "[[]")


def is_missing(ledger: RouteLedger, model: str, policy: Policy, now_ms: int) -> bool:
    """Whether the provider denied this model lately."""
    denied_ms = ledger.missing_models.get(model)
    return denied_ms is not None and now_ms - denied_ms < policy.missing_model_ms


def family_of(model: str) -> str:
    """The word in a model's name that tells its family, such as "opus"; the whole name when there is none."""
    words = canonical(model).removeprefix("claude-").split("-")
    return next((word for word in words if word.isalpha() and len(word) > 2), model.lower())[:FAMILY_CHARS]


def fallback_model(route: Route, model: str) -> str | None:
    """What to ask for instead of a model that the provider lacks; None when nothing is known."""
    found = target_of(route.provider.model_fallback, model)
    return found if found != model else None


def choose_model(route: Route, asked: str, ledger: RouteLedger, policy: Policy, now_ms: int) -> str | None:
    """The name to send to this route, or None when it lacks the model and every stand-in."""
    model: str | None = map_model(route, asked, policy)
    if not ledger.missing_models:
        return model
    for _ in range(len(route.provider.model_fallback) + 1):  # a map that goes round ends here
        if model is None or not is_missing(ledger, model, policy, now_ms):
            return model
        model = fallback_model(route, model)
    return None
