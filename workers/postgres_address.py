"""The workers' addresses: of Postgres as libpq reads it, of Redis, from the settings or from a running `ccproxy up`.

A mistake in an address is found here, before anything waits for it. Not here: connecting (`store.connect`).
"""

import json
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from service.settings import Settings, SettingsError
from service.settings.address import PASSWORD_HINT
from workers.store import PostgresAddress

SYSTEM_STORES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # macOS, Alpine, BSD
    "/opt/homebrew/etc/openssl@3/cert.pem",
    "/usr/local/etc/openssl@3/cert.pem",
)
"""Files with the certificates that the system trusts. psycopg brings an OpenSSL of its own, whose default store is a
folder that exists on no machine, so that `sslrootcert=system` alone trusts nobody."""


def postgres_of(settings: Settings) -> PostgresAddress:
    """Return the ledger's database; a missing address ends the command. Raises SettingsError."""
    found = settings.database_url
    if found is None:
        return address_at("run.json", required(running_address(settings, "database_url"), "DATABASE_URL"), settings)
    return address_at("DATABASE_URL", found.reveal(), settings)


def direct_postgres_of(settings: Settings) -> PostgresAddress:
    """Return the same database without a pooler. Raises SettingsError."""
    direct = settings.database_direct_url
    return address_at("DATABASE_DIRECT_URL", direct.reveal(), settings) if direct else postgres_of(settings)


def address_at(name: str, text: str, settings: Settings) -> PostgresAddress:
    """Return an address that `name` sets, checked by libpq. Raises SettingsError, which repeats no password."""
    try:
        parts = conninfo_to_dict(text)
    except psycopg.ProgrammingError as error:
        raise SettingsError(f"{name}: {reason_of(error)}") from None
    if parts.get("sslrootcert") == "system" and (store := system_store()):
        text = make_conninfo(text, sslrootcert=store)
    return PostgresAddress(text, settings.database_connect_s)


def reason_of(error: psycopg.Error) -> str:
    """Return libpq's reason where it only names a parameter; others may quote a password."""
    text = " ".join(str(error).split())
    known = ("invalid URI query parameter", "invalid connection option", "invalid sslmode", "unrecognized connection")
    return text if text.startswith(known) else f"libpq can't read it; {PASSWORD_HINT}"


def system_store() -> str | None:
    """Return the file with the certificates that the system trusts, None if there is none."""
    return next((place for place in stores() if Path(place).is_file()), None)


def stores() -> Iterator[str]:
    """Candidates for the system's certificates; SSL_CERT_FILE comes first."""
    if named := os.environ.get("SSL_CERT_FILE"):
        yield named
    if usual := ssl.get_default_verify_paths().cafile:
        yield usual
    yield from SYSTEM_STORES


def redis_url_of(settings: Settings) -> str | None:
    """Return the URL of the ledger's Redis, None if nothing names one."""
    return settings.redis_url.reveal() if settings.redis_url else running_address(settings, "redis_url")


def running_address(settings: Settings, name: str) -> str | None:
    """Return an address published by a running `ccproxy up`."""
    try:
        found = json.loads((settings.home / "run.json").read_bytes())
    except (OSError, ValueError):
        return None
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, str) else None


def required(value: str | None, name: str) -> str:
    """Return a setting's value. Raises SettingsError if there is none."""
    if not value:
        raise SettingsError(f"{name} is not set; set it, or use `ccproxy up`, which starts its own servers")
    return value
