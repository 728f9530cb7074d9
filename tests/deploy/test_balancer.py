"""The balancer's configuration in a real HAProxy, before proxies that are told how ready they are."""

from __future__ import annotations

import re
import subprocess
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from tests.deploy.judges import DEPLOY
from tests.support.ports import free_port
from tests.support.servers import program
from tests.support.waiting import settles_to

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT_S = 30
CLAIMS = ("For", "Host", "Proto")
"""What a client may claim in X-Forwarded headers."""
OFFER = {"Connection": "Upgrade", "Upgrade": "h2c"}
"""Java's HTTP client sends it with every request."""


class Proxy(ThreadingHTTPServer):
    """Says who it is, and what it was told about the client."""

    daemon_threads = True

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.name = name
        self.ready = True


class Answers(BaseHTTPRequestHandler):
    """/readyz as told; else the name."""

    server: Proxy

    def do_GET(self) -> None:
        """Answer."""
        fine = self.path != "/readyz" or self.server.ready
        told = "upgrade offered " if "Upgrade" in self.headers else ""
        body = f"{self.server.name} {told}{[self.headers.get(f'X-Forwarded-{what}') for what in CLAIMS]}".encode()
        self.send_response(200 if fine else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def balanced(folder: Path, *proxies: Proxy, **environ: str) -> Iterator[int]:
    """The port of a HAProxy with the project's configuration before these proxies, in Compose's environment."""
    environ = {"BIND_ADDRESS": "127.0.0.1", "PUBLISH_CONSOLE": "false", "PROXY_BASE_PATH": ""} | environ
    port = free_port()
    text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text(encoding="utf-8")
    servers = "\n".join(f"  server {proxy.name} 127.0.0.1:{proxy.server_port}" for proxy in proxies)
    text, changed = re.subn(r"  server-template .*", servers, text)
    assert changed == 1
    text = text.replace("bind :4181", f"bind 127.0.0.1:{port}").replace(" resolvers containers init-addr none", "")
    (folder / "haproxy.cfg").write_text(text, encoding="utf-8")
    command = [str(program("haproxy", "haproxy")), "-db", "-f", str(folder / "haproxy.cfg")]
    with ExitStack() as stack:
        for proxy in proxies:
            Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            stack.callback(proxy.server_close)
            stack.callback(proxy.shutdown)
        balancer = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(balancer.wait, WAIT_S)
        stack.callback(balancer.kill)
        yield port


def asked(port: int, path: str = "/v1/models") -> tuple[int, str]:
    """The status and the answer of one request on a connection of its own."""
    client = HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        client.request("GET", path, headers=OFFER | {f"X-Forwarded-{what}": "6.6.6.6" for what in CLAIMS})
        answer = client.getresponse()
        return answer.status, answer.read().decode()
    except ConnectionError:
        return 0, ""
    finally:
        client.close()


def answering(port: int) -> set[str]:
    """Who answers eight requests."""
    return {
        text.partition(" ")[0] if status == 200 else str(status) for status, text in (asked(port) for _ in range(8))
    }


def test_only_ready_proxies_are_asked(tmp_path: Path) -> None:
    """Who is not ready gets nothing new, until it is ready again."""
    one, other = Proxy("one"), Proxy("other")
    with balanced(tmp_path, one, other) as port:
        settles_to({"one", "other"}, lambda: answering(port))
        one.ready = False
        settles_to({"other"}, lambda: answering(port))
        other.ready = False
        settles_to({"503"}, lambda: answering(port))
        one.ready = other.ready = True
        settles_to({"one", "other"}, lambda: answering(port))


def test_the_client_cannot_say_where_it_comes_from(tmp_path: Path) -> None:
    """The balancer's word replaces the client's; and no proxy hears of an upgrade that the client offers."""
    with balanced(tmp_path, Proxy("one")) as port:
        settles_to({"one"}, lambda: answering(port))
        assert asked(port) == (200, "one ['127.0.0.1', None, None]")


def test_a_proxy_that_has_died_costs_no_request(tmp_path: Path) -> None:
    """Before the check has noticed, a refused connection goes to the next one."""
    one, other = Proxy("one"), Proxy("other")
    with balanced(tmp_path, one, other) as port:
        settles_to({"one", "other"}, lambda: answering(port))
        one.shutdown()
        one.server_close()
        assert answering(port) == {"other"}


CONSOLE = (
    "/dashboard",
    "/admin/api/overview",
    "/metrics",
    "/schema/openapi.json",
    "/logs",
    "/config",
    "/v1",
    "/messagesx",
    "///v1/x",
    "/x/v1/y",
)
CLIMBS = (
    "/v1/../admin/api/keys",
    "/v1/%2e%2e/metrics",
    "/v1/..%2fmetrics",
    "/v1/x/..",
    "/v1/..;/metrics",
    "/v1/..%5cx",
)


@pytest.mark.parametrize(
    ("environ", "prefix", "console"),
    [
        ({}, "", 200),
        ({"BIND_ADDRESS": "localhost"}, "", 200),
        ({"BIND_ADDRESS": "0.0.0.0"}, "", 404),  # noqa: S104 - an address on which Docker publishes
        ({"BIND_ADDRESS": "192.0.2.1", "PROXY_BASE_PATH": "/anthropic"}, "/anthropic", 404),
        ({"BIND_ADDRESS": "192.0.2.1", "PUBLISH_CONSOLE": "true"}, "", 200),
    ],
    ids=["loopback", "localhost", "everywhere", "prefix", "published"],
)
def test_the_console_is_for_this_machine(tmp_path: Path, environ: dict[str, str], prefix: str, console: int) -> None:
    """Published on a network, the balancer serves clients and health alone, however the path is spelled."""
    with balanced(tmp_path, Proxy("one"), **environ) as port:
        settles_to({"one"}, lambda: {asked(port, f"{prefix}/v1/models")[1][:3]})
        for path in ("/v1/messages", "//v1/messages", "/messages", "/v1/models/a%2Fb", "/livez", "/readyz?x=1"):
            assert asked(port, f"{prefix}{path}")[0] == 200, path
        found = {path: asked(port, path)[0] for path in (*CONSOLE, *(f"{prefix}{path}" for path in CLIMBS))}
        assert found == dict.fromkeys(found, console)
