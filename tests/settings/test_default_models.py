"""The models that the built-in maps name exist, have a price and a context window: lists that must agree, do."""

from typing import get_args

import pytest
from anthropic.resources.messages import DEPRECATED_MODELS
from anthropic.types.model import Model

from service.ledger.events import TokenCounts
from service.ledger.model_names import canonical
from service.ledger.price import cost_nusd
from service.routing.context import limits_of
from service.settings import ANTHROPIC, ZAI, Provider, from_variables

SETTINGS = from_variables({"CCPROXY_HOME": "/nowhere"})
OFFERED = set(get_args(get_args(Model)[0])) - DEPRECATED_MODELS.keys()
"""Anthropic's models, by its SDK."""
TARGETS = [
    (provider, target)
    for provider in (ANTHROPIC, ZAI)
    for target in sorted({*provider.model_map.values(), *provider.model_fallback.values()})
]
PRICED = sorted(name for name, price in SETTINGS.prices.models.items() if price.context_tokens)


@pytest.mark.parametrize(("provider", "target"), TARGETS, ids=[target for _, target in TARGETS])
def test_a_default_target_exists_and_is_known(provider: Provider, target: str) -> None:
    """What nobody asked for by name must not be free, nor be sent more than it can hold."""
    assert canonical(target).startswith(provider.families)
    if provider is ANTHROPIC:
        assert target in OFFERED
    assert cost_nusd(TokenCounts(1_000, 1_000), target, SETTINGS.prices)
    assert SETTINGS.prices.models[canonical(target)].provider == provider.id
    assert limits_of(target, SETTINGS.policy).context_tokens


@pytest.mark.parametrize("model", sorted(OFFERED))
def test_whatever_anthropic_offers_has_a_price_and_a_window(model: str) -> None:
    """As far as its SDK says: an upgrade of the lock says what changed."""
    assert cost_nusd(TokenCounts(1_000, 1_000), model, SETTINGS.prices)
    assert limits_of(model, SETTINGS.policy).context_tokens


@pytest.mark.parametrize("model", PRICED)
def test_the_lists_of_windows_agree(model: str) -> None:
    """What the price list says of a model's window is at most what routing holds it to; of Claude exactly that."""
    listed, held = SETTINGS.prices.models[model].context_tokens, limits_of(model, SETTINGS.policy).context_tokens
    assert held is not None
    assert listed <= held <= 1.05 * listed
    if SETTINGS.prices.models[model].provider == "anthropic":
        assert held == listed
