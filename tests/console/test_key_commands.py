"""`ccproxy keys` against a real Valkey: shown once, kept as a hash, and what a proxy then reads."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from redis import Redis

from service.cli import main
from service.embedded.valkey import Valkey
from service.fleet.control_stream import read_control
from service.ledger import wire


class Terminal:
    """A shell whose settings name the test's Valkey."""

    def __init__(self, url: str, home: Path) -> None:
        self.environ = {"REDIS_URL": url, "CCPROXY_HOME": str(home)}

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["keys", *arguments], env=self.environ)

    def ok(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout.strip()


@pytest.fixture
def terminal(valkey: Valkey, redis: Redis, tmp_path: Path) -> Terminal:  # noqa: ARG001 - emptied for us
    return Terminal(valkey.url, tmp_path)


def test_a_key_is_shown_once_and_kept_as_a_hash(terminal: Terminal, redis: Redis) -> None:
    """What standard output has is the key; the stream has its hash, its limits and who made it."""
    key = terminal.ok("issue", "Ann B.", "--weekly-tokens", "5000", "--weekly-cost", "1.25", "--models", "claude-*, x")
    [(key_id, kept)] = read_control(redis).keys.items()
    assert key.startswith("ccp_ann-b-")
    assert key_id in key
    assert kept.sha256 == sha256(key.encode()).hexdigest()
    assert (kept.name, kept.weekly_tokens, kept.weekly_cost_nusd) == ("Ann B.", 5000, 1_250_000_000)
    assert kept.models == ("claude-*", "x")
    stream = str(redis.xrange(wire.events_key(wire.CONTROL)))
    assert key not in stream
    assert key.rpartition("_")[2] not in stream
    assert '"by":"cli ' in stream
    assert key not in terminal.ok("list")
    assert "sha256" not in terminal.ok("list", "--json")


def test_a_terminal_folds_no_id(terminal: Terminal, redis: Redis) -> None:
    """It is what one copies: with 80 columns, and long names and limits beside it."""
    terminal.environ |= {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "80"}
    for name in ("a.client.with-a-long-name", "ben"):
        terminal.ok(
            "issue", name, "--weekly-tokens", "5M", "--models", "claude-haiku-*, claude-sonnet-*", "--expires", "30d"
        )
    lines = terminal.ok("list").splitlines()
    assert len(lines) > 3, "it was folded for a terminal"
    assert {
        key_id for key_id in read_control(redis).keys if any(line.startswith(f"{key_id} ") for line in lines)
    } == set(read_control(redis).keys)


def test_a_limit_that_is_not_named_stays_and_a_revoked_key_is_gone(terminal: Terminal, redis: Redis) -> None:
    """`limit` changes what is named, `none` removes it; `revoke` takes the key away, by name or by id."""
    terminal.ok("issue", "ann", "--weekly-tokens", "1.5M", "--weekly-cost", "2.5", "--routes", "zai", "--models", "a,b")
    terminal.ok("limit", "ann", "--concurrency", "2", "--expires", "2031-05-05", "--models", "none")
    [(key_id, kept)] = read_control(redis).keys.items()
    assert (kept.weekly_tokens, kept.weekly_cost_nusd, kept.concurrency) == (1_500_000, 2_500_000_000, 2)
    assert (kept.routes, kept.models) == (("zai",), ())
    terminal.ok("limit", "ann", "--weekly-tokens", "none", "--weekly-cost", "none", "--routes", "none")
    kept = read_control(redis).keys[key_id]
    assert (kept.weekly_tokens, kept.weekly_cost_nusd, kept.routes, kept.concurrency) == (None, None, (), 2)
    assert kept.expires_at_ms == 1_935_792_000_000, "the day itself is whole"
    assert "2 concurrent" in terminal.ok("list")
    terminal.ok("revoke", key_id)
    assert read_control(redis).keys == {}
    assert "There are no keys" in terminal.ok("list")


def test_a_name_is_taken_once(terminal: Terminal) -> None:
    """A second key of one name would make `revoke NAME` a guess."""
    terminal.ok("issue", "ann")
    again = terminal.run("issue", "ann")
    assert again.exit_code == 1
    assert "already" in again.output


def test_ensure_makes_one_key_alone(terminal: Terminal, redis: Redis) -> None:
    """A container that starts a second time makes no second key."""
    first = msgspec.json.decode(terminal.ok("ensure", "--json"))
    assert first["key"].startswith("ccp_default-")
    assert terminal.ok("ensure") == ""
    assert list(read_control(redis).keys) == [first["key_id"]]


def test_a_snapshot_and_what_follows_it_are_one_ledger(terminal: Terminal, redis: Redis) -> None:
    """Keys of the snapshot and keys that came behind it are both there."""
    terminal.ok("issue", "ann")
    ledger = read_control(redis)
    entries: Any = redis.xrevrange(wire.events_key(wire.CONTROL), count=1)
    last = entries[0][0].decode()
    made = wire.Snapshot(
        version=wire.SNAPSHOT_VERSION, stream=wire.CONTROL, epoch=1, position=1, stream_id=last, as_of_ms=0,
        ledger=msgspec.Raw(wire.encode_ledger(ledger)),
    )  # fmt: skip
    redis.set(wire.snapshot_key(wire.CONTROL), wire.encode_snapshot(made))
    redis.xtrim(wire.events_key(wire.CONTROL), maxlen=0)
    terminal.ok("issue", "ben")
    assert sorted(key.name for key in read_control(redis).keys.values()) == ["ann", "ben"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["revoke", "nobody"], "no key 'nobody'"),
        (["issue", "../x"], "not a valid key name"),
        (["issue", "x", "--expires", "soon"], "'soon' is not a time; use a date"),
        (["issue", "x", "--expires", "2020-01-01"], "in the past; `ccproxy keys revoke` ends a key at once"),
        (["issue", "x", "--expires", "9999-12-31"], "is not a time"),
        (["issue", "x", "--concurrency", "0"], "0 is not between 1 and"),
        (["issue", "x", "--weekly-tokens", "1.5"], "'1.5' is not a whole number"),
        (["issue", "x", "--weekly-cost", "nan"], "'nan' is not a number"),
        (["issue", "x", "--models", ""], "`--models none` allows all"),
        (["limit", "x"], "no limit is named"),
    ],
)
def test_an_error_names_the_mend(terminal: Terminal, arguments: list[str], words: str) -> None:
    """What can't be done is said in words."""
    result = terminal.run(*arguments)
    assert result.exit_code != 0
    assert words in result.output


def test_without_redis_it_says_so(tmp_path: Path) -> None:
    """No password of the address is shown."""
    result = Terminal("redis://:secret-marked@127.0.0.1:1/0", tmp_path).run("list")
    assert result.exit_code == 1
    assert "start it, or correct REDIS_URL" in result.output
    assert "secret-marked" not in result.output
