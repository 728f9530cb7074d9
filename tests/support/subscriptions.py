"""A subscription as it is found on a machine: Claude Code's credentials file, and the fake that issued its tokens."""

import time
from pathlib import Path
from typing import Any

import msgspec

from tests.fakes import FakeProvider

OLD_ACCESS = "sk-ant-oat01-old-marked-aaaaaaaa"
OLD_REFRESH = "sk-ant-ort01-old-marked-bbbbbbbb"
MCP = '{ "server|1" : {"accessToken":"mcp-\\u0074oken","expiresAt":1.50} }'
"""Another's record, written as nobody here would write it."""
HOUR_MS = 3_600_000


def now_ms() -> int:
    """Unix time."""
    return int(time.time() * 1000)


def content_of(access: str, refresh: str | None, expires_at_ms: int) -> str:
    """A credentials file as Claude Code writes it, with a record of another beside."""
    own = {
        "accessToken": access,
        "refreshToken": refresh,
        "expiresAt": expires_at_ms,
        "scopes": ["user:inference", "user:profile"],
        "subscriptionType": "max",
    }
    return f'{{"mcpOAuth":{MCP},"claudeAiOauth":{msgspec.json.encode(own).decode()},"later":1e3}}'


def log_in(
    path: Path, *, access: str = OLD_ACCESS, refresh: str | None = OLD_REFRESH, left_ms: int = -1000, mode: int = 0o600
) -> Path:
    """Put a credentials file there whose token lives for so long."""
    path.write_text(content_of(access, refresh, now_ms() + left_ms))
    path.chmod(mode)
    return path


def log_out(path: Path) -> None:
    """Take the file away."""
    path.unlink()


def cut_off(path: Path) -> None:
    """Leave the file as somebody does who has written a part of it."""
    path.write_text('{"claudeAi')


def content(path: Path) -> bytes | None:
    """What is in the file; None when there is none."""
    return path.read_bytes() if path.exists() else None


def told(path: Path) -> dict[str, Any]:
    """The record of the subscription in a file."""
    found: dict[str, Any] = msgspec.json.decode(path.read_bytes())["claudeAiOauth"]
    return found


def refreshes(fake: FakeProvider) -> int:
    """How often the token endpoint was asked."""
    return len(fake.requests_to("/v1/oauth/token"))


class Time:
    """A clock that a test may set forward."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def now_ms(self) -> int:
        """The time, and what it was set forward by."""
        return now_ms() + self.ahead_ms
