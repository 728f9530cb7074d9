"""`ccproxy doctor`: one file for a bug report: versions, settings, check, status, metrics, last log lines.

Every file in it passes through one mask: no secret that this process can know is in it, wherever it may have been
written down. Not here: what the parts say (`check`, `fleet.status`, `console.redacted_settings`).
"""

import asyncio
import os
import platform
import re
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import click
import httpx
import msgspec
from redis.exceptions import RedisError

from service.commands import config_option, with_settings
from service.commands.check import check_all
from service.commands.logs import Followed
from service.console.auth import TOKEN_FILE
from service.console.redacted_settings import Leaf, leaves, redacted_settings_view
from service.embedded.run_file import running
from service.fleet.status import read_status
from service.oauth.credentials_file import CredentialsFile, NoLogin, Unreadable
from service.private_files import opener
from service.protocol.redaction import MASK, redact
from service.settings import Secret, Settings
from service.settings.secret import Address
from service.settings.variables import SECRETS
from service.telemetry.safe_text import visible
from service.telemetry.terminal import echo

DEFAULT_FILE = "ccproxy-doctor.zip"
LINES = 200
HTTP_TIMEOUT_S = 3.0
PASSWORDS = re.compile(r"password=('(?:[^'\\]|\\.)*'|[^\s&']+)")
LEAST_CHARS = 4
"""Shorter secrets would mask parts of words."""
README = """\
What `ccproxy doctor` found, for a bug report. Secrets are masked, and no prompts or answers are in it; look through it
before you send it, since names of hosts, models and folders are.

about.json      version, platform, Python, installed packages
settings.json   the settings in force
check.json      what `ccproxy check` finds
status.json     what `ccproxy status --json` shows
metrics.txt     /metrics of the running proxy
logs/           last lines of the logs
"""


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=Path(DEFAULT_FILE))
@config_option
def doctor(file: Path, config: Path | None) -> None:
    """Pack what a bug report needs into FILE, without secrets: versions, settings, check, status, metrics, logs."""
    settings = with_settings(config)
    secrets = tuple(sorted(filter(is_long, set(secrets_of(settings))), key=len, reverse=True))
    contents = {name: masked(text, secrets) for name, text in collect(settings, secrets)}
    try:
        with open(file, "wb", opener=opener) as opened, zipfile.ZipFile(opened, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, text in contents.items():
                packed.writestr(name, text)
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror or error}") from None
    echo(f"{file}: {', '.join(contents)}. Look through it before you send it; secrets are masked.")


def collect(settings: Settings, secrets: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield the names and texts of all files."""
    redis_url = settings.redis_url.reveal() if settings.redis_url else running(settings.home).get("redis_url")
    yield "README.txt", README
    yield "about.json", as_json(about())
    yield "settings.json", as_json({view.name: view.value for view in redacted_settings_view(settings)})
    yield "check.json", as_json(asyncio.run(check_all(settings, redis_url)))
    yield "status.json", as_json(status_of(settings, redis_url))
    yield "metrics.txt", fetched(settings, "/metrics", settings.metrics_token.reveal())
    yield "logs/proxy.json", fetched(settings, f"/logs?limit={LINES}", admin_token(settings))
    for path in sorted((settings.home / "logs").glob("*.log")):
        with suppress(OSError), Followed(path) as log:
            lines = [redact(visible(line), *secrets) for line in log.last(LINES)]
            yield f"logs/{path.stem}.txt", "\n".join(lines)


def about() -> dict[str, Any]:
    """Return versions and the platform."""
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": sys.version,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": dict(sorted({each.name: each.version for each in distributions()}.items())),
    }


def status_of(settings: Settings, redis_url: str | None) -> dict[str, Any]:
    """Return the fleet's status, or why there is none."""
    if not redis_url:
        return {"error": "no Redis is set, and no `ccproxy up` runs"}
    try:
        return read_status(settings, redis_url).fields()
    except (RedisError, OSError) as error:
        return {"error": str(error)}


def fetched(settings: Settings, path: str, token: str) -> str:
    """Return what the running proxy answers, or that it does not."""
    host = settings.host if settings.loopback else "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        url = f"http://{host}:{settings.port}{settings.base_path}{path}"
        return httpx.get(url, headers=headers, timeout=HTTP_TIMEOUT_S, trust_env=False).text
    except httpx.HTTPError as error:
        return as_json({"error": f"no proxy answers here ({error})"})


def admin_token(settings: Settings) -> str:
    """Return the admin token, "" if none was set or made yet."""
    return settings.admin_token.reveal() or text_of_file(settings.home / TOKEN_FILE)


# -- secrets


def secrets_of(settings: Settings) -> Iterator[str]:
    """Yield all secrets that this process can know."""
    for leaf in leaves(Leaf("", settings)):
        if isinstance(leaf.value, Address):
            yield from passwords_in(leaf.value.reveal())
        elif isinstance(leaf.value, Secret):
            yield leaf.value.reveal()
    yield from (os.environ.get(name, "") for name in SECRETS)
    for address in running(settings.home).values():
        yield from passwords_in(address)
    yield from (text_of_file(file) for file in (settings.home / TOKEN_FILE, *settings.home.glob("*/password")))
    for route in settings.routes:
        with suppress(NoLogin, Unreadable):
            tokens = CredentialsFile(route.credentials_path).read()
            yield from (tokens.access_token, tokens.refresh_token)


def is_long(secret: str) -> bool:
    """True if a secret can be told from a part of a word."""
    return len(secret) >= LEAST_CHARS


def passwords_in(address: str) -> Iterator[str]:
    """Yield an address, and the passwords in it, as they are written and decoded."""
    yield address
    owner = address.partition("://")[2].rpartition("@")[0]
    for found in (owner.partition(":")[2], *(found.strip("'") for found in PASSWORDS.findall(address))):
        yield from (found, unquote(found))


def text_of_file(path: Path) -> str:
    """Return a file's text without blanks around it, "" if there is none."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def masked(text: str, secrets: tuple[str, ...]) -> str:
    """Return a text without these secrets, the longest first."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def as_json(value: Any) -> str:
    """Return JSON for people."""
    return msgspec.json.format(msgspec.json.encode(value)).decode()
