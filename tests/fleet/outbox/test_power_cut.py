"""Redis goes away with what it took last, and the proxy dies before it is back."""

from pathlib import Path

from service.fleet.outbox import FRESH_MS
from tests.fleet.outbox.conftest import MakeOutbox
from tests.support.outbox_factories import STREAM, ScriptedPort, heard, started
from tests.support.waiting import wait_until


async def test_what_redis_took_last_is_on_disk_once_it_is_away(make: MakeOutbox, tmp_path: Path) -> None:
    """The next process on this host appends what was acknowledged and not heard, though both have died."""
    port = ScriptedPort()
    victim = make(port, "victim")
    await victim.start()
    for _ in range(4):
        await victim.append(STREAM, started())
    await victim.discard_acknowledged(heard(1, replica="victim"))
    port.usual = "refuse"
    await victim.append(STREAM, started())
    await wait_until(lambda: list((tmp_path / "spool" / "victim").glob("*.spool")))
    await victim.stop()
    empty = ScriptedPort()
    heir = make(empty, "heir")
    await heir.start()
    await wait_until(lambda: sorted(empty.seqs()) == [2, 3, 4, 5])
    await heir.stop()


async def test_what_redis_took_long_ago_is_not_written_again(make: MakeOutbox, tmp_path: Path) -> None:
    """It lies on the disk of Redis: an outage does not begin with writing down all that no snapshot has heard."""
    port = ScriptedPort()
    outbox = make(port, "r1")
    await outbox.start()
    old = started()
    await outbox.append(STREAM, type(old)(event_id=old.event_id, at_ms=old.at_ms - 2 * FRESH_MS, request_id="q-old"))
    port.usual = "refuse"
    await outbox.append(STREAM, started())
    [segment] = (tmp_path / "spool" / "r1").glob("*.spool")
    assert b"q-old" not in segment.read_bytes()
    await outbox.stop()
