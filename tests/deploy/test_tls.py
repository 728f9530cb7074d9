"""The examples of TLS terminators, run by the real programs before proxies that show what reaches them, and when."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from threading import Event, Thread
from typing import TYPE_CHECKING, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from service.settings import load
from tests.deploy.judges import DEPLOY
from tests.support.ports import free_port
from tests.support.servers import program
from tests.support.waiting import settles_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAME = "ccproxy.example.com"
WAIT_S = 30.0
LARGE = b"x" * 3_000_000
ANSWER_S = 0.05
"""An answer comes after the last bytes of an upload have passed, as a provider's does: Caddy, and Go's server, cut the
answer to an HTTP/1.1 request whose end they have not seen on its way."""
NGINX_MAIN = """\
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  include {folder}/site.conf;
}}
"""


class Backend(ThreadingHTTPServer):
    """A proxy of a fleet. Streams go on when `go_on` is set; `begun` is set when a part of an upload has come."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.go_on = Event()
        self.begun = Event()
        self.seen: list[dict[str, str]] = []
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def leave(self) -> None:
        """End."""
        self.go_on.set()
        self.shutdown()
        self.server_close()


class Answers(BaseHTTPRequestHandler):
    """Streams on GET /v1/stream; counts bodies; else `here`."""

    server: Backend
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path != "/readyz":
            self.server.seen.append({name.lower(): value for name, value in self.headers.items()})
        if self.path != "/v1/stream":
            self.answer(b"here")
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"7\r\nfirst\n\n\r\n")
        self.server.go_on.wait(WAIT_S)
        self.wfile.write(b"6\r\nlast\n\n\r\n0\r\n\r\n")

    def do_POST(self) -> None:
        left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read1(min(left, 65_536)))
            self.server.begun.set()
        Event().wait(ANSWER_S)
        self.answer(self.headers["Content-Length"].encode())

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Certificate(NamedTuple):
    """Files of a certificate of `NAME`, and its key; `both` has the two of them."""

    chain: Path
    key: Path
    both: Path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Made for this run."""
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(NAME), x509.IPAddress(ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    files = Certificate(folder / "chain.pem", folder / "key.pem", folder / "both.pem")
    files.chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    files.both.write_bytes(files.chain.read_bytes() + files.key.read_bytes())
    return files


def changed(text: str, changes: dict[str, str]) -> str:
    """The text with each of these replaced, once."""
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def example(name: str) -> str:
    """A file of the project, without the notes at its head, which have its names, too."""
    text = (DEPLOY / "tls" / name).read_text(encoding="utf-8")
    return re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)


def caddy(folder: Path, port: int, ports: list[int], files: Certificate) -> list[str | Path]:
    """Caddy's command; certificates are given instead of asked for."""
    text = changed(
        example("Caddyfile"),
        {
            "{\n\tservers": "{\n\tadmin off\n\tauto_https disable_redirects\n\tservers",
            f"{NAME} {{": f"https://{NAME}:{port} {{\n\ttls {files.chain} {files.key}",
            "127.0.0.1:4181": f"127.0.0.1:{ports[0]}",
            "127.0.0.1:4182": f"127.0.0.1:{ports[1]}",
        },
    )
    (folder / "Caddyfile").write_text(text, encoding="utf-8")
    return [program("caddy", "caddy"), "run", "--adapter", "caddyfile", "--config", folder / "Caddyfile"]


def nginx(folder: Path, port: int, ports: list[int], files: Certificate) -> list[str | Path]:
    """nginx's command."""
    text = changed(
        example("nginx.conf"),
        {
            "listen 443": f"listen 127.0.0.1:{port}",
            "/etc/ssl/ccproxy/fullchain.pem": str(files.chain),
            "/etc/ssl/ccproxy/privkey.pem": str(files.key),
            "127.0.0.1:4181": f"127.0.0.1:{ports[0]}",
            "127.0.0.1:4182": f"127.0.0.1:{ports[1]}",
        },
    )
    (folder / "site.conf").write_text(text, encoding="utf-8")
    (folder / "nginx.conf").write_text(NGINX_MAIN.format(folder=folder), encoding="utf-8")
    return [program("nginx", "nginx-light"), "-c", folder / "nginx.conf", "-e", folder / "error.log"]


def haproxy(folder: Path, port: int, ports: list[int], files: Certificate) -> list[str | Path]:
    """HAProxy's command."""
    text = changed(
        example("haproxy.cfg"),
        {
            "bind :443": f"bind 127.0.0.1:{port}",
            "/etc/ssl/ccproxy/ccproxy.pem": str(files.both),
            "127.0.0.1:4181": f"127.0.0.1:{ports[0]}",
            "127.0.0.1:4182": f"127.0.0.1:{ports[1]}",
        },
    )
    (folder / "haproxy.cfg").write_text(text, encoding="utf-8")
    return [program("haproxy", "haproxy"), "-db", "-f", folder / "haproxy.cfg"]


