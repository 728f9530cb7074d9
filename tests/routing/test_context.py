"""What is known of models, and which of them can't hold a prompt."""

import pytest
from msgspec.structs import replace

from service.routing.context import limits_of, smallest_context_tokens, smallest_on, too_large_for
from service.settings import ModelLimits, Route, from_variables
from tests.support.routing_factories import OTHER, POLICY, A, Z

KNOWN = from_variables({"CCPROXY_HOME": "/nowhere"}).policy
SMALL = ModelLimits(context_tokens=1_000)


@pytest.mark.parametrize(
    ("model", "context_tokens", "reads_images"),
    [
        ("claude-opus-5-5", 1_000_000, True),
        ("claude-opus-4-8", 1_000_000, True),
        ("claude-sonnet-4-20250514", 200_000, True),
        ("claude-sonnet-4-5", 200_000, True),
        ("claude-sonnet-4-6", 1_000_000, True),
        ("claude-opus-4-20250514", 200_000, True),
        ("claude-opus-4-5-20251101", 200_000, True),
        ("claude-haiku-4-5-20251001", 200_000, True),
        ("glm-4.5-air", 131_072, False),
        ("GLM-4.5-Air", 131_072, False),
        ("glm-4.5v", 65_536, True),
        ("glm-4.6", 204_800, False),
        ("glm-4.6v-flash", 131_072, True),
        ("glm-5", 204_800, False),
        ("glm-5v-turbo", 204_800, True),
        ("glm-5.2[1m]", 1_048_576, False),
        ("glm-5.3", 1_048_576, False),
        ("glm-5.3-flash", 1_048_576, None),
        ("gpt-4o", None, None),
    ],
)
def test_what_is_known_of_a_model(model: str, context_tokens: int | None, *, reads_images: bool | None) -> None:
    """By name or pattern, whatever the case; of others nothing."""
    limits = limits_of(model, KNOWN)
    assert (limits.context_tokens, limits.reads_images) == (context_tokens, reads_images)


def test_each_thing_is_said_by_the_first_that_says_it() -> None:
    """An entry that is silent about it leaves it to the next."""
    models = (("a-1", ModelLimits(reads_images=True)), ("a-*", SMALL), ("*", ModelLimits(9, 9, reads_images=False)))
    policy = replace(POLICY, models=models)
    assert limits_of("a-1", policy) == ModelLimits(1_000, 9, reads_images=True)
    assert limits_of("b", policy) == ModelLimits(9, 9, reads_images=False)
    assert smallest_context_tokens(policy) == 9
    assert smallest_context_tokens(POLICY) == 0


@pytest.mark.parametrize(
    ("chain", "asked", "smallest"),
    [
        ((A, Z), "claude-haiku-4-5", 131_072),
        ((A, Z), "claude-opus-5-5", 1_048_576),
        ((A,), "claude-haiku-4-5", 400_000),
        ((replace(Z, off="no key"), A), "claude-haiku-4-5", 400_000),
        ((OTHER,), "gpt-4o", 0),
        ((), "claude-opus-5-5", 0),
    ],
)
def test_only_the_models_that_would_be_asked_count(chain: tuple[Route, ...], asked: str, smallest: int) -> None:
    """A long conversation of a large model is not measured for the sake of a small one that nobody asks."""
    assert smallest_on(chain, asked, KNOWN) == smallest


@pytest.mark.parametrize(
    ("route", "asked", "sent", "least_tokens", "trimmed", "passed"),
    [
        pytest.param(Z, "claude-x", "glm-1", 1_000, False, True, id="at the limit"),
        pytest.param(Z, "claude-x", "glm-1", 1_001, False, False, id="over it, at another vendor"),
        pytest.param(Z, "claude-x", "glm-1", 1_001, True, False, id="which trims nothing"),
        pytest.param(Z, "glm-0", "glm-1", 2_000, False, True, id="its own family is asked"),
        pytest.param(Z, "glm-0", "glm-1", 2_001, False, False, id="but for what is twice as large"),
        pytest.param(A, "claude-1", "claude-1", 2_001, True, True, id="unless it trims the conversation itself"),
        pytest.param(OTHER, "own-1", "own-1", 2_000, False, True, id="so is a provider that is asked by name"),
        pytest.param(Z, "claude-x", "new", 10**9, False, True, id="an unknown model has no limit"),
        pytest.param(Z, "claude-x", "glm-1", 0, False, True, id="too small to matter"),
    ],
)
def test_who_can_not_hold_a_prompt(
    route: Route,
    asked: str,
    sent: str,
    least_tokens: int,
    *,
    trimmed: bool,
    passed: bool,
) -> None:
    """Another vendor's model by its window; a provider's own model only when there is no doubt."""
    names = ("glm-1", "claude-1", "own-1")
    policy = replace(POLICY, models=tuple((name, SMALL) for name in names))
    reason = too_large_for(route, asked, sent, least_tokens, policy, trimmed=trimmed)
    assert (reason == "") == passed
