"""A hundred hostile requests of each heavy kind, without a key, on a real process: its memory stays small, and it
answers others meanwhile."""

import asyncio
import gzip
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.raw import RawClient, request
from tests.support.installation import Proxy

REQUESTS = 100
AT_ONCE = 50
TRIES = 4
MOST_BYTES = 200_000_000
ANSWER_S = 0.3
EVERY_S = 0.02
JUNK = {"x-api-key": "junk"}
BOMB = gzip.compress(b" " * 30_000_000)
BLOCKS = b'{"messages":[{"content":[' + b"{}," * 80_000 + b"{}]}]}"
KINDS: dict[str, bytes] = {
    "compressed": request(BOMB, headers=JUNK | {"content-encoding": "gzip"}),
    "compressed twice": request(gzip.compress(BOMB), headers=JUNK | {"content-encoding": "gzip, gzip"}),
    "large": request(b" " * 2_000_000, headers=JUNK),
    "never ending": request(b" " * 200_000, headers=JUNK | {"content-length": "33000000"}),
    "blocks": request(BLOCKS, headers=JUNK),
    "deep": request(b"[" * 200_000, headers=JUNK),
    "no key": request(b" " * 2_000_000),
    "batch": request(b" " * 2_000_000, "/v1/messages/batches", headers=JUNK),
    "login": request(b'{"token":"' + b"x" * 2_000_000 + b'"}', "/admin/api/session"),
    "upload": request(b" " * 2_000_000, "/v1/files", headers=JUNK | {"content-type": "multipart/form-data"}),
}


async def attack(proxy: Proxy, kind: str, number: int, free: asyncio.Semaphore) -> int:
    """One request, which is sent whole whatever is answered meanwhile; the status of the answer. It comes from an
    address that has not guessed too often, so that nobody is kept waiting."""
    data, address = KINDS[kind], f"127.{1 + [*KINDS].index(kind)}.0.{1 + number // TRIES}"
    async with free:
        streams = await asyncio.open_connection("127.0.0.1", proxy.port, local_addr=(address, 0))
        client = RawClient(*streams)
        try:
            sending = asyncio.ensure_future(client.send(data))
            status = (await client.receive()).status
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            return status
        finally:
            await client.close()


async def longest_answer_s(proxy: Proxy, over: asyncio.Event) -> float:
    """How long the slowest look whether the process lives takes, while the attack is on."""
    longest_s = 0.0
    client = await RawClient.connect(proxy.url)
    while not over.is_set():
        began_s = time.monotonic()
        assert (await client.ask(request(target="/livez", method="GET"))).status == 200
        longest_s = max(longest_s, time.monotonic() - began_s)
        await asyncio.sleep(EVERY_S)
    await client.close()
    return longest_s


def most_memory(proxy: Proxy) -> int:
    """The most memory that the process has ever held."""
    lines = Path(f"/proc/{proxy.process.pid}/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    variables = {
        "PROXY_API_KEYS": "ann:" + "k" * 32,
        "ADMIN_TOKEN": "t" * 32,
        "ANTHROPIC_API_KEY": "a" * 40,
        "REDIS_URL": "redis://127.0.0.1:1",
    }
    with Proxy(home=tmp_path_factory.mktemp("strangers"), variables=variables) as served:
        yield served.ready("/livez")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize("kind", KINDS)
async def test_strangers_cost_next_to_nothing(proxy: Proxy, kind: str) -> None:
    """None of them is heard, and nobody waits for them."""
    over, free = asyncio.Event(), asyncio.Semaphore(AT_ONCE)
    watching = asyncio.ensure_future(longest_answer_s(proxy, over))
    async with asyncio.timeout(60):
        statuses = await asyncio.gather(*(attack(proxy, kind, number, free) for number in range(REQUESTS)))
        over.set()
        assert await watching < ANSWER_S
    assert set(statuses) == {413 if kind == "login" else 401}
    assert most_memory(proxy) < MOST_BYTES
