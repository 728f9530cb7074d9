"""Context windows and other known limits of models. Pure; the limits are part of the policy.

Not here: a request's size (`service.protocol.token_estimate`), and handling of one that is too large (`failover`).

Rules
- An unknown model has no limit: no check is better than a wrong one.
- A route is skipped only if the lower estimate of the request exceeds the model's window.
- A provider of the model's own family knows its own models better: it is skipped only above twice the window, and never
  if it was asked to trim the conversation itself (`context_management`).
"""

from collections.abc import Sequence

from service.routing.models import fits, is_native, map_model
from service.settings import ModelLimits, Policy, Route

CERTAIN_FACTOR = 2
"""Above its window by this factor, a provider need not be asked about its own model."""


def limits_of(model: str, policy: Policy) -> ModelLimits:
    """Return a model's known limits: for each one, the first matching entry that has it."""
    context_tokens = output_tokens = reads_images = None
    for pattern, limits in policy.models:
        if fits(pattern, model):
            context_tokens = limits.context_tokens if context_tokens is None else context_tokens
            output_tokens = limits.output_tokens if output_tokens is None else output_tokens
            reads_images = limits.reads_images if reads_images is None else reads_images
    return ModelLimits(context_tokens, output_tokens, reads_images)


def smallest_context_tokens(policy: Policy) -> int:
    """Return the smallest window of all known models, 0 if none is known."""
    return min((limits.context_tokens for _, limits in policy.models if limits.context_tokens), default=0)


def smallest_on(chain: Sequence[Route], asked: str, policy: Policy) -> int:
    """Return the smallest window of the models that these routes would use, 0 if none is known."""
    models = ((route, map_model(route, asked, policy)) for route in chain if not route.off)
    known = (held_tokens(route, asked, sent, policy) for route, sent in models)
    return min((most for most in known if most is not None), default=0)


def held_tokens(route: Route, asked: str, sent: str, policy: Policy) -> int | None:
    """Return the number of tokens above which a route is skipped; None: never."""
    most_tokens = limits_of(sent, policy).context_tokens
    if most_tokens is None:
        return None
    return most_tokens * CERTAIN_FACTOR if is_own_family(route, asked, sent) else most_tokens


def is_own_family(route: Route, asked: str, sent: str) -> bool:
    """True if the provider gets the requested model, or another one of its own."""
    return sent == asked or is_native(route.provider, asked)


def too_large_for(route: Route, asked: str, sent: str, least_tokens: int, policy: Policy, *, trimmed: bool) -> str:
    """Explain in Anthropic's wording why this route's model can't hold the request; "" if it can."""
    if not least_tokens or (trimmed and is_own_family(route, asked, sent)):
        return ""
    most_tokens = held_tokens(route, asked, sent, policy)
    if most_tokens is None or least_tokens <= most_tokens:
        return ""
    window_tokens = limits_of(sent, policy).context_tokens
    return f"prompt is too long: at least {least_tokens} tokens > {window_tokens} maximum of {sent}"
