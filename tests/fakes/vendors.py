"""What the fakes' kinds differ in, as data: base path, models, wire habits, the wording of refusals."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from tests.fakes import limits

if TYPE_CHECKING:
    from tests.fakes.sse import UsageStyle

Kind: TypeAlias = Literal["anthropic", "subscription", "zai"]

OAUTH_BETA = "oauth-2025-04-20"
OAUTH_CLIENT_ID = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"  # Claude Code's public one
OAUTH_TOKEN_PREFIX = "sk-ant-oat"


@dataclass(frozen=True)
class Vendor:
    """`base_path` is what a client's base URL ends in; a model is served if its name has one of the prefixes."""

    kind: Kind
    base_path: str
    style: UsageStyle
    models: tuple[str, ...]
    model_prefixes: tuple[str, ...]
    sse_type: str
    request_id_prefix: str
    has_resources: bool

    def new_request_id(self) -> str:
        return self.request_id_prefix + secrets.token_hex(11)

    def answer_headers(self, request_id: str, *, inference: bool) -> dict[str, str]:
        """The headers that come with every answer, and those of inference alone."""
        if self.style == "zai":
            return {"x-log-id": request_id, "vary": "Origin"}
        headers = {
            "request-id": request_id,
            "anthropic-organization-id": f"00000000-0000-4000-8000-{self.kind:0<12.12}",
            "cf-ray": f"{request_id[-16:]}-FRA",
            "via": "1.1 google",
            "x-envoy-upstream-service-time": "17",
        }
        if inference:
            headers |= limits.unified_headers() if self.kind == "subscription" else limits.key_headers()
        return headers


CLAUDE_MODELS = (
    "claude-opus-5-5",
    "claude-opus-4-8",
    "claude-sonnet-4-6",
    "claude-haiku-4-5",
)
GLM_MODELS = ("glm-5.3", "glm-5.2", "glm-4.7", "glm-4.5-air")

VENDORS: dict[Kind, Vendor] = {
    "anthropic": Vendor(
        kind="anthropic",
        base_path="",
        style="anthropic",
        models=CLAUDE_MODELS,
        model_prefixes=("claude-",),
        sse_type="text/event-stream; charset=utf-8",
        request_id_prefix="req_01",
        has_resources=True,
    ),
    "subscription": Vendor(
        kind="subscription",
        base_path="",
        style="anthropic",
        models=CLAUDE_MODELS,
        model_prefixes=("claude-",),
        sse_type="text/event-stream; charset=utf-8",
        request_id_prefix="req_02",
        has_resources=True,
    ),
    "zai": Vendor(
        kind="zai",
        base_path="/api/anthropic",
        style="zai",
        models=GLM_MODELS,
        model_prefixes=("glm-",),
        sse_type="text/event-stream;charset=UTF-8",
        request_id_prefix="2026",
        has_resources=False,
    ),
}
