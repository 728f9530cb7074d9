"""No prompt, no answer and no secret is kept: not in the logs, not in Redis, not in Postgres, not on disk."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.fakes import reply
from tests.support.installation import ANTHROPIC_KEY, ZAI_KEY, Installation
from tests.support.ledger_reader import LedgerReader
from tests.support.messages import ASK, STREAM, ask, client_of
from tests.support.processes import LOGS

pytestmark = pytest.mark.e2e

PROXY_KEY = "proxy-key-secretly-marked"
CLIENTS_KEY = "sk-ant-api03-secretly-marked"
MARKED = ("prompt-xyzzy", "system-xyzzy", "answer-xyzzy", "tool-xyzzy", "query-xyzzy", "header-xyzzy", "user-xyzzy")
SECRETS = (PROXY_KEY, CLIENTS_KEY, ANTHROPIC_KEY, ZAI_KEY)


def test_what_passes_through_leaves_no_trace(installation: Installation, ledger: LedgerReader) -> None:
    """Marked texts in prompts, answers, tools, queries and headers, and marked keys, are found nowhere after."""
    proxy = installation.start_proxy({"PROXY_API_KEYS": f"team:{PROXY_KEY}", "LOG_LEVEL": "debug"})
    direct = installation.start_proxy({"ANTHROPIC_API_KEY": "", "ZAI_API_KEY": "", "LOG_LEVEL": "debug"})
    ids = [request(proxy.url, installation, body, {"x-api-key": PROXY_KEY}) for body in (ASK, STREAM)]
    installation.anthropic.keys = {CLIENTS_KEY}
    ids += [request(direct.url, installation, body, {"x-api-key": CLIENTS_KEY}) for body in (ASK, STREAM)]
    for request_id in ids:
        ledger.wait_for_ends(request_id)
    ledger.settle()
    proxy.stop()
    direct.stop()
    found = [(place, word) for place, text in everything(installation) for word in (*MARKED, *SECRETS) if word in text]
    assert found == []


def request(url: str, installation: Installation, body: dict[str, Any], headers: dict[str, str]) -> str:
    """A request full of marks, answered in full and in part, well and badly. The id of the last."""
    told = body | {
        "system": "system-xyzzy",
        "messages": [{"role": "user", "content": "prompt-xyzzy"}],
        "tools": [{"name": "tool-xyzzy", "input_schema": {"type": "object"}}],
        "metadata": {"user_id": '{"session_id": "s", "device_id": "user-xyzzy"}'},
    }
    installation.anthropic.script(
        reply.tool_use("tool-xyzzy", {"a": "prompt-xyzzy"}, text="answer-xyzzy"),
        reply.reset("content_block_delta"),
        reply.reset("request"),
        reply.empty(),
    )
    last = ""
    with client_of(url) as client:
        for _ in range(5):
            answer = ask(client, told, {"x-custom": "header-xyzzy", **headers}, path="/v1/messages?q=query-xyzzy")
            last = answer.headers["x-ccproxy-request-id"]
    return last


def everything(installation: Installation) -> Iterator[tuple[str, str]]:
    """All that is kept of it."""
    for path in LOGS:
        yield str(path), path.read_text(encoding="utf-8", errors="replace")
    for path in installation.folder.glob("proxy-*/**/*"):
        if path.is_file():
            yield str(path), path.read_text(encoding="utf-8", errors="replace")
    yield from in_redis(installation)
    yield from in_postgres(installation)


def in_redis(installation: Installation) -> Iterator[tuple[str, str]]:
    """Every key with its value, whatever its type."""
    with installation.redis() as redis:
        readers: dict[bytes, Any] = {
            b"string": redis.get,
            b"hash": redis.hgetall,
            b"set": redis.smembers,
            b"stream": redis.xrange,
            b"list": lambda key: redis.lrange(key, 0, -1),
            b"zset": lambda key: redis.zrange(key, 0, -1),
        }
        keys: list[bytes] = list(redis.scan_iter(count=1000))
        assert any(b"snapshot" in key for key in keys)
        for key in keys:
            if kind := redis.type(key):
                yield key.decode(), "" if kind == b"none" else f"{key!r}{readers[kind](key)!r}"


def in_postgres(installation: Installation) -> Iterator[tuple[str, str]]:
    """Every row of every table of ours."""
    with psycopg.connect(installation.postgres.url, autocommit=True) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'ccproxy'").fetchall()
        assert ("events",) not in tables or len(tables) > 5
        for (table,) in tables:
            for row in connection.execute(f"SELECT t::text FROM ccproxy.{table} t".encode()):  # noqa: S608
                yield table, row[0]


def test_no_process_has_stumbled(installation: Installation) -> None:
    """So far no process has met a fault of its own."""
    assert installation.folder.exists()
    for path in LOGS:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        assert [line for line in lines if any(word in line for word in ("Traceback", "request.failed"))] == [], path
