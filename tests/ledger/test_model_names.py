"""One normal form of a model's name: spellings that mean one model are one for limits, maps and prices."""

import pytest

from service.ledger.events import TokenCounts
from service.ledger.model_names import canonical
from service.ledger.price import cost_nusd
from service.ledger.state import ClientKey
from service.routing.keys import allows_model
from service.routing.models import map_model
from service.settings import load

SPELLINGS = (
    "claude-opus-4-8",
    "Claude-Opus-4-8",
    "claude-opus-4-8-20260115",
    "claude-opus-4-8@20260115",
    "claude-opus-4-8-latest",
    "claude-opus-4-8[1m]",
    "claude-opus-4-8-20260115[1m]",
    "anthropic/claude-opus-4-8",
    "openrouter/anthropic/claude-opus-4-8",
    "anthropic.claude-opus-4-8-20260115-v1:0",
    "us.anthropic.claude-opus-4-8-v1:0",
    "us-gov.anthropic.claude-opus-4-8-v1",
    "global.anthropic.claude-opus-4-8",
    "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-opus-4-8-v1:0",
    "publishers/anthropic/models/claude-opus-4-8@20260115",
    "projects/p/locations/us-east5/publishers/anthropic/models/claude-opus-4-8",
    "vertex_ai/claude-opus-4-8@default",
    "openrouter/anthropic/claude-opus-4.8",
    "Anthropic/Claude-Opus-4.8[1M]",
)


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_of_one_model_decide_alike(name: str) -> None:
    """A key's list, a model map and the price take all of them for the same model."""
    assert canonical(name) == "claude-opus-4-8"
    settings = load(None, {"ZAI_API_KEY": "k" * 32, "MODEL_FALLBACK_MAP": "claude-opus-4-8=claude-sonnet-4-6"})
    [zai] = [route for route in settings.routes if route.id == "zai"]
    assert allows_model(ClientKey(name="ann", sha256="", models=("claude-opus-4-8",)), name)
    assert not allows_model(ClientKey(name="ann", sha256="", models=("claude-haiku-*",)), name)
    assert map_model(zai, name, settings.policy) == map_model(zai, "claude-opus-4-8", settings.policy) != name
    used = TokenCounts(input=1000, output=1000)
    assert cost_nusd(used, name, settings.prices) == cost_nusd(used, "claude-opus-4-8", settings.prices) is not None


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("glm-5.2", "glm-5.2"),
        ("zai/GLM-4.5-air", "glm-4.5-air"),
        ("publishers/zai-org/models/GLM-4.6", "glm-4.6"),
        ("evil/publishers/anthropic/models/claude-opus-4-8", "evil/publishers/anthropic/models/claude-opus-4-8"),
        ("evil/claude-opus-4-8", "evil/claude-opus-4-8"),
        ("claude-opus-4-8/claude-haiku-4-6", "claude-opus-4-8/claude-haiku-4-6"),
        ("[1m]", "[1m]"),
        ("", ""),
    ],
)
def test_nothing_else_is_taken_off(name: str, form: str) -> None:
    """What is no known prefix or suffix is part of the name, so that no model passes for another one."""
    assert canonical(name) == form
