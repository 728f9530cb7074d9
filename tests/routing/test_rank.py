"""Which routes a request may take, in which order, and why not the others."""

from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.ledger.events import Endpoint
from service.ledger.state import ControlLedger, Refusal, ReplicaHealth, RouteLedger, Usage, Wait, WindowTold
from service.routing import rank as module
from service.routing.quota import quota_of, week_of
from service.routing.rank import Candidate, RoutingRequest, choose_chain, evaluate_route, rank, recheck
from service.routing.view import View
from service.settings import ClientCredentials, Route, from_variables
from tests.support.routing_factories import (
    CHAIN,
    CLIENT,
    HOUR_MS,
    NOW_MS,
    OTHER,
    POLICY,
    A,
    S,
    Z,
    names,
    open_circuit,
    reasons,
    route_of,
    tripped,
    used,
    view_of,
    waiting,
)

CLAUDE = RoutingRequest(model="claude-opus-4-8")


def ranked(ask: RoutingRequest = CLAUDE, chain: tuple[Route, ...] = CHAIN, view: View | None = None) -> list[Candidate]:
    """The candidates at noon."""
    return rank(ask, chain, view or view_of(), POLICY, NOW_MS)


def limited(tokens: int) -> tuple[Route, ...]:
    """The chain, its first route with a weekly limit of 1,000 tokens."""
    return (route_of("anthropic", weekly_tokens=tokens), S, Z)


# -- order


@pytest.mark.parametrize(
    ("model", "order"),
    [
        ("claude-opus-4-8", ["anthropic", "subscription", "zai"]),
        ("CLAUDE-OPUS-4-8", ["anthropic", "subscription", "zai"]),
        ("glm-5.2", ["zai", "anthropic", "subscription"]),
        ("GLM-5.2", ["zai", "anthropic", "subscription"]),
        ("gpt-4o", ["anthropic", "subscription", "zai"]),
        ("", ["anthropic", "subscription", "zai"]),
    ],
)
def test_the_order_is_the_settings_but_for_a_wish(model: str, order: list[str]) -> None:
    """A name of another family than Claude asks for its vendor first; the others follow in their order."""
    assert names(ranked(RoutingRequest(model=model))) == order


def test_a_claude_name_is_no_wish() -> None:
    """Claude Code asks for one whatever its user wants; nor is the name on an endpoint that runs no model."""
    assert names(ranked(CLAUDE, (Z, A, S))) == ["zai", "anthropic", "subscription"]
    assert names(ranked(RoutingRequest("models", "glm-5.2"))) == ["anthropic", "subscription", "zai"]


def test_each_route_gets_its_own_name_for_the_model() -> None:
    """As its provider calls it."""
    assert [candidate.model for candidate in ranked()] == ["claude-opus-4-8", "claude-opus-4-8", "glm-5.2"]


def test_above_the_threshold_a_route_comes_after_the_others() -> None:
    """It is still there, for when the others fail."""
    candidates = ranked(chain=limited(1_000), view=view_of(anthropic=used(950)))
    assert names(candidates) == ["subscription", "zai", "anthropic"]
    assert [candidate.deprioritized for candidate in candidates] == [False, False, True]


def test_half_open_routes_keep_their_place_as_probes() -> None:
    """After its open time a route is asked again, and known to be on trial."""
    candidates = ranked(view=view_of(anthropic=open_circuit(ago_ms=70_000)))
    assert names(candidates) == ["anthropic", "subscription", "zai"]
    assert [candidate.probe for candidate in candidates] == [True, False, False]


# -- passed over


