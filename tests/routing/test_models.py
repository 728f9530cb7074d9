"""Which name a route is asked for: the tables of the original, and the user's own before them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.ledger.state import RouteLedger
from service.routing.models import choose_model, family_of, first_match, is_native, map_model
from service.settings import Provider, Route
from tests.support.routing_factories import NOW_MS, POLICY, A, S, Z, route_of

# Name asked, at Anthropic, at Z.AI: the original's effective table, but for names that a provider serves itself,
# which stay as they are.
TABLE = [
    ("claude-opus-4-8", "claude-opus-4-8", "glm-5.2"),
    ("claude-opus-4-7", "claude-opus-4-7", "glm-5.2"),
    ("claude-opus-4-5", "claude-opus-4-5", "glm-5.2"),
    ("claude-opus", "claude-opus", "glm-5.2"),
    ("claude-sonnet-4-6", "claude-sonnet-4-6", "glm-5.2"),
    ("claude-sonnet", "claude-sonnet", "glm-5.2"),
    ("claude-sonnet-4-20250514", "claude-sonnet-4-20250514", "glm-5.2"),
    ("claude-3-5-sonnet-latest", "claude-3-5-sonnet-latest", "glm-5.2"),
    ("claude-haiku-4-5-20251001", "claude-haiku-4-5-20251001", "glm-4.5-air"),
    ("claude-haiku-4-5", "claude-haiku-4-5", "glm-4.5-air"),
    ("claude-haiku", "claude-haiku", "glm-4.5-air"),
    ("claude-3-haiku-20240307", "claude-3-haiku-20240307", "glm-4.5-air"),
    ("CLAUDE-SONNET-4-6", "CLAUDE-SONNET-4-6", "glm-5.2"),
    ("Claude-Haiku-4-5", "Claude-Haiku-4-5", "glm-4.5-air"),
    ("glm-5.2", "claude-opus-4-8", "glm-5.2"),
    ("glm-5.2[1m]", "claude-opus-4-8", "glm-5.2[1m]"),
    ("glm-4.7-flash", "claude-opus-4-8", "glm-4.7-flash"),
    ("glm-4.6v", "claude-opus-4-8", "glm-4.6v"),
    ("glm-4-32b", "claude-opus-4-8", "glm-4-32b"),
    ("glm-4", "claude-opus-4-8", "glm-4"),
    ("glm-5-turbo", "claude-haiku-4-5", "glm-5-turbo"),
    ("glm-5v-turbo", "claude-haiku-4-5", "glm-5v-turbo"),
    ("glm-4.5-air", "claude-haiku-4-5", "glm-4.5-air"),
    ("GLM-4.5-Air", "claude-haiku-4-5", "GLM-4.5-Air"),
    ("gpt-4o", "gpt-4o", "gpt-4o"),
    ("constructor", "constructor", "constructor"),
    ("__proto__", "__proto__", "__proto__"),
    ("toString", "toString", "toString"),
]


@pytest.mark.parametrize(("asked", "anthropic", "zai"), TABLE, ids=[row[0] for row in TABLE])
def test_names_of_another_vendor_are_always_mapped(asked: str, anthropic: str, zai: str) -> None:
    """And those of the route's own vendor never; a name that nobody knows goes as it came."""
    assert [map_model(route, asked, POLICY) for route in (A, S, Z)] == [anthropic, anthropic, zai]


@pytest.mark.parametrize(
    ("model", "expected"),
    [("claude-x", True), ("CLAUDE-X", True), ("glm-5", False), ("", False), ("my-claude", False)],
)
def test_a_family_is_the_beginning_of_a_name(model: str, expected: bool) -> None:  # noqa: FBT001
    """In any case of letters."""
    assert is_native(A.provider, model) is expected


def test_a_provider_without_families_serves_none_itself() -> None:
    """Then its model map decides alone."""
    assert not is_native(Provider(id="x", title="X", base_url="https://x.example"), "claude-opus")


# -- the user's own


def test_the_users_map_applies_at_once() -> None:
    """To names that the provider serves itself, too; the new name is then mapped like any other."""
    policy = replace(POLICY, model_map={"claude-sonnet-4-6": "claude-sonnet-4-20250514", "glm-5": "claude-haiku-4-5"})
    assert map_model(A, "claude-sonnet-4-6", policy) == "claude-sonnet-4-20250514"
    assert map_model(A, "glm-5", policy) == "claude-haiku-4-5"
    assert map_model(Z, "glm-5", policy) == "glm-4.5-air"
    assert map_model(Z, "claude-opus", policy) == "glm-5.2"


