"""The credential of a route, as the provider wants to see it.

A subscription's token comes from the settings, or from Claude Code's own credentials file, read anew when it changes.
Not here: refreshing a token. A stale one is Claude Code's to refresh; until then the route is passed over.
"""

import asyncio
import os
from pathlib import Path

import msgspec
from msgspec import Struct

from service.settings import Route


class NoCredential(Exception):
    """The route has no usable credential now; the message names the mend."""


class OAuthTokens(Struct, rename="camel"):
    """`claudeAiOauth` of the credentials file; `expires_at` is Unix time in milliseconds."""

    access_token: str
    expires_at: int = 0


class CredentialsFile(Struct, rename="camel"):
    """What is read of the file; other keys are others' business."""

    claude_ai_oauth: OAuthTokens


class Credentials:
    """Looks up credentials; files are read in a thread and remembered until they change."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[tuple[int, int], OAuthTokens]] = {}

    async def of(self, route: Route, now_ms: int) -> str:
        """The key or token of a route. Raises NoCredential."""
        if route.api_key:
            return route.api_key.reveal()
        if route.auth != "oauth":
            raise NoCredential(route.off or "no key")
        tokens = await asyncio.to_thread(self._read, route.credentials_path)
        if tokens.expires_at and tokens.expires_at <= now_ms:
            raise NoCredential(
                f"the token in {route.credentials_path} has expired; start Claude Code once to refresh it"
            )
        return tokens.access_token

    def _read(self, path: str) -> OAuthTokens:
        try:
            stat = os.stat(path)
            stamp = (stat.st_mtime_ns, stat.st_size)
            known = self._files.get(path)
            if known and known[0] == stamp:
                return known[1]
            tokens = msgspec.json.decode(Path(path).read_bytes(), type=CredentialsFile).claude_ai_oauth
        except FileNotFoundError:
            raise NoCredential(
                f"{path} does not exist; log in with Claude Code, or set CLAUDE_CODE_OAUTH_TOKEN"
            ) from None
        except (OSError, msgspec.DecodeError) as error:
            raise NoCredential(f"{path} can't be read: {type(error).__name__}") from None
        self._files[path] = (stamp, tokens)
        return tokens