@pytest.mark.parametrize(
    ("chain", "view", "reason", "until_ms"),
    [
        pytest.param((route_of("anthropic", off="no key"), Z), view_of(), "off", 0, id="no credential"),
        pytest.param(CHAIN, view_of(ControlLedger(disabled={"anthropic": ""})), "disabled", 0, id="disabled"),
        pytest.param(CHAIN, view_of(anthropic=waiting()), "waiting", NOW_MS + 30_000, id="waiting"),
        pytest.param(
            limited(1_000), view_of(anthropic=used(1_000)), "quota_spent", NOW_MS + 108 * HOUR_MS, id="quota spent"
        ),
        pytest.param(
            CHAIN,
            view_of(anthropic=RouteLedger(missing_models={"claude-opus-4-8": NOW_MS})),
            "model_missing",
            0,
            id="model not served",
        ),
    ],
)
def test_a_route_that_cannot_serve_is_passed_over(
    chain: tuple[Route, ...], view: View, reason: str, until_ms: int
) -> None:
    """With the reason, for people to read, and the moment at which it ends where that is known."""
    candidates = ranked(chain=chain, view=view)
    assert names(candidates)[0] != "anthropic"
    [first] = [candidate for candidate in candidates if candidate.route.id == "anthropic"]
    assert (first.skip_reason, first.until_ms) == (reason, until_ms)
    assert first.reason
    assert first.model == ("claude-opus-4-8" if reason in ("waiting", "quota_spent") else "")


def test_an_open_circuit_is_passed_over() -> None:
    """Until its end, while others are there."""
    candidates = ranked(view=view_of(anthropic=open_circuit()))
    assert (names(candidates), reasons(candidates)) == (["subscription", "zai"], {"anthropic": "circuit_open"})
    assert {candidate.route.id: candidate.model for candidate in candidates}["anthropic"] == "claude-opus-4-8"


def test_an_operators_limit_stands_over_the_settings() -> None:
    """A smaller one spends the quota, 0 takes the limit away."""
    view = view_of(ControlLedger(limits={"anthropic": 100}), anthropic=used(100))
    assert reasons(ranked(view=view)) == {"anthropic": "quota_spent"}
    view = view_of(ControlLedger(limits={"anthropic": 0}), anthropic=used(5_000))
    assert reasons(ranked(chain=limited(1_000), view=view)) == {}


@pytest.mark.parametrize("endpoint", ["count_tokens", "models"])
def test_what_uses_no_tokens_goes_on_when_the_quota_is_spent(endpoint: Endpoint) -> None:
    """A spent quota keeps messages off a route, not questions that are free."""
    ask = RoutingRequest(endpoint, "claude-opus-4-8")
    assert names(ranked(ask, limited(9), view_of(anthropic=used(9))))[0] == "anthropic"


def test_an_operators_reset_opens_the_way() -> None:
    """What failed or waited before it counts no more; a spent quota is spent all the same."""
    control = ControlLedger(resets={"anthropic": NOW_MS, "zai": NOW_MS})
    ledger = RouteLedger(health=open_circuit().health, waits=waiting().waits)
    assert reasons(ranked(view=view_of(control, anthropic=ledger))) == {}
    assert reasons(ranked(chain=limited(9), view=view_of(control, anthropic=used(9)))) == {"anthropic": "quota_spent"}


def test_a_disabled_route_says_who_knows_why() -> None:
    """The operator's words, else that it was one."""
    control = ControlLedger(disabled={"anthropic": "too dear", "zai": ""})
    assert [candidate.reason for candidate in ranked(view=view_of(control)) if not candidate.usable] == [
        "disabled: too dear",
        "disabled: by an operator",
    ]


# -- last resorts


def test_when_all_circuits_are_open_the_one_that_closes_first_is_tried() -> None:
    """As a probe, once in the list, and no other one."""
    view = view_of(anthropic=open_circuit(1_000), subscription=open_circuit(9_000), zai=open_circuit(2_000))
    candidates = ranked(view=view)
    assert names(candidates) == ["subscription"]
    assert (candidates[0].skip_reason, candidates[0].reason, candidates[0].until_ms) == ("", "", 0)
    assert not candidates[0].probe, "a probe takes the lease, and this one does not wait for it"
    assert [candidate.route.id for candidate in candidates] == ["subscription", "anthropic", "zai"]


