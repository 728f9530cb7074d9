"""The laws of retention: whole weeks go, what they came to stays, and the ledger can still be proved."""

from threading import Thread

import msgspec
import pytest

from service.ledger import wire
from service.ledger.events import FOLD_RULES, ClientKeyIssued, Event
from tests.support.stream_factories import NOON_MS, STREAM, append, ended, new_id, started
from tests.support.waiting import eventually
from tests.workers.conftest import Bench
from workers.archive import Archive
from workers.rebuild import rebuild
from workers.retention import Damaged, Retention, drop_week, expired_weeks
from workers.store import WEEK_MS, first_id, partition_name, week_of
from workers.worker_process import WorkerProcess

WEEK = week_of(new_id())
LATER_MS = NOON_MS + WEEK_MS
CELLS = "SELECT route, hour, model, client_key, attempts, input FROM ccproxy.usage_hourly ORDER BY 1, 2, 3, 4"


@pytest.fixture
def weeks(bench: Bench) -> Bench:
    """A ledger over four weeks on two routes; events of neighbouring weeks mixed in the order of their positions."""
    drop_partitions(bench)
    append(bench.redis, [started(1), ended(2, client_key="bob"), ended(3, at_ms=LATER_MS)])
    append(bench.redis, [ended(4), ended(5, at_ms=LATER_MS, outcome="failed", kind="reset", scope="route")])
    append(bench.redis, [ended(6, at_ms=LATER_MS + 2 * WEEK_MS)])
    append(bench.redis, [ended(1, replica="r2", at_ms=LATER_MS)], "zai")
    issued = ClientKeyIssued(event_id=new_id(), at_ms=NOON_MS, key_id="k", name="Alice", sha256="0" * 64)
    append(bench.redis, [issued], wire.CONTROL)
    for stream in (STREAM, "zai", wire.CONTROL):
        bench.project(stream)
    return bench


def drop_partitions(bench: Bench) -> None:
    """Forget the weeks of other tests."""
    archive = bench.new_archive()
    for name in archive.partitions():
        bench.execute(f"DROP TABLE ccproxy.{name}")


def look(bench: Bench, keep_weeks: int, at_ms: int) -> list[str]:
    """Drop what is expired at a moment."""
    return Retention(bench.new_archive, keep_weeks, clock=lambda: at_ms / 1000).drop_expired()


def check(bench: Bench) -> None:
    """All streams can be proved."""
    for stream in (STREAM, "zai", wire.CONTROL):
        assert bench.verify(stream).differences == ()


@pytest.mark.parametrize(("keep_weeks", "expired"), [(0, []), (1, [WEEK - 3, WEEK - 2]), (2, [WEEK - 3]), (3, [])])
def test_a_week_is_expired_when_all_of_it_is_older(keep_weeks: int, expired: list[int]) -> None:
    """0 keeps them for ever; 1 keeps the running week and the one before it."""
    assert expired_weeks([WEEK, WEEK - 1, WEEK - 3, WEEK - 2], keep_weeks, NOON_MS) == expired


def test_a_dropped_week_leaves_its_balance(weeks: Bench) -> None:
    """Events go, usage, health, keys and open attempts stay, and verify starts from the balance."""
    before = weeks.rows("SELECT * FROM ccproxy.usage_hourly ORDER BY route, hour, model, client_key")
    assert look(weeks, 3, LATER_MS + 3 * WEEK_MS) == [partition_name(WEEK)]
    assert weeks.rows("SELECT * FROM ccproxy.usage_hourly ORDER BY route, hour, model, client_key") == before
    assert weeks.rows("SELECT stream, position FROM ccproxy.balances") == [(STREAM, 4)]
    assert weeks.rows("SELECT position FROM ccproxy.events WHERE stream = %s ORDER BY position", STREAM) == [
        (3,),
        (5,),
        (6,),
    ]
    assert weeks.count("control_events") == 1
    check(weeks)
    report = weeks.verify()
    assert (report.from_position, report.position, report.events) == (4, 6, 2)


def test_weeks_are_dropped_one_after_the_other(weeks: Bench) -> None:
    """Each closes on the balance of the one before, for every stream that has rows in it."""
    assert look(weeks, 1, LATER_MS + 3 * WEEK_MS) == [partition_name(WEEK), partition_name(WEEK + 1)]
    assert weeks.rows("SELECT stream, position FROM ccproxy.balances ORDER BY stream") == [(STREAM, 5), ("zai", 1)]
    assert look(weeks, 1, LATER_MS + 3 * WEEK_MS) == []
    check(weeks)


def test_folding_and_rebuilding_go_on_from_a_balance(weeks: Bench) -> None:
    """Workers that held the ledger and new ones fold on; a rebuild makes the same cells."""
    look(weeks, 1, LATER_MS + 3 * WEEK_MS)
    append(weeks.redis, [ended(7, at_ms=LATER_MS + 2 * WEEK_MS)])
    assert weeks.project().position == 7
    check(weeks)
    before = weeks.rows(CELLS)
    weeks.execute("DELETE FROM ccproxy.usage_hourly WHERE route = %s", STREAM)
    rebuild(weeks.new_archive(), STREAM)
    assert weeks.rows(CELLS) == before
    check(weeks)