class Terminated(NamedTuple):
    """A terminator with two proxies behind it."""

    port: int
    backends: list[Backend]
    files: Certificate

    def connection(self) -> HTTPSConnection:
        """A client's connection, by the public name."""
        context = ssl.create_default_context(cafile=str(self.files.chain))
        client = HTTPSConnection(NAME, self.port, timeout=WAIT_S, context=context)
        client._create_connection = lambda address, *rest: socket.create_connection(("127.0.0.1", address[1]), *rest)  # type: ignore[attr-defined]
        return client

    def asked(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Status and body of one request."""
        client = self.connection()
        try:
            client.request("GET", path, headers=headers)
            answer = client.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 0, b""
        finally:
            client.close()


@contextmanager
def started(command: Callable[..., list[str | Path]], folder: Path, files: Certificate) -> Iterator[Terminated]:
    """A terminator, from when it passes requests on."""
    port, backends = free_port(), [Backend(), Backend()]
    with ExitStack() as stack:
        for backend in backends:
            stack.callback(backend.leave)
        words = command(folder, port, [backend.server_port for backend in backends], files)
        environ = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(words, env=environ, cwd=folder, stdout=log, stderr=log)
        stack.callback(process.wait, WAIT_S)
        stack.callback(process.kill)
        made = Terminated(port, backends, files)
        settles_to((200, b"here"), lambda: made.asked("/v1/models") if process.poll() is None else (0, b"ended"))
        yield made


@pytest.fixture(scope="module", params=[caddy, nginx, haproxy], ids=lambda command: command.__name__)
def terminated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: Certificate
) -> Iterator[Terminated]:
    """Each terminator in turn."""
    with started(request.param, tmp_path_factory.mktemp("terminator"), certificate) as made:
        yield made


def test_each_event_of_a_stream_leaves_as_it_comes(terminated: Terminated) -> None:
    """The first one is there before the proxy has the next one."""
    for backend in terminated.backends:
        backend.go_on.clear()
    client = terminated.connection()
    client.request("GET", "/v1/stream")
    answer = client.getresponse()
    assert answer.read1() == b"first\n\n"
    for backend in terminated.backends:
        backend.go_on.set()
    assert answer.read() == b"last\n\n"
    client.close()


def test_an_upload_is_passed_on_as_it_comes(terminated: Terminated) -> None:
    """A body larger than usual limits; its first half arrives before its second is sent."""
    for backend in terminated.backends:
        backend.begun.clear()
    client = terminated.connection()
    client.putrequest("POST", "/v1/files")
    client.putheader("Content-Length", str(len(LARGE)))
    client.endheaders(LARGE[: len(LARGE) // 2])
    settles_to(True, lambda: any(backend.begun.is_set() for backend in terminated.backends))
    client.send(LARGE[len(LARGE) // 2 :])
    assert client.getresponse().read() == str(len(LARGE)).encode()
    client.close()


def test_the_client_cannot_say_where_it_comes_from(terminated: Terminated) -> None:
    """The terminator's word replaces the client's; the public name and https reach the proxy."""
    for backend in terminated.backends:
        backend.seen.clear()
    claims = {f"X-Forwarded-{what}": "6.6.6.6" for what in ("For", "Host", "Proto")}
    assert terminated.asked("/v1/models", **claims) == (200, b"here")
    [seen] = [request for backend in terminated.backends for request in backend.seen]
    assert (seen["x-forwarded-for"], seen["x-forwarded-proto"]) == ("127.0.0.1", "https")
    assert seen["host"].partition(":")[0] == NAME
    assert seen.get("x-forwarded-host", NAME).partition(":")[0] == NAME


def test_only_what_clients_need_is_served(terminated: Terminated) -> None:
    """The console stays inside, however its path is spelled."""
    for path in ("/v1/messages", "/v1/models/a%2Fb", "/messages", "/livez", "/readyz", "/health"):
        assert terminated.asked(path)[0] == 200, path
    inside = (
        "/dashboard",
        "/admin/api/keys",
        "/metrics",
        "/logs",
        "/config",
        "/",
        "/v1/../metrics",
        "/v1/%2e%2e/metrics",
    )
    found = {path: terminated.asked(path)[0] for path in inside}
    assert found == dict.fromkeys(inside, 404)


@pytest.mark.parametrize("command", [caddy, nginx, haproxy], ids=lambda command: command.__name__)
def test_a_proxy_that_has_died_costs_no_request(
    command: Callable[..., list[str | Path]], tmp_path: Path, certificate: Certificate
) -> None:
    """A refused connection goes to the next one, before a check has noticed."""
    with started(command, tmp_path, certificate) as made:
        made.backends[0].leave()
        assert {made.asked("/v1/models") for _ in range(6)} == {(200, b"here")}


UNITS = {"s": 1, "m": 60, "h": 3600}


@pytest.mark.parametrize(
    ("name", "patterns"),
    [
        ("nginx.conf", ["proxy_read_timeout", "proxy_send_timeout", "send_timeout", "client_body_timeout"]),
        ("haproxy.cfg", ["timeout client", "timeout server"]),
    ],
)
def test_silence_is_allowed_as_long_as_the_proxy_allows_it(name: str, patterns: list[str]) -> None:
    """Longer than the longest deadline; Caddy has no such limit unless one is set."""
    timeouts = load(environ={}).timeouts
    for pattern in patterns:
        [found] = re.findall(rf"^\s*{pattern}\s+(\d+)([smh])", example(name), re.MULTILINE)
        assert int(found[0]) * UNITS[found[1]] * 1000 > timeouts.request_ms
    assert not re.search(r"response_header_timeout|read_timeout|write_timeout|read_body|write ", example("Caddyfile"))
