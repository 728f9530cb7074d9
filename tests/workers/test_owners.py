"""`ccproxy ledger owners`: what versions before owners made is given to whoever made it, as the ledger tells."""

from collections.abc import Callable

import msgspec
import pytest

from service.ledger import wire
from service.ledger.events import ClientKeyIssued, Event, ResourceCreated
from tests.support.stream_factories import NOON_MS, STREAM, append, append_raw, ended, new_id, started
from tests.workers.conftest import Bench
from workers import cli

Run = Callable[..., tuple[int, str]]
CONTROL = "control"
LIFETIME_S = 3_600


def made(bench: Bench, seq: int, resource_id: str, client_key: str, owner: str = "") -> str:
    """Something that a request with this key made; what stands in Redis, with an owner where one is known there."""
    begun = msgspec.structs.replace(started(seq), client_key=client_key)
    noted = ResourceCreated(
        event_id=new_id(),
        at_ms=NOON_MS,
        replica="r1",
        seq=seq + 1,
        resource_id=resource_id,
        resource_kind="files",
        request_id=begun.request_id,
        client_key=client_key if owner else "",
    )
    events: list[Event] = [begun, noted]
    append(bench.redis, events)
    stands = f"{STREAM} {noted.event_id} {owner}".rstrip()
    bench.redis.set(wire.resource_key(resource_id), stands, ex=LIFETIME_S)
    return stands


def stands(bench: Bench, resource_id: str) -> str:
    value = bench.redis.get(wire.resource_key(resource_id))
    assert isinstance(value, bytes)
    return value.decode()


@pytest.fixture
def carol(bench: Bench) -> str:
    """A key on the ledger; its id is not its name."""
    issued = ClientKeyIssued(
        event_id=new_id(), at_ms=NOON_MS, replica="r1", seq=1, key_id="carol-1", name="carol d", sha256="0" * 64
    )
    append(bench.redis, [issued], CONTROL)
    bench.project(CONTROL)
    return "carol-1"


REPRICE = ("reprice", "--since", "2026-09-01", "--until", "2026-10-01")


@pytest.mark.parametrize("arguments", [("owners",), REPRICE, ("dead", "replay")])
def test_a_command_without_redis_says_what_check_says(
    bench: Bench, command: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """The address without its password, why, and the mend."""
    made(bench, 1, "file_1", "alice")
    append(bench.redis, [ended(3, cost_nusd=None)])
    append_raw(bench.redis, b"garbage")
    bench.project()
    monkeypatch.setenv("REDIS_URL", "redis://:marked-password@127.0.0.1:1/0")
    code, printed = command(cli.ledger, *arguments)
    words = " ".join(printed.split())
    assert code == 1
    assert "Redis at 127.0.0.1:1 can't be reached" in words or "Redis at 127.0.0.1:1 " in words
    assert "start it, or correct REDIS_URL" in words
    assert "marked" not in printed


def test_what_had_no_owner_gets_the_one_that_the_ledger_knows(bench: Bench, command: Run, carol: str) -> None:
    """By the key's name, for as long as the resource is kept; what has an owner, or had no key, stays as it is."""
    of_settings = made(bench, 1, "file_1", "alice")
    of_ledger = made(bench, 3, "file_2", carol)
    of_nobody = made(bench, 5, "file_3", "")
    owned = made(bench, 7, "file_4", "ben", owner="ben")
    made(bench, 9, "file_5", "alice")
    bench.redis.delete(wire.resource_key("file_5"))
    bench.project()
    code, printed = command(cli.ledger, "owners")
    assert (code, printed.split()[0]) == (0, "2")
    assert stands(bench, "file_1") == f"{of_settings} alice"
    assert stands(bench, "file_2") == f"{of_ledger} carol d"
    assert [stands(bench, "file_3"), stands(bench, "file_4")] == [of_nobody, owned]
    assert not bench.redis.exists(wire.resource_key("file_5"))
    assert 0 < bench.redis.ttl(wire.resource_key("file_1")) <= LIFETIME_S
    assert command(cli.ledger, "owners")[1].split()[0] == "0"
