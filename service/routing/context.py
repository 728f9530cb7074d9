"""Whether a model can hold a request, and what else is known of models. Pure; what is known lies in the policy.

Not here: how large a request is (`service.protocol.token_estimate`), or what happens to one that is too large
(`failover`).

Rules
- A model that nobody knows has no limit: no check is better than a wrong one.
- A route is passed over only when the least that the request can have is more than its model can hold.
- A provider of the model's own family is the better judge of its own model: it is passed over only from twice that on,
  and never when it was asked to trim the conversation itself (`context_management`).
"""

from collections.abc import Sequence

from service.routing.models import fits, is_native, map_model
from service.settings import ModelLimits, Policy, Route

CERTAIN_FACTOR = 2
"""Above its window by this factor, a provider need not be asked about its own model."""


def limits_of(model: str, policy: Policy) -> ModelLimits:
    """What is known of a model: of each thing, what the first entry that fits says."""
    context_tokens = output_tokens = reads_images = None
    for pattern, limits in policy.models:
        if fits(pattern, model):
            context_tokens = limits.context_tokens if context_tokens is None else context_tokens
            output_tokens = limits.output_tokens if output_tokens is None else output_tokens
            reads_images = limits.reads_images if reads_images is None else reads_images
    return ModelLimits(context_tokens, output_tokens, reads_images)


def smallest_context_tokens(policy: Policy) -> int:
    """No request below this is too large for any model; 0: nothing is known of any."""
    return min((limits.context_tokens for _, limits in policy.models if limits.context_tokens), default=0)


def smallest_on(chain: Sequence[Route], asked: str, policy: Policy) -> int:
    """No request below this is too large for the models that these routes would be asked for; 0: none is known."""
    models = ((route, map_model(route, asked, policy)) for route in chain if not route.off)
    known = (held_tokens(route, asked, sent, policy) for route, sent in models)
    return min((most for most in known if most is not None), default=0)


def held_tokens(route: Route, asked: str, sent: str, policy: Policy) -> int | None:
    """From how many tokens on a route is passed over; None: never."""
    most_tokens = limits_of(sent, policy).context_tokens
    if most_tokens is None:
        return None
    return most_tokens * CERTAIN_FACTOR if is_own_family(route, asked, sent) else most_tokens


def is_own_family(route: Route, asked: str, sent: str) -> bool:
    """Whether the provider is asked for what the client asked for, or for another of its own models."""
    return sent == asked or is_native(route.provider, asked)


def too_large_for(route: Route, asked: str, sent: str, least_tokens: int, policy: Policy, *, trimmed: bool) -> str:
    """Why the model that this route is sent can't hold the request, in Anthropic's words for it; "" when it may."""
    if not least_tokens or (trimmed and is_own_family(route, asked, sent)):
        return ""
    most_tokens = held_tokens(route, asked, sent, policy)
    if most_tokens is None or least_tokens <= most_tokens:
        return ""
    window_tokens = limits_of(sent, policy).context_tokens
    return f"prompt is too long: at least {least_tokens} tokens > {window_tokens} maximum of {sent}"
