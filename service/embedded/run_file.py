"""Where the servers of this machine are: as the settings say, else as a running `ccproxy up` has written down."""

from pathlib import Path

import msgspec

from service.settings import Settings
from service.settings import redis_url as redis_address

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


def running(home: Path) -> dict[str, str]:
    """What a running `ccproxy up` has written down about itself: addresses with their passwords."""
    try:
        found = msgspec.json.decode((home / "run.json").read_bytes(), type=dict[str, object])
    except (OSError, msgspec.DecodeError):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def redis_url_of(settings: Settings) -> str:
    """The ledger's Redis."""
    return settings.redis_url or running(settings.home).get("redis_url") or DEFAULT_REDIS_URL


def place_of(url: str) -> str:
    """Redis's address without user and password, for messages."""
    return redis_address.place_of(url).shown