def test_a_spent_limit_is_never_a_last_resort() -> None:
    """Nor a wait, nor what is disabled, whatever else is down: only an open circuit is tried all the same."""
    chain = (route_of("anthropic", weekly_tokens=9), S, Z)
    control = ControlLedger(disabled={"zai": "x"})
    candidates = ranked(chain=chain, view=view_of(control, anthropic=used(9), subscription=waiting()))
    assert names(candidates) == []
    spent_and_open = RouteLedger(hours={NOW_MS // HOUR_MS: Usage(input=9)}, health={"me": tripped()})
    candidates = ranked(chain=chain, view=view_of(control, anthropic=spent_and_open, subscription=waiting()))
    assert names(candidates) == []


def test_a_last_resort_keeps_within_its_limit() -> None:
    """It is tried all the same, but not beyond what is left of its week."""
    near = RouteLedger(hours={NOW_MS // HOUR_MS: Usage(input=950)}, health={"me": tripped()})
    [candidate, *_] = ranked(chain=limited(1_000)[:1], view=view_of(anthropic=near))
    assert candidate.usable
    assert candidate.quota is not None
    assert (candidate.quota.used_tokens, candidate.quota.state) == (950, "warning")


def test_a_candidate_is_looked_at_again() -> None:
    """What was decided about it stays; what its route used since, and what speaks against it now, is new."""
    [first, *_] = ranked(chain=limited(1_000))
    first = replace(first, without_thinking=True)
    now = recheck(first, CLAUDE, view_of(anthropic=used(600)), POLICY, NOW_MS)
    assert now.quota is not None
    assert (now.quota.used_tokens, now.without_thinking, now.usable) == (600, True, True)
    assert recheck(first, CLAUDE, view_of(anthropic=used(1_000)), POLICY, NOW_MS).skip_reason == "quota_spent"
    assert recheck(first, CLAUDE, view_of(anthropic=open_circuit()), POLICY, NOW_MS).skip_reason == "circuit_open"


def test_no_last_resort_while_another_route_is_left() -> None:
    """One above its threshold is better than one that is open."""
    view = view_of(anthropic=used(950), subscription=open_circuit(), zai=open_circuit())
    assert names(ranked(chain=limited(1_000), view=view)) == ["anthropic"]


# -- endpoints and resources


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (RoutingRequest("messages", "claude-opus-4-8"), ["anthropic", "subscription", "zai", "other"]),
        (RoutingRequest("models"), ["anthropic", "subscription", "zai", "other"]),
        (RoutingRequest("count_tokens", "claude-opus-4-8"), ["anthropic", "subscription"]),
        (RoutingRequest("count_tokens", "glm-5"), ["zai", "anthropic", "subscription"]),
        (RoutingRequest("batches", "claude-opus-4-8"), ["anthropic", "subscription"]),
        (RoutingRequest("files"), ["anthropic", "subscription"]),
        (RoutingRequest("other"), ["anthropic", "subscription"]),
    ],
    ids=lambda value: value.endpoint if isinstance(value, RoutingRequest) else "",
)
def test_each_endpoint_goes_where_it_is_offered(ask: RoutingRequest, expected: list[str]) -> None:
    """Another vendor is asked for messages and models, and counts its own models' tokens alone."""
    assert names(ranked(ask, (*CHAIN, OTHER))) == expected


def test_a_resource_is_asked_for_where_it_lives() -> None:
    """On its route and no other, whether that one is first or not; of a route that is gone there is none."""
    candidates = ranked(RoutingRequest("files", bound_to="subscription"))
    assert (names(candidates), reasons(candidates)) == (
        ["subscription"],
        {"anthropic": "elsewhere", "zai": "elsewhere"},
    )
    assert names(ranked(RoutingRequest("files", bound_to="gone"))) == []


# -- clients' own credentials


def test_nothing_speaks_against_the_clients_own_route() -> None:
    """It shares no state: neither circuit, nor wait, nor quota, nor a model that another client's key lacks."""
    ledger = RouteLedger(
        health=open_circuit().health,
        waits=waiting().waits,
        hours=used(10**9).hours,
        missing_models={"claude-opus-4-8": NOW_MS},
    )
    candidates = ranked(chain=(CLIENT, Z), view=view_of(client=ledger))
    assert [(candidate.route.id, candidate.model) for candidate in candidates] == [
        ("anthropic:client", "claude-opus-4-8"),
        ("zai", "glm-5.2"),
    ]


REAL = "sk-ant-api03-real"
OFF = tuple(replace(route, off="no key") for route in CHAIN)
ONLY_ZAI = (replace(A, off="no key"), replace(S, off="no key"), Z)


@pytest.mark.parametrize(
    ("routes", "credential", "mode", "goes_up"),
    [
        pytest.param(CHAIN, REAL, "auto", False, id="auto: the owner has Anthropic's key"),
        pytest.param(ONLY_ZAI, REAL, "auto", True, id="auto: the owner has Z.AI's key alone"),
        pytest.param(OFF, REAL, "auto", True, id="auto: the owner has none"),
        pytest.param(CHAIN, REAL, "prefer", True, id="prefer: before the owner's"),
        pytest.param(CHAIN, REAL, "never", False, id="never: not before the owner's"),
        pytest.param(OFF, REAL, "never", False, id="never: not even alone"),
        pytest.param(CHAIN, "", "prefer", False, id="none was shown"),
        pytest.param(OFF, "", "auto", False, id="none was shown and the owner has none"),
        pytest.param(CHAIN, "cc-proxy", "prefer", False, id="prefer: a placeholder is none"),
        pytest.param(ONLY_ZAI, "cc-proxy", "auto", False, id="auto: a placeholder is none"),
        pytest.param(CHAIN, "sk-or-another-vendors", "prefer", False, id="another vendor's key is none"),
    ],
)
def test_the_clients_credential_goes_up_only_where_it_may(
    routes: tuple[Route, ...],
    credential: str,
    mode: ClientCredentials,
    goes_up: bool,  # noqa: FBT001
) -> None:
    """At the head of the chain, as a route of its own; the owner's follow."""
    chain = choose_chain(routes, CLIENT, credential=credential, mode=mode)
    assert chain == ((CLIENT, *routes) if goes_up else routes)


# -- what a provider can't take


def test_a_model_that_cannot_hold_the_prompt_is_passed_over() -> None:
    """Whatever else speaks against its route, or for it: an open circuit is no last resort for what can't fit."""
    ask = RoutingRequest(model="claude-haiku-4-5", least_tokens=150_000)
    policy = from_variables({"CCPROXY_HOME": "/nowhere"}).policy
    candidates = rank(ask, (Z,), view_of(zai=open_circuit()), policy, NOW_MS)
    assert reasons(candidates) == {"zai": "context_too_small"}
    assert candidates[0].model == "glm-4.5-air"
    assert candidates[0].reason == "prompt is too long: at least 150000 tokens > 131072 maximum of glm-4.5-air"
    assert names(rank(replace(ask, least_tokens=131_072), (A, Z), view_of(), policy, NOW_MS)) == ["anthropic", "zai"]


def test_a_thread_goes_to_anthropic_alone() -> None:
    """What came before is stored there: others would answer without it."""
    candidates = ranked(replace(CLAUDE, threaded=True), (A, OTHER, Z))
    assert names(candidates) == ["anthropic"]
    assert reasons(candidates) == {"other": "elsewhere", "zai": "elsewhere"}


# -- while a route recovers, and where a session is at home


def test_the_last_of_a_share_belongs_to_it() -> None:
    """A lot of just the share still goes to the route that recovers, 2.5 seconds of its ten ago."""
    view = view_of(anthropic=RouteLedger(health={"r": ReplicaHealth(recovered_ms=NOW_MS - 2_500)}))
    for sample, first in [(0.25, "anthropic"), (0.2501, "subscription")]:
        request = RoutingRequest(model="claude-opus-4-8", ramp_sample=sample)
        assert names(ranked(request, view=view))[0] == first


def test_a_route_that_recovers_takes_its_share_first() -> None:
    """Requests whose lot is above the share go to the others first, and to it all the same when they fail."""
    recovering = RouteLedger(health={"b": ReplicaHealth(recovered_ms=NOW_MS - 2_500)})
    view = view_of(anthropic=recovering)
    low, high = (RoutingRequest(model="claude-opus-4-8", ramp_sample=draw) for draw in (0.2, 0.3))
    assert names(rank(low, CHAIN, view, POLICY, NOW_MS)) == ["anthropic", "subscription", "zai"]
    assert names(rank(high, CHAIN, view, POLICY, NOW_MS)) == ["subscription", "zai", "anthropic"]


def test_a_session_goes_back_to_a_route_that_recovers() -> None:
    """It is one request when its user writes, and loses its cache by each move; so it stays there, too."""
    view = view_of(anthropic=RouteLedger(health={"b": ReplicaHealth(recovered_ms=NOW_MS - 100)}))
    ask = RoutingRequest(model="claude-opus-4-8", ramp_sample=0.9, session_route="anthropic")
    assert names(rank(ask, CHAIN, view, POLICY, NOW_MS)) == ["anthropic", "subscription", "zai"]
    moved = replace(ask, session_route="zai")
    assert names(rank(moved, CHAIN, view, POLICY, NOW_MS)) == ["anthropic", "subscription", "zai"]
    assert names(rank(replace(moved, mid_turn=True), CHAIN, view, POLICY, NOW_MS))[0] == "zai"
    new = replace(ask, session_route="")
    assert names(rank(new, CHAIN, view, POLICY, NOW_MS)) == ["subscription", "zai", "anthropic"]


def test_a_session_stays_on_a_route_that_serves_the_same_model() -> None:
    """It goes first, while it is healthy: its prompt caches are there."""
    ask = RoutingRequest(model="claude-opus-4-8", session_route="subscription")
    assert names(rank(ask, CHAIN, view_of(), POLICY, NOW_MS)) == ["subscription", "anthropic", "zai"]
    view = view_of(subscription=open_circuit())
    assert names(rank(ask, CHAIN, view, POLICY, NOW_MS)) == ["anthropic", "zai"]


def test_a_name_that_another_provider_answers_to_is_another_model() -> None:
    """It takes the name as it is, and has no such model."""
    chain = (A, OTHER)
    ask = RoutingRequest(model="claude-opus-4-8", session_route="other")
    assert [candidate.model for candidate in rank(ask, chain, view_of(), POLICY, NOW_MS)] == ["claude-opus-4-8"] * 2
    assert names(rank(ask, chain, view_of(), POLICY, NOW_MS)) == ["anthropic", "other"]
    assert names(rank(replace(ask, mid_turn=True), chain, view_of(), POLICY, NOW_MS)) == ["other", "anthropic"]


def test_a_session_goes_back_from_another_model_with_the_next_turn() -> None:
    """A lesser model answers on while tools run, since it asked for them; the user's next words go to the user's first
    choice."""
    turn = RoutingRequest(model="claude-opus-4-8", session_route="zai", mid_turn=True)
    assert names(rank(turn, CHAIN, view_of(), POLICY, NOW_MS)) == ["zai", "anthropic", "subscription"]
    assert names(rank(replace(turn, mid_turn=False), CHAIN, view_of(), POLICY, NOW_MS)) == [
        "anthropic",
        "subscription",
        "zai",
    ]
    down = view_of(anthropic=open_circuit(), subscription=open_circuit())
    assert names(rank(replace(turn, mid_turn=False), CHAIN, down, POLICY, NOW_MS)) == ["zai"]


def test_only_messages_probe() -> None:
    """What counts for no circuit tells nothing about it."""
    view = view_of(anthropic=open_circuit(ago_ms=100_000))
    assert rank(RoutingRequest("messages", "claude-x"), CHAIN, view, POLICY, NOW_MS)[0].probe
    assert not rank(RoutingRequest("count_tokens", "claude-x"), CHAIN, view, POLICY, NOW_MS)[0].probe


# -- windows, and waits of some models


def window(name: str, ratio: float, status: str = "allowed") -> RouteLedger:
    """What a subscription said of a window."""
    told = WindowTold(ratio, NOW_MS + HOUR_MS, status, at_ms=NOW_MS - 1, answered=status == "allowed")
    return RouteLedger(windows={name: told})


@pytest.mark.parametrize(
    ("ledger", "model", "expected"),
    [
        pytest.param(window("5h", 0.89), "claude-opus-4-8", ["anthropic", "subscription"], id="below"),
        pytest.param(
            window("5h", 0.9), "claude-opus-4-8", ["subscription", "anthropic"], id="5 h window, nearly spent"
        ),
        pytest.param(
            window("7d", 0.95), "claude-opus-4-8", ["subscription", "anthropic"], id="7 d window, nearly spent"
        ),
        pytest.param(window("7d_opus", 0.95), "claude-opus-4-8", ["subscription", "anthropic"], id="its own window"),
        pytest.param(window("7d_opus", 0.95), "claude-sonnet-4-6", ["anthropic", "subscription"], id="another's"),
        pytest.param(window("5h", 1.0, "rejected"), "claude-opus-4-8", ["subscription"], id="spent"),
        pytest.param(window("7d_opus", 1.0, "rejected"), "claude-opus-4-8", ["subscription"], id="its own is spent"),
        pytest.param(
            window("7d_opus", 1.0, "rejected"),
            "claude-haiku-4-6",
            ["anthropic", "subscription"],
            id="another's is spent",
        ),
    ],
)
def test_a_providers_window_counts_like_a_quota(ledger: RouteLedger, model: str, expected: list[str]) -> None:
    """From the threshold on others go first; a spent one is waited for; one of some models is about those alone."""
    assert names(rank(RoutingRequest(model=model), (A, S), view_of(anthropic=ledger), POLICY, NOW_MS)) == expected


def test_a_quota_of_some_models_holds_those_alone() -> None:
    """Until its reset; what the request is sent as counts, not what it asked for."""
    wait = Wait(at_ms=NOW_MS - 1, until_ms=NOW_MS + 9, kind="quota", status=429, holds="opus")
    view = view_of(anthropic=RouteLedger(waits={"quota:opus": wait}))
    [held] = rank(RoutingRequest(model="claude-opus-4-8"), (A,), view, POLICY, NOW_MS)
    assert (held.skip_reason, held.until_ms) == ("waiting", NOW_MS + 9)
    assert names(rank(RoutingRequest(model="claude-sonnet-4-6"), (A,), view, POLICY, NOW_MS)) == ["anthropic"]
    assert reasons(rank(RoutingRequest(model="glm-5.2"), (A,), view, POLICY, NOW_MS)) == {"anthropic": "waiting"}


@pytest.mark.parametrize("endpoint", ["count_tokens", "models"])
@pytest.mark.parametrize("scope", ["throttle", "quota", "credential"])
def test_what_is_free_does_not_wait_with_messages(endpoint: Endpoint, scope: str) -> None:
    """It has limits of its own, and what messages are refused says nothing about it."""
    ranked = rank(RoutingRequest(endpoint, "claude-opus-4-8"), (A,), view_of(anthropic=waiting(scope)), POLICY, NOW_MS)
    assert names(ranked) == ["anthropic"]


# -- refused in the same words


REFUSED = Refusal(at_ms=NOW_MS - 1_000, status=400, bodies=["b1", "b2", "b3"], clients=["alice", "bob"])


@pytest.mark.parametrize(
    ("refusal", "client", "is_held"),
    [
        pytest.param(REFUSED, "carol", True, id="two clients: for everybody"),
        pytest.param(replace(REFUSED, bodies=["b1", "b2"]), "carol", False, id="two bodies are too few"),
        pytest.param(replace(REFUSED, clients=["alice"]), "carol", False, id="one client: not for others"),
        pytest.param(replace(REFUSED, clients=["alice"]), "alice", True, id="one client: for that one"),
        pytest.param(replace(REFUSED, at_ms=NOW_MS - POLICY.credential_wait_ms), "carol", False, id="long ago"),
        pytest.param(replace(REFUSED, account="old"), "carol", False, id="another account"),
        pytest.param(replace(REFUSED, endpoint="count_tokens"), "carol", False, id="another class of endpoint"),
    ],
)
def test_the_same_words_for_several_requests_are_the_routes(refusal: Refusal, client: str, *, is_held: bool) -> None:
    """Three requests of two clients were refused in words that no rule knows: other routes are tried for a while."""
    view = view_of(anthropic=RouteLedger(refusals={"w": refusal}))
    view.accounts["anthropic"] = "new"
    ranked = rank(RoutingRequest(model="claude-opus-4-8", client=client), CHAIN, view, POLICY, NOW_MS)
    expected = ["subscription", "zai"] if is_held else ["anthropic", "subscription", "zai"]
    assert names(ranked) == expected
    if is_held:
        assert reasons(ranked) == {"anthropic": "refused"}


def test_a_route_refused_in_unknown_words_is_tried_when_no_other_is_left() -> None:
    """A guess holds nobody off: the client gets the provider's own words."""
    view = view_of(anthropic=RouteLedger(refusals={"w": REFUSED}))
    [only] = rank(RoutingRequest(model="claude-opus-4-8"), (A,), view, POLICY, NOW_MS)
    assert only.usable


def test_a_wait_ends_with_the_account_that_it_is_about() -> None:
    """A new key, or a new log-in, is tried at once; the old one's wait holds while nobody knows better."""
    wait = Wait(at_ms=NOW_MS - 1, kind="credential", status=401, account="old")
    view = view_of(anthropic=RouteLedger(waits={"messages/old/credential": wait}))
    assert names(rank(RoutingRequest(), (A,), view, POLICY, NOW_MS)) == []
    view.accounts["anthropic"] = "old"
    assert names(rank(RoutingRequest(), (A,), view, POLICY, NOW_MS)) == []
    view.accounts["anthropic"] = "new"
    assert names(rank(RoutingRequest(), (A,), view, POLICY, NOW_MS)) == ["anthropic"]


# -- the short way


REQUESTS = st.builds(
    RoutingRequest,
    st.sampled_from(("messages", "count_tokens", "models", "files")),
    st.sampled_from(("claude-opus-4-8", "glm-5.2", "")),
    bound_to=st.sampled_from(("", "", "anthropic", "zai")),
    least_tokens=st.sampled_from((0, 0, 10_000_000)),
    threaded=st.booleans(),
    ramp_sample=st.sampled_from((0.0, 0.5, 1.0)),
)
ROUTES = st.sampled_from((A, S, Z, CLIENT, route_of("anthropic", off="no key"), *limited(1_000)[:1]))
HEALTH = ReplicaHealth(last_success_ms=NOW_MS - 1_000)
LEDGERS = st.sampled_from(
    (
        RouteLedger(),
        RouteLedger(health={"me": HEALTH}),
        RouteLedger(health={"me": replace(HEALTH, recovered_ms=NOW_MS - 5_000)}),
        RouteLedger(missing_models={"claude-opus-4-8": NOW_MS}),
        open_circuit(),
        open_circuit(ago_ms=70_000),
        used(1_000),
        waiting(),
        window("5h", 0.2),
        window("5h", 0.95),
    )
)
CONTROLS = st.sampled_from(
    (
        ControlLedger(),
        ControlLedger(disabled={"anthropic": ""}),
        ControlLedger(limits={"anthropic": 500}),
        ControlLedger(limits={"anthropic": 1_000_000, "anthropic:client": 1}),
        ControlLedger(resets={"anthropic": NOW_MS}),
    )
)


SPENT = st.sampled_from(({}, {"anthropic": quota_of(Usage(), 500, POLICY, week_of(NOW_MS, POLICY.quota)).name}))


@given(REQUESTS, ROUTES, LEDGERS, CONTROLS, SPENT)
def test_a_route_with_nothing_against_it_is_the_same_by_the_rules(
    request: RoutingRequest, route: Route, ledger: RouteLedger, control: ControlLedger, spent: dict[str, str]
) -> None:
    """Where the rules are not walked, walking them comes to the same."""
    view = View(replica="me", routes={route.id: ledger}, control=control, spent=spent)
    short = evaluate_route(request, route, view, POLICY, NOW_MS)
    with patch.object(module, "is_healthy", lambda *_: False):
        long = evaluate_route(request, route, view, POLICY, NOW_MS)
    assert short == long


def test_the_rules_are_not_walked_for_a_healthy_route() -> None:
    """Which nearly every request finds: with answers behind it, and windows of which much is left."""
    ledger = replace(window("5h", 0.5), health={"me": HEALTH})
    view = view_of(anthropic=ledger)
    limited_view = replace(view, control=ControlLedger(limits={"anthropic": 1_000_000}))
    with patch.object(module, "RULES", ()):
        assert evaluate_route(CLAUDE, A, view, POLICY, NOW_MS).usable
        assert evaluate_route(CLAUDE, A, limited_view, POLICY, NOW_MS).quota is not None
