"""What the monkey does, and when: made of a seed alone, so that a run can be had again. It touches nothing."""

import random
from collections.abc import Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

Act: TypeAlias = Literal[
    "kill",  # kill -9
    "end",  # SIGTERM
    "freeze",  # SIGSTOP, and SIGCONT later
    "strangle",  # SIGSTOP, and kill -9 later
    "backend",  # kill -9 of one of Postgres' backends
    "full",  # Valkey refuses to write, for want of memory
    "forget",  # kill -9, and what Valkey wrote last is not on its disk: a power cut
    "wipe",  # kill -9, and Valkey has lost everything
    "cut",  # a wire breaks: connections are reset
    "stall",  # a wire passes nothing on until it is mended
    "deaf",  # a wire passes requests on, and no answers until it is mended
]

PROXIES = ("proxy-0", "proxy-1")
WORKERS = ("worker-0", "worker-1")
SERVERS = ("postgres", "valkey")
WIRES = ("wire-0", "wire-1", "wire-2")
"""Between Valkey and the first proxy, the second, and the workers."""
PARTS = (*PROXIES, *WORKERS, *SERVERS, *WIRES)
GANGS: Sequence[Sequence[str]] = (
    WORKERS,
    PROXIES,
    ("valkey", "proxy-0"),
    ("valkey", "proxy-1"),
    ("valkey", "worker-0"),
    ("postgres", "worker-1"),
    ("postgres", "valkey"),
    ("wire-0", "proxy-0"),
    ("wire-1", "valkey"),
    ("wire-2", "postgres"),
    ("worker-0", "worker-1", "postgres"),
    ("valkey", "postgres", "worker-0", "worker-1"),
)
"""What falls together now and then."""
GANG_RATIO = 0.15
FIRST_S = 1.0
REST_S = 0.3
"""A part that is back is left alone for so long; less than a start takes, so that starts are hit as well."""
WEIGHTS = {"proxy": 2, "worker": 3, "postgres": 4, "valkey": 5, "wire": 1.5}
ACTS: dict[str, dict[Act, float]] = {
    "proxy": {"kill": 4, "end": 3, "freeze": 3, "strangle": 2},
    "worker": {"kill": 5, "end": 2, "freeze": 3, "strangle": 2},
    "postgres": {"kill": 3, "end": 2, "freeze": 3, "backend": 3},
    "valkey": {"kill": 3, "end": 2, "freeze": 4, "full": 2, "forget": 12, "wipe": 6},
    "wire": {"cut": 2, "stall": 2, "deaf": 3},
}
LONGEST_S: dict[str, dict[Act, float]] = {
    "proxy": {"kill": 1.5, "end": 1.5, "freeze": 2.5, "strangle": 1.5},
    "worker": {"kill": 2, "end": 2, "freeze": 12, "strangle": 4},
    "postgres": {"kill": 3, "end": 3, "freeze": 4, "backend": 0.2},
    "valkey": {"kill": 3, "end": 3, "freeze": 6, "full": 3, "forget": 2, "wipe": 2},
    "wire": {"cut": 2, "stall": 4, "deaf": 4},
}
"""How long a part is away at most. A frozen Valkey outlasts the proxies' 100 ms and two seconds, and the workers' five;
a frozen worker the ten seconds that Postgres lets a transaction idle."""
LOSSES = ("forget", "wipe")
HOLD_S = 1.0
"""What Valkey has lost is in the proxies' memory alone, until they have noticed: for so long they are left alone."""


class Step(Struct, frozen=True):
    """At `at_s` after the start, `act` on `part`, which comes back after `for_s`."""

    at_s: float
    part: str
    act: Act
    for_s: float

    @property
    def back_s(self) -> float:
        """When it comes back."""
        return self.at_s + self.for_s


def plan(seed: int, actions: int, seconds: float) -> list[Step]:
    """So many steps in about so many seconds; no part is hit before it is back from the last time."""
    chance = random.Random(seed)  # noqa: S311 - chance that can be had again is what is wanted
    steps: list[Step] = []
    free_at = dict.fromkeys(PARTS, FIRST_S)
    now_s = FIRST_S
    while len(steps) < actions:
        now_s = max(now_s, min(free_at.values()))
        free = [part for part in PARTS if free_at[part] <= now_s]
        hit = choose(chance, free)
        for part in hit[: actions - len(steps)]:
            step = act_on(chance, part, now_s, alone=len(hit) == 1 and {*PROXIES, *WIRES} <= set(free))
            free_at[part] = step.back_s + REST_S
            if step.act in LOSSES:
                free_at |= dict.fromkeys(PROXIES, now_s + HOLD_S)
            steps.append(step)
        now_s += chance.uniform(0, 2 * len(hit) * (seconds - FIRST_S) / actions)
    return steps


def choose(chance: random.Random, free: Sequence[str]) -> Sequence[str]:
    """A part, or several that fall together."""
    gangs = [gang for gang in GANGS if set(gang) <= set(free)]
    if gangs and chance.random() < GANG_RATIO:
        return chance.choice(gangs)
    return chance.choices(free, weights=[WEIGHTS[kind_of(part)] for part in free])


def kind_of(part: str) -> str:
    """What a part is: proxy, worker, postgres, valkey or wire."""
    return part.partition("-")[0]


def act_on(chance: random.Random, part: str, at_s: float, *, alone: bool) -> Step:
    """What befalls a part. Short absences are as likely as long ones: what goes wrong, goes wrong at the borders.

    Not `alone`, with a proxy or its wire away as well, nothing is lost that is nowhere else.
    """
    kind = kind_of(part)
    acts = {act: weight for act, weight in ACTS[kind].items() if alone or act not in LOSSES}
    act = chance.choices([*acts], weights=[*acts.values()])[0]
    longest_s = LONGEST_S[kind][act]
    return Step(round(at_s, 3), part, act, round(longest_s * chance.random() ** 2, 3))
