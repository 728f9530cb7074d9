"""When a child is started again and when it is given up: the rules, on a clock that the tests turn."""

import pytest

from service.embedded import EmbeddedError
from service.embedded.supervisor import Child, ChildState, Phase, RestartPolicy, Supervisor

RULES = RestartPolicy()


@pytest.mark.parametrize(
    ("ran_ms", "last_wait_ms", "wait_ms"),
    [
        pytest.param(0, 0, 100, id="the first end waits 0.1 s"),
        pytest.param(0, 100, 200, id="the wait doubles"),
        pytest.param(0, 3_200, 5_000, id="up to 5 s"),
        pytest.param(0, 5_000, 5_000, id="and stays there"),
        pytest.param(29_999, 5_000, 5_000, id="just short of 30 s changes nothing"),
        pytest.param(30_000, 5_000, 100, id="30 s of service reset it"),
    ],
)
def test_the_wait_before_a_restart(ran_ms: int, last_wait_ms: int, wait_ms: int) -> None:
    """A child that was ready and ended waits as the rules say, and is due then and not before."""
    life = ChildState(wait_ms=last_wait_ms).started(0).ready(1_000).ended(1_000 + ran_ms, RULES)
    assert (life.phase, life.wait_ms) == (Phase.WAITING, wait_ms)
    assert life.due(1_000 + ran_ms + wait_ms)
    assert not life.due(1_000 + ran_ms + wait_ms - 1)


@pytest.mark.parametrize(
    ("failed_at_ms", "now_ms", "phase"),
    [
        pytest.param((), 0, Phase.WAITING, id="one failed start"),
        pytest.param((0, 1, 2), 3, Phase.WAITING, id="four within a minute"),
        pytest.param((0, 1, 2, 3), 59_999, Phase.GIVEN_UP, id="five within a minute"),
        pytest.param((0, 1, 2, 3), 60_000, Phase.WAITING, id="the first is a minute old"),
    ],
)
def test_five_failed_starts_within_a_minute_give_a_child_up(
    failed_at_ms: tuple[int, ...], now_ms: int, phase: Phase
) -> None:
    """Only starts that failed count, and only those of the last minute."""
    assert ChildState(failed_at_ms=failed_at_ms).started(now_ms).ended(now_ms, RULES).phase is phase


def test_crashes_of_a_child_that_was_ready_never_give_it_up() -> None:
    """A child killed again and again while it serves is started again each time."""
    life = ChildState()
    for crash in range(20):
        life = life.started(crash * 10).ready(crash * 10).ended(crash * 10, RULES)
    assert (life.phase, life.wait_ms) == (Phase.WAITING, RULES.longest_wait_ms)


class FakeChild:
    """A child that does what the test says, without a process."""

    def __init__(
        self, name: str, *, needs: tuple[str, ...] = (), after: tuple[str, ...] = (), once: bool = False
    ) -> None:
        self.name = self.title = name
        self.log = None
        self.needs = needs
        self.after = after
        self.once = once
        self.start_timeout_s = 1.0
        self.stop_timeout_s = self.hasty_stop_timeout_s = 0.0
        self.status: int | None = None
        self.serves = False
        self.refuses = False
        self.starts = 0
        self.killed = False

    def spawn(self) -> None:
        if self.refuses:
            raise EmbeddedError("no such program")
        self.starts += 1
        self.status = None

    def is_ready(self) -> bool:
        return self.serves

    def poll(self) -> int | None:
        return self.status

    def ask_to_end(self) -> None:
        self.status = 0

    def kill(self) -> None:
        self.killed = True
        self.status = -9


class Told:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def ready(self, child: Child, took_ms: int, *, again: bool) -> None:
        self.lines.append(f"{child.name} {'again' if again else 'ready'} {took_ms}")

    def ended(self, child: Child, how: str, wait_ms: int) -> None:
        self.lines.append(f"{child.name} {how} {wait_ms}")

    def given_up(self, child: Child, how: str, starts: int) -> None:
        self.lines.append(f"{child.name} {how} given up {starts}")


class FakeSystem:
    """A supervisor on fake children and a clock that stands until it is turned."""

    def __init__(self, *children: FakeChild) -> None:
        self.now_ms = 0
        self.told = Told()
        self.supervisor = Supervisor(children, self.told, now_ms=lambda: self.now_ms)

    def after_ms(self, passed_ms: int) -> None:
        """Turn the clock and take a step."""
        self.now_ms += passed_ms
        self.supervisor.step()


