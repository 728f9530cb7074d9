"""`ccproxy serve` refuses to start where it would do harm, and says what mends it."""

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.fakes import reply
from tests.support.installation import Installation
from tests.support.messages import ask, client_of
from tests.support.ports import free_port
from tests.support.processes import run

pytestmark = pytest.mark.e2e


def refused(tmp_path: Path, variables: dict[str, str]) -> str:
    """What `serve` says when it refuses."""
    nowhere = {"REDIS_URL": "redis://127.0.0.1:9/0"}
    status, said = run("serve", home=tmp_path / "home", variables=nowhere | variables)
    assert status not in (0, None)
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(("name", "host"), [("ANTHROPIC_BASE_URL", "127.0.0.1"), ("ZAI_BASE_URL", "localhost")])
def test_a_loop_is_refused(tmp_path: Path, name: str, host: str) -> None:
    """An upstream that is this proxy itself is refused, and the exported variable is named."""
    port = free_port()
    said = refused(tmp_path, {"PROXY_PORT": str(port), name: f"http://{host}:{port}", "ANTHROPIC_API_KEY": "x"})
    assert "env -u ANTHROPIC_BASE_URL" in said


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """The message names the address, and the variable that moves the proxy."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused(tmp_path, {"PROXY_PORT": str(port)})
    assert f"127.0.0.1:{port}" in said
    assert "PROXY_PORT" in said


def test_a_second_proxy_on_the_same_port(installation: Installation, tmp_path: Path) -> None:
    """The same when a proxy is there already, which goes on serving."""
    first = installation.start_proxy()
    said = refused(tmp_path, {"PROXY_PORT": str(first.port)})
    assert "PROXY_PORT" in said
    assert first.answers()


def test_open_to_all_without_keys(tmp_path: Path) -> None:
    """Listening on every address without client keys is refused."""
    said = refused(tmp_path, {"PROXY_HOST": "0.0.0.0", "PROXY_PORT": str(free_port())})  # noqa: S104
    assert "PROXY_API_KEYS" in said
    assert "127.0.0.1" in said


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"PROXY_PORT": "many"}, "PROXY_PORT"),
        ({"ANTHROPIC_BASE_URL": "ftp://x"}, "ANTHROPIC_BASE_URL"),
        ({"QUOTA_WARNING_THRESHOLD": "0"}, "QUOTA_WARNING_THRESHOLD"),
        ({"PROXY_API_KEYS": "short"}, "PROXY_API_KEYS"),
        ({"CCPROXY_CONFIG": "/nowhere/at/all.toml"}, "/nowhere/at/all.toml"),
    ],
)
def test_a_bad_setting_names_its_place(tmp_path: Path, variables: dict[str, str], named: str) -> None:
    """A setting that can't be used ends the start with its name."""
    assert named in refused(tmp_path, {"PROXY_PORT": str(free_port()), **variables})


def test_it_ends_cleanly_when_asked(installation: Installation) -> None:
    """SIGTERM and SIGINT end a proxy with status 0, without a word of trouble."""
    for number in (signal.SIGTERM, signal.SIGINT):
        proxy = installation.start_proxy()
        os.kill(proxy.process.pid, number)
        assert proxy.wait() == 0
        assert "Traceback" not in proxy.text


def test_an_answer_in_flight_ends_before_the_proxy_does(installation: Installation) -> None:
    """A proxy that is asked to end lets its streams end first."""
    proxy = installation.start_proxy()
    installation.anthropic.script(reply.slow(700, "content_block_delta"))
    body = {"model": "claude-opus-5-5", "max_tokens": 9, "messages": [], "stream": True}
    with client_of(proxy.url) as client:
        headers = {"anthropic-version": "2023-06-01"}
        with client.stream("POST", "/v1/messages", json=body, headers=headers) as answer:
            chunks = answer.iter_raw()
            got = next(chunks)
            os.kill(proxy.process.pid, signal.SIGTERM)
            got += b"".join(chunks)
    assert b"message_stop" in got
    assert proxy.wait() == 0


def test_without_redis_it_serves_all_the_same(installation: Installation) -> None:
    """A proxy whose Redis is not there yet serves; what happened waits on disk."""
    port = free_port()
    proxy = installation.launch({"REDIS_URL": f"redis://127.0.0.1:{port}/0"}).ready("/livez")
    with client_of(proxy.url) as client:
        assert [ask(client).status_code for _ in range(3)] == [200] * 3
    proxy.stop()
    assert list((proxy.home / "spool").glob("*/*.spool"))