def test_the_routes_own_map_is_final() -> None:
    """It stands before MODEL_FALLBACK_MAP and before the provider's patterns."""
    route = route_of("zai", Z.provider, model_map={"claude-opus": "claude-like", "x": "y"})
    policy = replace(POLICY, model_map={"claude-opus": "no", "x": "no", "z": "glm-9"})
    assert [map_model(route, asked, policy) for asked in ("claude-opus", "x", "z")] == ["claude-like", "y", "glm-9"]


@pytest.mark.parametrize(
    ("pattern", "model", "fits"),
    [
        ("claude*", "claude-opus", True),
        ("Claude*", "CLAUDE-opus", True),
        ("claude-opus", "claude-opus", True),
        ("claude-opus", "claude-opus-4-8", False),
        ("glm-5.2[1m]", "glm-5.2[1m]", True),
        ("glm-5.2[1m]", "glm-5.21", False),
        ("*[1m]", "claude-opus-4-8[1m]", True),
    ],
)
def test_patterns_know_stars_alone(pattern: str, model: str, fits: bool) -> None:  # noqa: FBT001
    """Brackets are part of names; the case of letters is none."""
    assert first_match({pattern: "target"}, model) == ("target" if fits else None)


@given(st.text(max_size=20))
def test_any_name_comes_to_a_name(asked: str) -> None:
    """Mapping never fails, and never loses the field."""
    for route in (A, S, Z):
        assert isinstance(map_model(route, asked, POLICY), str)
        assert map_model(route, asked, POLICY) or not asked


# -- names that a provider turned out to lack


def lacks(*models: str, ago_ms: int = 1_000) -> RouteLedger:
    """A provider that denied these models."""
    return RouteLedger(missing_models=dict.fromkeys(models, NOW_MS - ago_ms))


@pytest.mark.parametrize(
    ("route", "asked", "denied", "expected"),
    [
        (A, "claude-sonnet", (), "claude-sonnet"),
        (A, "claude-sonnet", ("claude-sonnet",), "claude-sonnet-4-6"),
        (A, "claude-sonnet", ("claude-sonnet", "claude-sonnet-4-6"), "claude-sonnet-5"),
        (A, "claude-haiku-4-5", ("claude-haiku-4-5",), "claude-haiku-4-5-20251001"),
        (A, "claude-opus-4-6", ("claude-opus-4-6",), "claude-opus-4-8"),
        (A, "claude-opus-4-6", ("claude-opus-4-6", "claude-opus-4-8"), None),
        (A, "gpt-4o", ("gpt-4o",), None),
        (A, "glm-5", ("claude-opus-4-8",), None),
        (Z, "glm-4", ("glm-4",), "glm-5.2"),
    ],
)
def test_a_denied_model_has_a_stand_in(route: Route, asked: str, denied: tuple[str, ...], expected: str | None) -> None:
    """The documented map of the original, step by step; without another name the route does not serve the model."""
    assert choose_model(route, asked, lacks(*denied), POLICY, NOW_MS) == expected


def test_a_denial_is_remembered_for_an_hour() -> None:
    """Then the model is asked for again: it may have come meanwhile."""
    for ago_ms, expected in ((3_599_999, "claude-opus-4-8"), (3_600_000, "claude-opus")):
        assert choose_model(A, "claude-opus", lacks("claude-opus", ago_ms=ago_ms), POLICY, NOW_MS) == expected


def test_a_fallback_map_that_goes_round_ends() -> None:
    """Two names for each other, both denied: the route does not serve the model."""
    provider = replace(A.provider, model_fallback={"a": "b", "b": "a", "c": "c"})
    route = route_of("x", provider)
    assert choose_model(route, "a", lacks("a", "b"), POLICY, NOW_MS) is None
    assert choose_model(route, "c", lacks("c"), POLICY, NOW_MS) is None


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("claude-opus-4-8", "opus"),
        ("claude-3-5-Sonnet-20241022", "sonnet"),
        ("us.anthropic.claude-haiku-4-5-v1:0", "haiku"),
        ("glm-5.2[1m]", "glm"),
        ("claude-ab-fable-5", "fable"),
        ("claude-3.5.1-ab-opus", "opus"),
        ("O3-4o-Mini", "mini"),
        ("O3-4O", "o3-4o"),
        ("a" * 50, "a" * 40),
    ],
)
def test_the_family_is_the_first_word_of_three_letters(model: str, family: str) -> None:
    """Neither a number nor a part of one; the whole name in small letters where there is none, bounded."""
    assert family_of(model) == family


@pytest.mark.parametrize(("ago_ms", "model"), [(3_599_999, None), (3_600_000, "m")])
def test_a_denied_model_is_asked_for_again_after_an_hour(ago_ms: int, model: str | None) -> None:
    ledger = RouteLedger(missing_models={"m": NOW_MS - ago_ms})
    assert choose_model(A, "m", ledger, POLICY, NOW_MS) == model
