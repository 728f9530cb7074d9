"""Addresses of this machine's servers: from the settings, or from a running `ccproxy up`."""

from pathlib import Path

import msgspec

from service.settings import Settings
from service.settings import redis_url as redis_address

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


def running(home: Path) -> dict[str, str]:
    """Return the addresses, with passwords, that a running `ccproxy up` has written."""
    try:
        found = msgspec.json.decode((home / "run.json").read_bytes(), type=dict[str, object])
    except (OSError, msgspec.DecodeError):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def redis_url_of(settings: Settings) -> str:
    """Return the URL of the ledger's Redis."""
    if settings.redis_url:
        return settings.redis_url.reveal()
    return running(settings.home).get("redis_url") or DEFAULT_REDIS_URL


def place_of(url: str) -> str:
    """Return Redis's address without user and password, for messages."""
    return redis_address.place_of(url).shown
