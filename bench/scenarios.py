"""The scenarios, one after the other, each on every target in turn."""

from msgspec import Struct

from bench.load import Job
from bench.targets import Target
from bench.traffic import Kind

LARGE, SMALL = 60_000, 2_000
STEADY_RATE = 100.0
SLOW_RATE = 15.0
"""For targets that can't do STEADY_RATE."""


class Scenario(Struct, frozen=True):
    """A load. `open_at_once` 0 is the open loop."""

    kind: Kind
    body_bytes: int
    open_at_once: int

    @property
    def name(self) -> str:
        """As the report says it."""
        kind = {"json": "JSON", "sse": "SSE", "paced": "SSE paced"}[self.kind]
        load = f"{self.open_at_once} at once" if self.open_at_once else f"{STEADY_RATE:.0f}/s"
        return f"{kind} {self.body_bytes // 1000} KB, {load}"

    def job(self, target: Target, seconds: float, *, fast: bool) -> Job:
        """The load for a target; `fast` says that it can do the steady rate."""
        return Job(
            port=target.port,
            path=target.path,
            headers=target.headers,
            kind=self.kind,
            body_bytes=self.body_bytes,
            open_at_once=self.open_at_once,
            rate=0 if self.open_at_once else (STEADY_RATE if fast else SLOW_RATE),
            seconds=seconds,
        )


MAIN = (Scenario("json", LARGE, 16), Scenario("sse", LARGE, 16))
"""The two that the goals are set for."""
QUICK = (Scenario("json", LARGE, 1), Scenario("sse", LARGE, 1), *MAIN, Scenario("paced", LARGE, 64))
ALL = (
    Scenario("json", LARGE, 1),
    Scenario("sse", LARGE, 1),
    *MAIN,
    Scenario("json", LARGE, 64),
    Scenario("sse", LARGE, 64),
    Scenario("paced", LARGE, 64),
    Scenario("json", LARGE, 0),
    Scenario("json", SMALL, 16),
    Scenario("sse", SMALL, 16),
)
