"""Supervises child processes: decides when one is started, restarted or given up.

The rules, which `ChildState` implements as pure functions of `now_ms`:
- A child that ends is restarted after a delay: 0.1 s at first, doubled each time up to 5 s. Once it has run for 30 s
  the next delay is 0.1 s again.
- A start has failed if the child ended before it was ready, or was not ready in time. After five failed starts within a
  minute the child is given up. A child that was ready and ended counts as a crash, not as a failed start.
- A child is started only while all it `needs` are ready, and not before all it comes `after` have been ready once.

`Supervisor` applies them, one short `step` at a time, on the caller's thread. Not here: the children themselves,
output, signals.
"""

import time
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from service.embedded import EmbeddedError
from service.embedded.program import describe_exit

STARTING_PAUSE_S = 0.02
IDLE_PAUSE_S = 1.0
"""SIGCHLD wakes the caller when a child ends; this pause only matters if a signal is missed."""
STOP_PAUSE_S = 0.02


class RestartPolicy(Struct, frozen=True):
    """Delays between restarts, and the limit of failed starts."""

    first_wait_ms: int = 100
    longest_wait_ms: int = 5_000
    steady_ms: int = 30_000
    failed_starts: int = 5
    window_ms: int = 60_000


class Phase(Enum):
    """Lifecycle phase of a child."""

    WAITING = "waiting"  # to be started at `at_ms`
    STARTING = "starting"  # since `at_ms`
    READY = "ready"  # since `at_ms`
    DONE = "done"  # a `once` child that has ended well
    GIVEN_UP = "given up"


class ChildState(Struct, frozen=True):
    """State of a child. `wait_ms` is the delay before its last start, 0 for the first."""

    phase: Phase = Phase.WAITING
    at_ms: int = 0
    wait_ms: int = 0
    failed_at_ms: tuple[int, ...] = ()
    has_been_ready: bool = False

    def due(self, now_ms: int) -> bool:
        """True if it should be started now."""
        return self.phase is Phase.WAITING and now_ms >= self.at_ms

    def started(self, now_ms: int) -> "ChildState":
        """Return the state after a start."""
        return replace(self, phase=Phase.STARTING, at_ms=now_ms)

    def ready(self, now_ms: int) -> "ChildState":
        """Return the state once it is ready."""
        return replace(self, phase=Phase.READY, at_ms=now_ms, has_been_ready=True)

    def done(self, now_ms: int) -> "ChildState":
        """Return the state of a `once` child that has ended well."""
        return replace(self, phase=Phase.DONE, at_ms=now_ms, has_been_ready=True)

    def ended(self, now_ms: int, rules: RestartPolicy) -> "ChildState":
        """Return the state after an end or a failed start: waiting or given up."""
        failed_at_ms = tuple(at_ms for at_ms in self.failed_at_ms if now_ms - at_ms < rules.window_ms)
        if self.phase is not Phase.READY:
            failed_at_ms = (*failed_at_ms, now_ms)
        if len(failed_at_ms) >= rules.failed_starts:
            return replace(self, phase=Phase.GIVEN_UP, at_ms=now_ms, failed_at_ms=failed_at_ms)
        was_steady = self.phase is Phase.READY and now_ms - self.at_ms >= rules.steady_ms
        wait_ms = rules.first_wait_ms
        if self.wait_ms and not was_steady:
            wait_ms = min(self.wait_ms * 2, rules.longest_wait_ms)
        return replace(self, phase=Phase.WAITING, at_ms=now_ms + wait_ms, wait_ms=wait_ms, failed_at_ms=failed_at_ms)


class Child(Protocol):
    """A process that can be supervised: an embedded server, or one of our programs."""

    needs: tuple[str, ...]  # children that must be ready at every start of this one
    after: tuple[str, ...]  # children that must have been ready once
    once: bool  # runs to its end; exit status 0 makes it done
    start_timeout_s: float
    stop_timeout_s: float
    hasty_stop_timeout_s: float

    @property
    def name(self) -> str:
        """Name in messages and in other children's `needs` and `after`."""

    @property
    def log(self) -> Path | None:
        """The file of its output; None: the terminal."""

    @property
    def title(self) -> str:
        """Title on the terminal once it is ready."""

    def spawn(self) -> None:
        """Start it; `is_ready` tells when it is ready. Raises EmbeddedError or OSError if it can't be started."""

    def is_ready(self) -> bool:
        """True if it is ready."""

    def poll(self) -> int | None:
        """Return None while it runs, else its exit status."""

    def ask_to_end(self) -> None:
        """Send the stop signal."""

    def kill(self) -> None:
        """Kill it now."""


class SupervisorListener(Protocol):
    """Callbacks for output."""

    def ready(self, child: Child, took_ms: int, *, again: bool) -> None:
        """It is ready, `took_ms` after its start."""

    def ended(self, child: Child, how: str, wait_ms: int) -> None:
        """It ended, and is restarted after `wait_ms`."""

    def given_up(self, child: Child, how: str, starts: int) -> None:
        """It ended after `starts` failed starts within a minute, and is not restarted."""


