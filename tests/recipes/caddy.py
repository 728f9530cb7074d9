"""A real Caddy with a recipe's Caddyfile, and Python clients that take its site's name for this machine."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from service.embedded.managed_process import ManagedProcess
from tests.support.ports import free_port, listens
from tests.support.servers import program
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GLOBAL = """\
{{
	admin off
	http_port {http}
	https_port {https}
	local_certs
	skip_install_trust
	storage file_system {folder}/storage
}}
"""
STOP_S = 10.0
CUSTOMIZE = """\
import socket

resolve = socket.getaddrinfo


def getaddrinfo(host, port, *more, **others):
    if host in ("{site}", b"{site}"):
        host, port = "127.0.0.1", {port}
    return resolve(host, port, *more, **others)


socket.getaddrinfo = getaddrinfo
"""


class Site(NamedTuple):
    """Where a site of Caddy's is, and who vouches for its certificate."""

    port: int
    root_certificate: Path


@contextmanager
def caddy(folder: Path, caddyfile: str) -> Iterator[Site]:
    """The site of this Caddyfile, with certificates of Caddy's own, on a port that anybody may have."""
    https = free_port()
    text = GLOBAL.format(http=free_port(), https=https, folder=folder) + caddyfile
    file = folder / "Caddyfile.here"
    file.write_text(text, encoding="utf-8")
    command: list[str | Path] = [program("caddy", "caddy"), "run", "--adapter=caddyfile", "--config", file]
    log = folder / "caddy.log"
    with log.open("wb") as output:
        process = ManagedProcess(command, environ={"HOME": str(folder)}, output=output.fileno())
    try:
        root = folder / "storage" / "pki" / "authorities" / "local" / "root.crt"
        eventually(lambda: (listens(https) and root.exists()) or process.poll() is not None)
        assert process.poll() is None, log.read_text(encoding="utf-8")
        yield Site(https, root)
    finally:
        process.stop(STOP_S)


def python_variables(folder: Path, name: str, site: Site) -> dict[str, str]:
    """The environment of a Python program that finds a site by its name, and trusts it."""
    customized = folder / "customized"
    customized.mkdir()
    (customized / "sitecustomize.py").write_text(CUSTOMIZE.format(site=name, port=site.port), encoding="utf-8")
    return {"PYTHONPATH": str(customized), "SSL_CERT_FILE": str(site.root_certificate)}
