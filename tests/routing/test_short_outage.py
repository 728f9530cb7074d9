"""A provider is away for a minute: when the sessions that had to leave it are back, in virtual time.

Fold, circuit and ranking are real; replicas, the lease of a probe and the provider are a few lines here. Not here:
the circuit's rules one by one (`test_circuit`).
"""

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any

import pytest
from msgspec import Struct, field
from msgspec.structs import replace

from service.fleet.admission import ANSWERED_MS
from service.ledger.events import AttemptEnded
from service.ledger.fold import advance_route
from service.ledger.state import RouteLedger
from service.routing.circuit import open_until_ms
from service.routing.rank import Candidate, RoutingRequest, rank
from service.routing.view import View
from service.settings import Policy
from tests.support.event_factories import ended, failed
from tests.support.routing_factories import NOW_MS, A, Z, tripped

SECOND_MS = 1_000
OUTAGE_MS = 60_000
TURN_MS = 20_000
LAG_MS = 1_000
"""After so long the other replicas know what one has seen."""
FAILS_MS = 500
CONTENT_MS = 1_000
"""How soon the provider fails, and how soon it begins to answer."""
LENGTHS_MS = (8_000, 30_000, 60_000)
"""Of others' answers: long ones, so that probes end late."""
POLICY = Policy()
CHAIN = (A, Z)
WATCHED = "watched"


class Turn(Struct, order=True):
    """A request of a session, at a replica; `answer_ms` is how long its answer takes."""

    at_ms: int
    replica: str
    session: str
    answer_ms: int = 4_000


class World(Struct):
    """Replicas before one provider that is away at first, and another one that always answers."""

    policy: Policy
    replicas: Sequence[str]
    client: str = ""
    """The client of all sessions; "": each has its own."""
    ledgers: dict[str, RouteLedger] = field(default_factory=dict)
    served: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    last: dict[str, str] = field(default_factory=dict)
    denied: set[tuple[str, int]] = field(default_factory=set)
    """Sessions, and when another request was probing in their place."""
    probe_until_ms: int = 0
    answered_ms: int = -ANSWERED_MS
    steps: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list)
    numbers: Any = field(default_factory=lambda: count(1))

    def run(self, turns: Sequence[Turn]) -> dict[str, list[tuple[int, str]]]:
        """Take all turns, and all that follows from them; which route served each, by session."""
        self.ledgers = {name: RouteLedger() for name in self.replicas}
        for turn in turns:
            self._at(turn.at_ms, lambda turn=turn: self._take(turn))  # type: ignore[misc]
        while self.steps:
            heappop(self.steps)[2]()
        return self.served

    def _at(self, at_ms: int, step: Callable[[], None]) -> None:
        heappush(self.steps, (at_ms, next(self.numbers), step))

    def _take(self, turn: Turn) -> None:
        now_ms = turn.at_ms
        view = View(replica=turn.replica, routes={A.id: self.ledgers[turn.replica]})
        asked = RoutingRequest(
            model="claude-opus-4-8",
            session_route=self.last.get(turn.session, ""),
            ramp_sample=1.0,
            client=self._client(turn),
        )
        first = rank(asked, CHAIN, view, self.policy, NOW_MS + now_ms)[0]
        route = Z.id
        if first.probe and self.answered_ms <= now_ms < self.answered_ms + ANSWERED_MS:
            first = replace(first, probe=False)
        if first.probe and now_ms < self.probe_until_ms:
            self.denied.add((turn.session, now_ms))
        elif first.route == A:
            self._attempt(turn, first, is_away=now_ms < OUTAGE_MS)
            route = Z.id if now_ms < OUTAGE_MS else A.id
        self.last[turn.session] = route
        self.served.setdefault(turn.session, []).append((now_ms, route))

    def _client(self, turn: Turn) -> str:
        return self.client or turn.session

    def _attempt(self, turn: Turn, candidate: Candidate, *, is_away: bool) -> None:
        """Ask the provider, and tell all replicas how it ended. One request probes at a time, until its content."""
        took_ms = FAILS_MS if is_away else turn.answer_ms
        if candidate.probe:
            self.probe_until_ms = turn.at_ms + (FAILS_MS if is_away else CONTENT_MS)
            self.answered_ms = self.answered_ms if is_away else self.probe_until_ms
        number, end_ms = next(self.numbers), turn.at_ms + took_ms
        make = failed if is_away else ended
        event = make(
            number,
            NOW_MS + end_ms,
            started_at_ms=NOW_MS + turn.at_ms,
            replica=turn.replica,
            session_id=turn.session,
            client_key=self._client(turn),
            probe=candidate.probe,
        )
        for replica in self.replicas:
            lag_ms = 0 if replica == turn.replica else LAG_MS
            self._at(end_ms + lag_ms, lambda replica=replica: self._hear(replica, event))  # type: ignore[misc]

    def _hear(self, replica: str, event: AttemptEnded) -> None:
        advance_route(self.ledgers[replica], event)