def monotonic_ms() -> int:
    """The clock of `ChildState`."""
    return time.monotonic_ns() // 1_000_000


def ask_to_end(children: Sequence[Child]) -> None:
    """Ask each of these children to end."""
    for child in children:
        child.ask_to_end()


class Supervisor:
    """Runs `children`: started in order as far as their needs allow, stopped in reverse order."""

    def __init__(
        self,
        children: Sequence[Child],
        teller: SupervisorListener,
        *,
        rules: RestartPolicy | None = None,
        now_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._children = children
        self._teller = teller
        self._rules = rules or RestartPolicy()
        self._now_ms = now_ms
        self._lives = {child.name: ChildState() for child in children}

    @property
    def all_ready(self) -> bool:
        """True if every child is ready or done."""
        return all(life.phase in (Phase.READY, Phase.DONE) for life in self._lives.values())

    @property
    def has_given_up(self) -> bool:
        """True if a child was given up."""
        return any(life.phase is Phase.GIVEN_UP for life in self._lives.values())

    def step(self) -> None:
        """Notice ended and ready children, and start those that are due. Never waits for a child."""
        for child in self._children:
            life = self._lives[child.name]
            if life.phase in (Phase.STARTING, Phase.READY):
                self._look_at(child, life)
            elif life.due(self._now_ms()) and self._may_start(child):
                self._start(child, life)

    def pause_s(self) -> float:
        """Return how long the caller may wait before the next `step`, unless a signal arrives."""
        lives = self._lives.values()
        if any(life.phase is Phase.STARTING for life in lives):
            return STARTING_PAUSE_S
        now_ms = self._now_ms()
        waits_ms = [life.at_ms - now_ms for life in lives if life.phase is Phase.WAITING]
        return max(STARTING_PAUSE_S, min([IDLE_PAUSE_S, *(wait_ms / 1000 for wait_ms in waits_ms)]))

    def stop(self, in_haste: Callable[[], bool], *, together: bool = False) -> None:
        """Stop all children: in reverse order, or all `together`. `in_haste` is polled: once true, the remaining
        children get a second stop signal."""
        running = [
            child
            for child in reversed(self._children)
            if self._lives[child.name].phase in (Phase.STARTING, Phase.READY) and child.poll() is None
        ]
        for group in [running] if together else [[child] for child in running]:
            self._stop(group, in_haste)

    def _stop(self, group: Sequence[Child], in_haste: Callable[[], bool]) -> None:
        ask_to_end(group)
        asked_at_ms, hurried = self._now_ms(), False
        while left := [child for child in group if child.poll() is None]:
            if in_haste() and not hurried:
                hurried = True
                ask_to_end(left)
            self._kill_overdue(left, asked_at_ms, hurried=hurried)
            time.sleep(STOP_PAUSE_S)

    def _kill_overdue(self, children: Sequence[Child], asked_at_ms: int, *, hurried: bool) -> None:
        """Kill the children that have not ended within their stop timeout."""
        for child in children:
            limit_s = child.hasty_stop_timeout_s if hurried else child.stop_timeout_s
            if self._now_ms() - asked_at_ms >= limit_s * 1000:
                child.kill()

    def _may_start(self, child: Child) -> bool:
        needed = (self._lives[name].phase for name in child.needs)
        return all(phase in (Phase.READY, Phase.DONE) for phase in needed) and all(
            self._lives[name].has_been_ready for name in child.after
        )

    def _start(self, child: Child, life: ChildState) -> None:
        self._lives[child.name] = life = life.started(self._now_ms())
        try:
            child.spawn()
        except (EmbeddedError, OSError) as error:
            self._end(child, life, f"can't be started: {error}")

    def _look_at(self, child: Child, life: ChildState) -> None:
        status = child.poll()
        now_ms = self._now_ms()
        if status is not None:
            if child.once and status == 0:
                self._lives[child.name] = life.done(now_ms)
                self._teller.ready(child, now_ms - life.at_ms, again=False)
            else:
                self._end(child, life, describe_exit(status))
        elif life.phase is Phase.STARTING:
            self._await_ready(child, life, now_ms)

    def _await_ready(self, child: Child, life: ChildState, now_ms: int) -> None:
        if not child.once and child.is_ready():
            self._lives[child.name] = life.ready(now_ms)
            self._teller.ready(child, now_ms - life.at_ms, again=life.has_been_ready)
        elif now_ms - life.at_ms >= child.start_timeout_s * 1000:
            child.kill()
            self._end(child, life, f"was not ready after {child.start_timeout_s:.0f} s")

    def _end(self, child: Child, life: ChildState, how: str) -> None:
        life = self._lives[child.name] = life.ended(self._now_ms(), self._rules)
        if life.phase is Phase.GIVEN_UP:
            self._teller.given_up(child, how, len(life.failed_at_ms))
        else:
            self._teller.ended(child, how, life.wait_ms)
