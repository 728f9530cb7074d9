"""The subscription's token endpoint and usage page: refresh tokens rotate, the one used dies at once."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.fakes import reply
from tests.fakes.vendors import OAUTH_CLIENT_ID

if TYPE_CHECKING:
    from tests.fakes.checks import Credentials
    from tests.fakes.language import Received, Reply

EXPIRES_IN_S = 28_800
TOKEN_PATH = "/v1/oauth/token"
USAGE_PATH = "/api/oauth/usage"


class OAuth:
    """The authority of one fake; what it issues becomes valid for the Messages API.

    `wait_ms`: how long an answer is on its way, though what it tells has happened already.
    """

    def __init__(self, credentials: Credentials, refresh_tokens: set[str]) -> None:
        self._credentials = credentials
        self.refresh_tokens = refresh_tokens
        self.issued: list[tuple[str, str]] = []
        self.expires_in_s = EXPIRES_IN_S
        self.wait_ms = 0
        self.utilization: dict[str, float] = {"five_hour": 12.0, "seven_day": 34.0, "seven_day_opus": 5.0}

    def token(self, request: Received) -> Reply:
        """The answer of the token endpoint."""
        asked = request.json
        if asked.get("grant_type") != "refresh_token":
            return _refusal("unsupported_grant_type", "The grant type is not supported")
        if asked.get("client_id") != OAUTH_CLIENT_ID:
            return _refusal("invalid_client", "Client not found", status=401)
        token = asked.get("refresh_token")
        if token not in self.refresh_tokens:
            return _refusal("invalid_grant", "Refresh token not found or invalid")
        self.refresh_tokens.discard(str(token))
        answer = reply.json(self._issue())
        return answer.pausing(self.wait_ms) if self.wait_ms else answer

    def _issue(self) -> dict[str, Any]:
        access = f"sk-ant-oat01-{secrets.token_hex(24)}"
        refresh = f"sk-ant-ort01-{secrets.token_hex(24)}"
        self.issued.append((access, refresh))
        self.refresh_tokens.add(refresh)
        if self._credentials.valid is not None:
            self._credentials.valid.add(access)
        return {
            "token_type": "Bearer",
            "access_token": access,
            "expires_in": self.expires_in_s,
            "refresh_token": refresh,
            "scope": "user:inference user:profile",
            "account": {"uuid": "00000000-0000-4000-8000-00000000000a", "email_address": "someone@example.invalid"},
            "organization": {"uuid": "00000000-0000-4000-8000-00000000000b", "name": "Fake"},
        }

    def usage(self) -> Reply:
        """The answer of the usage page: percentages, 0 to 100."""
        resets_at = (datetime.now(UTC) + timedelta(hours=3)).isoformat()
        windows: dict[str, Any] = {
            name: {"utilization": value, "resets_at": resets_at} for name, value in self.utilization.items()
        }
        extra = {"is_enabled": False, "monthly_limit": None, "used_credits": None, "utilization": None}
        return reply.json(windows | {"seven_day_oauth_apps": None, "extra_usage": extra})


def _refusal(name: str, text: str, status: int = 400) -> Reply:
    return reply.json({"error": name, "error_description": text}, status=status)