def test_later_events_of_a_dropped_week_go_to_quarantine(weeks: Bench) -> None:
    """It can't be known whether they were counted, unless their number was heard before: a stream that is read again
    brings those as well. The others' numbers are heard now; what is around them is folded."""
    known = ended(8)
    append(weeks.redis, [known])
    weeks.project()
    look(weeks, 3, LATER_MS + 3 * WEEK_MS)
    append(weeks.redis, [known, ended(9), ended(10, at_ms=LATER_MS + 2 * WEEK_MS)])
    projected = weeks.project()
    assert (projected.position, projected.quarantined) == (8, 1)
    assert projected.ledger.heard["r1"].gaps == [(7, 7)]
    assert weeks.rows("SELECT DISTINCT reason FROM ccproxy.quarantine") == [
        ("its week was dropped, and it may have been counted",)
    ]
    check(weeks)


def test_a_new_stream_knows_of_dropped_weeks(weeks: Bench) -> None:
    """No stream brings a dropped week back."""
    look(weeks, 3, LATER_MS + 3 * WEEK_MS)
    append(weeks.redis, [ended(1)], "subscription")
    assert weeks.project("subscription").quarantined == 1
    assert partition_name(WEEK) not in weeks.new_archive().partitions()


def test_what_is_put_aside_after_the_balance_is_proved(weeks: Bench) -> None:
    """At the very position at which the balance was closed."""
    weeks.execute("DELETE FROM ccproxy.checkpoints WHERE stream = 'zai'")
    append(weeks.redis, [ended(9, replica="r9"), ended(9, replica="r9")], "house")
    weeks.project("house")
    look(weeks, 3, LATER_MS + 3 * WEEK_MS)
    append(weeks.redis, [ended(11, replica="r9")], "house")
    assert weeks.project("house").quarantined == 1
    assert weeks.verify("house").differences == ()


def test_two_workers_drop_a_week_once(weeks: Bench) -> None:
    """Who comes second finds it done, or another at it."""
    one, other = weeks.new_archive(), weeks.new_archive()
    with one.connection.transaction():
        assert one.lock_retention()
        assert not drop_week(other, WEEK, partition_name(WEEK))
    assert drop_week(other, WEEK, partition_name(WEEK))
    assert not drop_week(one, WEEK, partition_name(WEEK))
    check(weeks)


@pytest.mark.parametrize("step", ["close_stream", "drop_partition"])
def test_a_death_on_the_way_changes_nothing(weeks: Bench, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Balances and the drop are one transaction."""

    def breaking(self: Archive, *arguments: object) -> None:
        original(self, *arguments)
        raise RuntimeError("killed")

    original = getattr(Archive, step)
    with monkeypatch.context() as patch:
        patch.setattr(Archive, step, breaking)
        with pytest.raises(RuntimeError, match="killed"):
            look(weeks, 3, LATER_MS + 3 * WEEK_MS)
    assert (weeks.count("balances"), weeks.count("events")) == (0, 7)
    assert look(weeks, 3, LATER_MS + 3 * WEEK_MS) == [partition_name(WEEK)]
    check(weeks)


def test_what_is_folded_meanwhile_is_in_the_balance(weeks: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event of the week that comes between the reading and the locks belongs to the balance."""
    original = Archive.lock_retention

    def late(self: Archive) -> bool:
        append(weeks.redis, [ended(12)])
        weeks.project()
        return original(self)

    monkeypatch.setattr(Archive, "lock_retention", late)
    look(weeks, 3, LATER_MS + 3 * WEEK_MS)
    assert weeks.rows("SELECT position FROM ccproxy.balances") == [(7,)]
    check(weeks)


def test_damaged_rows_are_not_dropped(weeks: Bench) -> None:
    """They are evidence; the mistake is named."""
    weeks.execute("DELETE FROM ccproxy.events WHERE position = 2")
    with pytest.raises(Damaged, match="position 2: missing"):
        look(weeks, 3, LATER_MS + 3 * WEEK_MS)
    assert weeks.count("balances") == 0


def test_a_worker_drops_weeks_by_itself(weeks: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting is heeded at start, in a thread that ends with the process."""
    monkeypatch.setattr("workers.worker_process.RETENTION_INTERVAL_S", 0.01)
    process = WorkerProcess(weeks.valkey.url, weeks.valkey.url, weeks.address, weeks.address, 3)
    process.retention = Retention(weeks.new_archive, 3, clock=lambda: (LATER_MS + 3 * WEEK_MS) / 1000)
    thread = Thread(target=process.retain)
    thread.start()
    eventually(lambda: weeks.rows("SELECT 1 FROM ccproxy.balances"))
    process.stopping.set()
    thread.join()
    assert weeks.rows("SELECT DISTINCT kept_from::text FROM ccproxy.checkpoints") == [(first_id(WEEK + 1),)]
    process.store.close()


def test_names_before_a_balance_are_known_behind_it(bench: Bench) -> None:
    """An hour in which both weeks end attempts has its models from both sides of the balance."""
    drop_partitions(bench)

    def named(numbers: range, id_ms: int) -> list[Event]:
        made = (ended(seq, at_ms=id_ms, model_sent=f"m-{seq}", fold_rules=FOLD_RULES) for seq in numbers)
        return [msgspec.structs.replace(event, at_ms=LATER_MS) for event in made]

    append(bench.redis, [*named(range(1, 64), NOON_MS), *named(range(64, 80), LATER_MS)])
    bench.project()
    assert look(bench, 1, LATER_MS + WEEK_MS)
    assert bench.rows("SELECT count(*) FROM ccproxy.usage_closed") == [(63,)]
    assert bench.verify().differences == ()
    append(bench.redis, named(range(80, 90), LATER_MS))
    bench.project()
    assert bench.verify().differences == ()
    assert bench.rows("SELECT attempts FROM ccproxy.usage_hourly WHERE model = 'other'") == [(25,)]