def test_a_child_starts_only_when_all_it_needs_is_ready() -> None:
    """The worker waits for the migrations, which wait for the database; and nothing waits for the worker."""
    database, worker = FakeChild("database"), FakeChild("worker", needs=("migrations",))
    migrations = FakeChild("migrations", needs=("database",), once=True)
    system = FakeSystem(database, migrations, worker)
    system.after_ms(0)
    system.after_ms(10)
    assert (database.starts, migrations.starts, worker.starts) == (1, 0, 0)
    database.serves = True
    system.after_ms(10)
    assert (migrations.starts, worker.starts) == (1, 0)
    migrations.status, worker.serves = 0, True
    system.after_ms(5)
    system.after_ms(5)
    assert system.supervisor.all_ready
    assert system.told.lines == ["database ready 20", "migrations ready 5", "worker ready 5"]


def test_what_comes_after_a_child_is_started_again_without_it() -> None:
    """The proxy waits for Redis at first, and later comes back though Redis is down; the worker waits each time."""
    redis, proxy, worker = (
        FakeChild("redis"),
        FakeChild("proxy", after=("redis",)),
        FakeChild("worker", needs=("redis",)),
    )
    system = FakeSystem(redis, proxy, worker)
    redis.serves = proxy.serves = worker.serves = True
    system.after_ms(0)
    system.after_ms(0)
    system.after_ms(0)
    assert system.supervisor.all_ready
    redis.serves = False
    redis.status = proxy.status = worker.status = -9
    system.after_ms(0)
    system.after_ms(100)
    system.after_ms(0)
    assert (redis.starts, proxy.starts, worker.starts) == (2, 2, 1)
    assert "redis was killed by SIGKILL 100" in system.told.lines
    assert "proxy again 0" in system.told.lines


def test_a_start_that_hangs_is_ended_and_counts_as_failed() -> None:
    """A child that is not ready in time is killed and waits like one that ended."""
    child = FakeChild("child")
    system = FakeSystem(child)
    system.after_ms(0)
    system.after_ms(999)
    assert system.told.lines == []
    system.after_ms(1)
    assert child.killed
    assert system.told.lines == ["child was not ready after 1 s 100"]
    assert system.supervisor._lives["child"].failed_at_ms == (1_000,)


def test_a_child_that_cannot_be_started_is_given_up_and_told_of() -> None:
    """The doing follows the rules: five starts, with their waits, then the end."""
    child = FakeChild("child")
    child.refuses = True
    system = FakeSystem(child)
    for wait_ms in (0, 100, 200, 400, 800, 5_000):
        system.after_ms(wait_ms)
    assert system.supervisor.has_given_up
    assert system.told.lines == [
        *(f"child can't be started: no such program {wait_ms}" for wait_ms in (100, 200, 400, 800)),
        "child can't be started: no such program given up 5",
    ]


def test_a_once_that_fails_is_tried_again_like_any_other() -> None:
    """Migrations that end with an error have not been done."""
    child = FakeChild("migrations", once=True)
    system = FakeSystem(child)
    system.after_ms(0)
    child.status = 3
    system.after_ms(0)
    assert system.told.lines == ["migrations exited with status 3 100"]
    assert not system.supervisor.all_ready


@pytest.mark.parametrize(
    ("waits", "pause_s"),
    [pytest.param(False, 0.02, id="while a child starts"), pytest.param(True, 0.1, id="until a restart is due")],
)
def test_the_pause_ends_when_something_is_due(*, waits: bool, pause_s: float) -> None:
    """The caller sleeps no longer than until the next thing to do, and no shorter."""
    child = FakeChild("child")
    system = FakeSystem(child)
    system.after_ms(0)
    if waits:
        child.status = 1
        system.after_ms(0)
    assert system.supervisor.pause_s() == pause_s


def test_children_end_in_the_opposite_order_and_those_that_will_not_are_killed() -> None:
    """The proxy goes before what it writes to; no child can keep `up` from ending."""
    order: list[str] = []

    class Stubborn(FakeChild):
        def ask_to_end(self) -> None:
            order.append(self.name)

    first, second, never = Stubborn("first"), Stubborn("second"), Stubborn("never", needs=("second",))
    system = FakeSystem(first, second, never)
    system.after_ms(0)
    system.supervisor.stop(in_haste=lambda: False)
    assert order == ["second", "first"]
    assert first.killed
    assert second.killed
    assert not never.killed
