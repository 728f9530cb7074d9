"""The laws of backups: what comes back is what was saved, whole or not at all, and nothing is counted twice."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import msgspec
import psycopg
import pytest

from service.embedded.postgres import Postgres
from service.ledger import wire
from service.ledger.events import ClientKeyIssued
from service.ledger.state import RouteLedger
from tests.support.server_fixtures import TABLES, address_of
from tests.support.stream_factories import NOON_MS, STREAM, append, append_each, append_raw, ended, many, new_id
from tests.workers.conftest import Bench
from workers import cli
from workers.backup import MANIFEST, back_up
from workers.migrate import migrate
from workers.restore import Backup, restore
from workers.retention import Retention
from workers.store import WEEK_MS, connect

Run = Callable[..., tuple[int, str]]


def fill(bench: Bench) -> None:
    """A ledger with something in every table: a closed week, a live one, keys, garbage, contradictions."""
    append(bench.redis, [ended(1, at_ms=NOON_MS - 3 * WEEK_MS)])
    bench.project()
    bench.redis.xtrim(wire.events_key(STREAM), maxlen=0, approximate=False)
    event = ended(2, model_sent="a\tb\\n", outcome="failed", kind="server_error", scope="provider", status=500)
    append(bench.redis, [event, *many(20, "r2")])
    append_raw(bench.redis, b'[{"type":"unheard_of","event_id":"x","at_ms":1,"replica":"r1","seq":3}]')
    append(bench.redis, [msgspec.structs.replace(event, status=501, seq=4)])
    bench.project()
    key = ClientKeyIssued(event_id=new_id(), at_ms=NOON_MS, key_id="k1", name="Alïce", sha256="0" * 64)
    append(bench.redis, [key], wire.CONTROL)
    for stream in (STREAM, wire.CONTROL):
        bench.new_publisher().publish(bench.projector.load_ledger(stream) or bench.project(stream))
    bench.new_publisher().publish(bench.project(wire.CONTROL))
    Retention(bench.new_archive, 1, lambda: (NOON_MS + WEEK_MS) / 1000).drop_expired()


def contents(bench: Bench) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, but for how often Redis was begun anew, and when that was."""
    found = {name: bench.rows(f"SELECT * FROM ccproxy.{name} AS t ORDER BY t::text") for name in TABLES}  # noqa: S608
    columns = "stream, stream_id, position, hash, state::text, dead, quarantined, kept_from"
    found["checkpoints"] = bench.rows(f"SELECT {columns} FROM ccproxy.checkpoints ORDER BY stream")  # noqa: S608
    return found


def drop(bench: Bench) -> None:
    """Lose the database."""
    bench.execute("DROP SCHEMA ccproxy CASCADE")


def test_backup_drop_restore_verify_equal(bench: Bench, command: Run, tmp_path: Path) -> None:
    """Every row of every table is there again, the ledger is proved, and the file was for its owner alone."""
    bench.execute("ALTER TABLE ccproxy.asides ALTER COLUMN number RESTART WITH 1000")
    fill(bench)
    before = contents(bench)
    assert all(before[name] for name in TABLES)
    file = tmp_path / "ledger.zip"
    status, output = command(cli.backup, str(file))
    assert (status, stat.S_IMODE(file.stat().st_mode)) == (0, 0o600)
    assert "23 events in 2 streams" in output
    drop(bench)
    status, output = command(cli.restore_ledger, str(file), "--json")
    told = json.loads(output)
    assert (status, told["ok"], told["redis_told"], told["gaps"]) == (0, True, True, [])
    assert {report["stream"]: report["position"] for report in told["streams"]} == {STREAM: 22, wire.CONTROL: 1}
    assert contents(bench) == before
    assert [path.name for path in tmp_path.glob("*ledger.zip*")] == ["ledger.zip"]
    append_raw(bench.redis, b'[{"type":"unheard_of","event_id":"x","at_ms":1,"replica":"r9","seq":1}]')
    append(bench.redis, [ended(9)])
    assert bench.new_projector().project(STREAM)
    assert bench.verify().ok
    numbers = sorted(number for (number,) in bench.rows("SELECT number FROM ccproxy.asides"))
    assert numbers[0] >= 1_000
    assert len(numbers) == len(before["asides"]) + 1, "numbering goes on behind what was put back"