def watched_turns(phase_ms: int, replicas: Sequence[str], random: Random) -> list[Turn]:
    """A session with a request each 20 seconds, at whatever replica the balancer chooses."""
    return [
        Turn(at_ms, random.choice(replicas), WATCHED) for at_ms in range(phase_ms, OUTAGE_MS + 6 * TURN_MS, TURN_MS)
    ]


def tripping(trip_ms: int, replicas: Sequence[str], sessions: Sequence[str]) -> list[Turn]:
    """Requests side by side that open the circuits of all replicas, just before a moment of the outage."""
    return [
        Turn(trip_ms, replica, sessions[number % len(sessions)])
        for replica in replicas
        for number in range(POLICY.circuit.trip_failures + 1)
    ]


def others(since_ms: int, every_ms: int, replicas: Sequence[str], random: Random) -> list[Turn]:
    """Requests of other sessions; some answers are long."""
    return [
        Turn(at_ms, random.choice(replicas), f"other{random.randrange(9)}", random.choice(LENGTHS_MS))
        for at_ms in range(since_ms, OUTAGE_MS + 4 * TURN_MS, every_ms)
    ]


def is_back(world: World) -> bool:
    """Whether the second turn after the outage, and all that follow, were served by the first route; but for one, in
    whose place another request was just probing, without content so far."""
    after = [turn for turn in world.served[WATCHED] if turn[0] >= OUTAGE_MS][1:]
    away = [(WATCHED, at_ms) for at_ms, route in after if route != A.id]
    return len(away) <= 1 and world.denied.issuperset(away)


def after_outage(trip_ms: int, phase_ms: int, replicas: Sequence[str], every_ms: int, policy: Policy) -> World:
    """A world after its outage. Without others (`every_ms` 0) the session itself, with its subagents, trips."""
    random = Random(f"{trip_ms} {phase_ms} {len(replicas)} {every_ms}")  # noqa: S311 - a test's
    trips = tripping(trip_ms, replicas, ["noisy1", "noisy2"] if every_ms else [WATCHED])
    crowd = others(trip_ms, every_ms, replicas, random) if every_ms else []
    world = World(policy, replicas, client="" if every_ms else "alice")
    world.run(sorted([*watched_turns(phase_ms, replicas, random), *trips, *crowd]))
    return world


def late_ones(replicas: Sequence[str], every_ms: int, policy: Policy = POLICY) -> list[tuple[int, int]]:
    """When the circuit tripped, and the phase of the turns, where the session was not back in time."""
    timings = [(trip_ms, phase_ms) for trip_ms in TRIPS_MS for phase_ms in PHASES_MS]
    return [timing for timing in timings if not is_back(after_outage(*timing, replicas, every_ms, policy))]


TRIPS_MS = (1, 25_000, 41_500, 52_000, 58_000, 59_499, 59_999)
PHASES_MS = (0, 1, 900, 4_300, 7_500, 10_000, 11_000, 14_200, 18_900, 19_999)
FLEETS = {"one replica": ["r1"], "three replicas": ["r1", "r2", "r3"]}
CROWDS_MS = {"alone": 0, "few others": 7_100, "some others": 1_700, "many others": 600}


@pytest.mark.parametrize("every_ms", CROWDS_MS.values(), ids=CROWDS_MS)
@pytest.mark.parametrize("replicas", FLEETS.values(), ids=FLEETS)
def test_a_session_is_back_within_two_turns(replicas: Sequence[str], every_ms: int) -> None:
    """Whenever the circuit trips, whenever the user writes, and whoever else does."""
    assert late_ones(replicas, every_ms) == []


@pytest.mark.parametrize("replicas", FLEETS.values(), ids=FLEETS)
@pytest.mark.parametrize("open_ms", [20_000, 60_000])
def test_a_longer_open_time_is_too_long(replicas: Sequence[str], open_ms: int) -> None:
    """These timings are hard enough: with it, or with its jitter alone, some sessions come back later."""
    policy = replace(POLICY, circuit=replace(POLICY.circuit, open_ms=open_ms))
    assert late_ones(replicas, CROWDS_MS["alone"], policy) != []


def test_a_long_outage_is_asked_after_less_and_less() -> None:
    """Every ten seconds in its first minute, then half as often each time, up to the cap."""
    policy, ends = POLICY.circuit, []
    for probes in range(14):
        health = tripped(ago_ms=0, failed_probes=probes)
        ends.append((open_until_ms(health, replace(policy, open_cap_ms=300_000)) - NOW_MS) // 1_000)
    assert ends == [10] * 6 + [20, 41, 83, 167, 300, 300, 300, 300]
