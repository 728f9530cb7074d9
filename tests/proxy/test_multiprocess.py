"""Several processes on one address, as `ccproxy serve` runs them: what dies is replaced, all take leave together."""

import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fakes import FakeProvider, reply
from tests.support.installation import ANTHROPIC_KEY, Proxy
from tests.support.processes import Command, run
from tests.support.proxies import STREAM
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e
NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def fake() -> Iterator[FakeProvider]:
    with FakeProvider("anthropic", keys={ANTHROPIC_KEY}) as made:
        yield made


@pytest.fixture
def proxy(tmp_path: Path, fake: FakeProvider) -> Iterator[Proxy]:
    variables = {
        "PROXY_WORKERS": "2",
        "REDIS_URL": NOWHERE,
        "ANTHROPIC_API_KEY": ANTHROPIC_KEY,
        "ANTHROPIC_BASE_URL": fake.base_url,
    }
    with Proxy(home=tmp_path / "home", variables=variables) as made:
        made.wait_until(lambda: made.text.count("process.ready") == 2)
        yield made


def children(proxy: Command) -> list[int]:
    """Every process that was started, in order."""
    return [int(pid) for pid in re.findall(r"process\.started .*pid=(\d+)", proxy.text)]


def test_one_that_dies_is_replaced(proxy: Proxy) -> None:
    """The address is answered on all the while, and there are two again."""
    first, second = children(proxy)
    os.kill(first, signal.SIGKILL)
    for _ in range(20):
        assert httpx.get(proxy.url + "/livez", trust_env=False).status_code == 200
    eventually(lambda: proxy.text.count("process.ready") == 3)
    assert len({first, second, *children(proxy)}) == 3
    assert {spool.name for spool in (proxy.home / "spool").glob("*")} == set(), "nothing was to be written down"


def test_a_process_holds_nothing_of_the_others(proxy: Proxy) -> None:
    """They share the listening socket alone, which goes to no further process; no secret stands in a command line."""
    first, second = (descriptors(pid) for pid in children(proxy))
    assert {*first.values()} & {*second.values()} == {SHARED, *own_files(proxy)}
    for pid in children(proxy):
        listener = next(number for number, meant in descriptors(pid).items() if meant == SHARED)
        assert int(fact(f"/proc/{pid}/fdinfo/{listener}", "flags:"), 8) & os.O_CLOEXEC
        assert ANTHROPIC_KEY.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


SHARED = "the listening socket"


def descriptors(pid: int) -> dict[str, str]:
    """What a process holds open; numbers of event loops' own kinds tell nothing, nor does libffi, which maps itself."""
    found = {path.name: os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    listening = {
        f"socket:[{line.split()[9]}]" for line in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in line
    }
    named = {number: SHARED if meant in listening else meant for number, meant in found.items()}
    own_kinds = re.compile(r"anon_inode:|/.*/libffi\.so[.\d]*$")
    return {number: meant for number, meant in named.items() if not own_kinds.match(meant)}


def own_files(proxy: Proxy) -> set[str]:
    """Where they write to, as their parent does."""
    return {os.readlink(f"/proc/{proxy.process.pid}/fd/1"), "/dev/null"}


def fact(path: str, name: str) -> str:
    """A line of a file of the kernel's."""
    return next(line.split()[1] for line in Path(path).read_text().splitlines() if line.startswith(name))


def test_whichever_process_is_asked_tells_of_all(proxy: Proxy) -> None:
    """What was counted in any of them, and in one that has died since."""
    for number in range(12):  # a connection each, so that both have some
        answer = httpx.post(proxy.url + "/v1/messages", json=STREAM, trust_env=False, timeout=30)
        assert answer.status_code == 200, number
    eventually(lambda: counted(proxy) == (12.0, 0.0))
    assert [counted(proxy) for _ in range(6)] == [(12.0, 0.0)] * 6
    os.kill(children(proxy)[0], signal.SIGKILL)
    eventually(lambda: proxy.text.count("process.ready") == 3)
    assert [counted(proxy) for _ in range(6)] == [(12.0, 0.0)] * 6
    proxy.stop()
    assert not list(proxy.home.glob("metrics-*"))


def counted(proxy: Proxy) -> tuple[float, float]:
    """Requests answered, and under way, as one of the processes tells."""
    text = httpx.get(proxy.url + "/metrics", trust_env=False).text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert "ccproxy_outbox_pending_events" in values
    done = values['ccproxy_requests_total{endpoint="messages",verdict="ok"}']
    return float(done), float(values["ccproxy_requests_in_flight"])


def test_all_take_leave_together(proxy: Proxy, fake: FakeProvider) -> None:
    """Streams under way come whole, no connection is left waiting, nobody is left behind."""
    fake.default = reply.drip(60)
    with httpx.Client(base_url=proxy.url, trust_env=False, timeout=30) as client:
        streams = [
            client.send(client.build_request("POST", "/v1/messages", json=STREAM), stream=True) for _ in range(4)
        ]
        proxy.process.terminate()
        assert all(b"event: message_stop" in stream.read() for stream in streams)
    assert proxy.wait() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children(proxy))


def test_a_taken_address_is_said_once(tmp_path: Path) -> None:
    """No child is started for it; the mend is named."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        variables = {"PROXY_WORKERS": "2", "PROXY_PORT": str(taken.getsockname()[1]), "REDIS_URL": NOWHERE}
        status, said = run("serve", home=tmp_path, variables=variables)
    assert status == 1
    assert "PROXY_PORT" in said
    assert "process.started" not in said