def test_a_backup_under_traffic_is_of_one_moment(bench: Bench, command: Run, tmp_path: Path) -> None:
    """Workers fold on while it is made; put back, it is proved, and what came after it is folded from Redis."""
    events = many(400)
    append_each(bench.redis, events[:100])
    bench.project()
    stopping, begun = Event(), Event()

    def work() -> None:
        rest = iter(events[100:])
        projector = bench.new_projector()
        while not stopping.is_set():
            append(bench.redis, [event for event, _ in zip(rest, range(5), strict=False)])
            projector.project(STREAM)
            begun.set()

    worker = Thread(target=work)
    worker.start()
    begun.wait(30)
    status, output = command(cli.backup, str(tmp_path / "b.zip"), "--json")
    stopping.set()
    worker.join()
    assert status == 0
    (place,) = json.loads(output)["manifest"]["streams"]
    assert place["position"] > 100
    append(bench.redis, [event for event in events if event.seq == len(events)])
    bench.project()
    counted, folded = bench.attempts(), bench.count("events")
    status, _ = command(cli.restore_ledger, str(tmp_path / "b.zip"), "--replace")
    assert (status, bench.attempts(), bench.count("events")) == (0, counted, folded)
    bench.check_chain()


def test_workers_and_proxies_go_on_after_a_restore(bench: Bench, command: Run, tmp_path: Path) -> None:
    """The snapshot that follows is newer than any before; a worker that held the lost ledger in memory forgets it;
    a stream that the backup does not know is begun again."""
    append(bench.redis, many(5))
    bench.new_publisher().publish(bench.project())
    command(cli.backup, str(tmp_path / "b.zip"))
    append(bench.redis, many(5, "r2"))
    append(bench.redis, many(3), "zai")
    for stream in (STREAM, "zai"):
        bench.new_publisher().publish(bench.project(stream))
    stood = bench.snapshot()
    assert stood
    bench.execute("UPDATE ccproxy.checkpoints SET epoch = 7 WHERE stream = %s", STREAM)
    assert command(cli.restore_ledger, str(tmp_path / "b.zip"), "--replace")[0] == 0
    now = bench.snapshot()
    assert now
    assert (now.epoch, now.position) == (9, 10)  # above what was replaced; once more for the stream read anew
    assert (bench.attempts(), bench.attempts("zai")) == (10, 3)
    append(bench.redis, [ended(6)])
    append(bench.redis, [ended(4)], "zai")
    for stream, attempts in ((STREAM, 11), ("zai", 4)):
        ledger = bench.project(stream).ledger
        assert isinstance(ledger, RouteLedger)
        counted = sum(
            u.attempts for by_model in ledger.usage.values() for keys in by_model.values() for u in keys.values()
        )
        assert (counted, bench.attempts(stream)) == (attempts, attempts)
        bench.check_chain(stream)


def test_a_stream_without_a_checkpoint_is_opened_again(bench: Bench) -> None:
    """A ledger may be replaced under a worker by one that lacks a stream; the worker does not wait for ever."""
    append(bench.redis, many(2))
    bench.project()
    bench.execute("DELETE FROM ccproxy.events; DELETE FROM ccproxy.usage_hourly; DELETE FROM ccproxy.checkpoints")
    assert bench.projector.project(STREAM) is None
    assert bench.project().position == 2


def test_what_redis_trimmed_is_told(bench: Bench, command: Run, tmp_path: Path) -> None:
    """Entries behind the backup that are gone from the stream are in no ledger, and that is said."""
    append(bench.redis, many(2))
    bench.project()
    command(cli.backup, str(tmp_path / "b.zip"))
    append(bench.redis, [ended(3)])
    append(bench.redis, [ended(4)])
    bench.redis.xtrim(wire.events_key(STREAM), maxlen=1, approximate=False)
    status, output = command(cli.restore_ledger, str(tmp_path / "b.zip"), "--replace")
    assert (status, bench.attempts()) == (0, 3)
    assert "anthropic: events between" in output


def test_a_ledger_with_events_is_not_replaced_unasked(bench: Bench, command: Run, tmp_path: Path) -> None:
    """Nor is a file overwritten."""
    append(bench.redis, many(2))
    bench.project()
    file = tmp_path / "b.zip"
    assert command(cli.backup, str(file))[0] == 0
    content = file.read_bytes()
    status, output = command(cli.backup, str(file))
    assert (status, file.read_bytes()) == (1, content)
    assert "already exists" in output
    append(bench.redis, [ended(3)])
    bench.project()
    status, output = command(cli.restore_ledger, str(file))
    assert (status, bench.attempts()) == (1, 3)
    assert "--replace" in output


def cut_off(file: Path) -> None:
    """The end is missing."""
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_byte(file: Path) -> None:
    """A byte of a table is another."""
    content = bytearray(file.read_bytes())
    content[content.index(b"tables/usage_hourly.copy") + 60] ^= 1
    file.write_bytes(content)


def rewrite(file: Path, change: Callable[[str, bytes], bytes]) -> None:
    """Change members, and let the archive's own checksums fit again."""
    with ZipFile(file) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, change(name, content))


