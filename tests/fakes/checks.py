"""What the providers refuse before they answer: credentials, versions, models, another vendor's leavings.

Each check returns the refusal, or None. The wordings were gathered from public sources; correct them here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tests.fakes import reply
from tests.fakes.body_rules import ANTHROPIC_RULES, ZAI_RULES, broken_rule
from tests.fakes.vendors import OAUTH_BETA, OAUTH_TOKEN_PREFIX, Vendor

if TYPE_CHECKING:
    from collections.abc import Collection

    from tests.fakes.language import Received, Reply

# Body fields that Anthropic takes only together with a beta.
BETA_PAIRS = {"context_management": "context-management-2025-06-27"}


@dataclass
class Credentials:
    """The valid credentials of one fake; None: every value will do."""

    valid: set[str] | None


CredentialKind = Literal["none", "x-api-key", "bearer", "both", "raw"]


def note_credential(request: Received) -> None:
    """Write down which credential came, and how."""
    key, authorization = request.header("x-api-key"), request.header("authorization")
    kind: CredentialKind = "none"
    value = key
    if authorization is not None:
        bearer = authorization.lower().startswith("bearer ")
        value = authorization[7:].strip() if bearer else authorization
        kind = "both" if key is not None else "bearer" if bearer else "raw"
    elif key is not None:
        kind = "x-api-key"
    request.credential_kind, request.credential = kind, value


def check_credential(request: Received, vendor: Vendor, keys: Collection[str] | None) -> Reply | None:
    """The refusal of a credential; with `keys` of None every value will do, its form is looked at all the same."""
    if vendor.kind == "zai":
        if request.credential is None:
            return reply.zai_error(1001)
        return reply.zai_error(1002) if keys is not None and request.credential not in keys else None
    if request.credential is None:
        return reply.error(401, message="x-api-key header is required")
    is_oauth = request.credential.startswith(OAUTH_TOKEN_PREFIX)
    if vendor.kind == "subscription" and request.credential_kind != "bearer":
        return reply.error(401, message="invalid x-api-key")
    if (vendor.kind == "subscription" or is_oauth) and OAUTH_BETA not in betas(request):
        return reply.error(401, message="OAuth authentication is currently not supported.")
    if keys is None or request.credential in keys:
        return None
    if is_oauth:
        text = "OAuth token has expired. Please obtain a new token or refresh your existing token."
        return reply.error(401, message=text)
    return reply.error(401, message="Invalid bearer token" if request.credential_kind == "bearer" else None)


def betas(request: Received) -> set[str]:
    """The values of all `anthropic-beta` headers."""
    values = [value for name, value in request.headers if name.lower() == "anthropic-beta"]
    return {beta.strip() for value in values for beta in value.split(",") if beta.strip()}


def check_message(
    request: Received, body: dict[str, Any], vendor: Vendor, model_prefixes: tuple[str, ...]
) -> Reply | None:
    """The refusal of a request for inference or counting."""
    if vendor.style == "anthropic" and request.header("anthropic-version") is None:
        return reply.bad_request("anthropic-version: header is required")
    model = body.get("model")
    if not isinstance(model, str):
        return reply.bad_request("model: Field required") if vendor.style == "anthropic" else reply.zai_error(1210)
    if model_prefixes and not model.startswith(model_prefixes):
        return reply.model_not_found(model) if vendor.style == "anthropic" else reply.zai_error(1211)
    if vendor.style == "anthropic":
        return _check_betas(request, body) or _refused(broken_rule(body, ANTHROPIC_RULES), None)
    return _refused(broken_rule(body, ZAI_RULES), 1214)


def _refused(words: str, code: int | None) -> Reply | None:
    """The refusal of a body that breaks a rule, if it does."""
    if not words:
        return None
    return reply.zai_error(code, message=words) if code else reply.bad_request(words)


def _check_betas(request: Received, body: dict[str, Any]) -> Reply | None:
    sent = betas(request)
    for name, beta in BETA_PAIRS.items():
        if name in body and beta not in sent:
            return reply.bad_request(f"{name}: Extra inputs are not permitted")
    return None