def change_a_count(file: Path) -> None:
    """A table says something else than when it was written."""
    rewrite(file, lambda name, content: content.replace(b"alice", b"mallo") if "usage" in name else content)


def leave_out_the_manifest(file: Path) -> None:
    """Some other archive."""
    rewrite(file, lambda name, content: b"{}" if name == MANIFEST else content)


def come_from_tomorrow(file: Path) -> None:
    """A version made it that has migrations which we lack."""
    later = b'"migrations": [[9999, "later", "00"],'
    rewrite(file, lambda name, content: content.replace(b'"migrations": [', later) if name == MANIFEST else content)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut_off, "is truncated"),
        (flip_a_byte, "damaged"),
        (change_a_count, "does not match the manifest"),
        (leave_out_the_manifest, "not a ledger backup"),
        (come_from_tomorrow, "newer than this version"),
    ],
)
def test_a_file_that_cannot_be_trusted_changes_nothing(
    bench: Bench, command: Run, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    """Whatever is wrong with it is found before the ledger is touched."""
    append(bench.redis, many(2))
    bench.project()
    file = tmp_path / "b.zip"
    assert command(cli.backup, str(file))[0] == 0
    before = contents(bench)
    spoil(file)
    status, output = command(cli.restore_ledger, str(file), "--replace")
    assert (status, contents(bench)) == (1, before)
    assert words in output


def test_an_older_backup_is_brought_up_to_date(bench: Bench, empty_database: Postgres, tmp_path: Path) -> None:
    """It is put into the schema that it was made of; the migrations since then are applied to its rows."""
    with connect(address_of(empty_database)) as connection:
        migrate(connection, upto=2)
        connection.execute(
            "INSERT INTO ccproxy.checkpoints (stream, epoch, run_id, stream_id, position, hash, state) "
            "VALUES ('zai', 3, 'run', '5-0', 0, %s, '{}')",
            (bytes(32),),
        )
        connection.execute(
            "INSERT INTO ccproxy.dead_letters (stream, digest, stream_id, epoch, raw, reason) "
            "VALUES ('zai', 'd', '1-0', 1, 'raw', 'why')"
        )
        manifest = back_up(connection, tmp_path / "old.zip")
    assert manifest.schema == 2
    drop(bench)
    with connect(bench.address) as connection, Backup(tmp_path / "old.zip") as saved:
        restore(connection, saved)
    assert bench.rows("SELECT stream, dead, epoch, run_id FROM ccproxy.checkpoints") == [("zai", 1, 4, "")]
    assert bench.verify("zai").ok


def test_a_file_that_cannot_be_written_is_told(bench: Bench, command: Run, tmp_path: Path) -> None:
    """An exit code and the place; no half of a file is left."""
    append(bench.redis, many(2))
    bench.project()
    status, output = command(cli.backup, str(tmp_path / "nowhere" / "b.zip"))
    assert status == 1
    assert "nowhere" in output
    assert not list(tmp_path.glob("**/*.part"))


def test_a_backup_waits_for_nobody_and_keeps_nobody_waiting(bench: Bench, tmp_path: Path) -> None:
    """A worker in the middle of a transaction, and one that begins a new week, go on."""
    append(bench.redis, many(2))
    bench.project()
    with psycopg.connect(bench.postgres.url) as worker, connect(bench.address) as connection:
        worker.execute("SELECT 1 FROM ccproxy.checkpoints FOR UPDATE")
        assert back_up(connection, tmp_path / "b.zip").rows > 0


def test_no_week_is_dropped_under_a_backup(bench: Bench, tmp_path: Path) -> None:
    """Retention tries again later; what the snapshot shows is copied."""
    append(bench.redis, [ended(1, at_ms=NOON_MS - 3 * WEEK_MS)])
    bench.project()
    retention = Retention(bench.new_archive, 1, lambda: (NOON_MS + WEEK_MS) / 1000)
    tries: list[Exception] = []

    def look(_: int) -> None:
        if not tries:
            with pytest.raises(psycopg.errors.LockNotAvailable) as error:
                retention.drop_expired()
            tries.append(error.value)

    with connect(bench.address) as connection:
        manifest = back_up(connection, tmp_path / "b.zip", look)
    assert tries
    assert sum(table.rows for table in manifest.tables if table.name.startswith("events_")) == 1
    assert retention.drop_expired()


def test_a_backup_that_breaks_off_leaves_nothing(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a file nor a draft."""
    append(bench.redis, many(2))
    bench.project()

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    with connect(bench.address) as connection, pytest.raises(KeyboardInterrupt):
        back_up(connection, Path("b.zip"), interrupt)
    assert list(tmp_path.iterdir()) == []
