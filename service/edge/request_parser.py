"""Builds the relay's request from the head of a Messages API request; `body_reader` adds the body.

Unknown headers and beta values are passed through: clients and provider agree on them.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from service.edge.body_reader import READ_BODIES
from service.edge.keys import CallerIdentity
from service.edge.request_target import RequestTarget, base_url_of
from service.errors import MethodNotAllowed
from service.relay import ClientRequest
from service.settings import Settings

RESOURCE_ID = re.compile(r"[a-z]+_(?=[A-Za-z]*[0-9])[A-Za-z0-9]{6,128}|(?=[^0-9]*[0-9])[^/]{8,}")
"""A resource id in a path of an unknown endpoint: unlike a word such as count_tokens it contains a digit."""
OWN_WORDS = frozenset(("skills",))
"""Collections whose members may be the provider's own, named by a word; what follows is no resource of anybody."""
QUERY_NAMES = frozenset(
    ("agent_id", "deployment_id", "environment_id", "ids", "ids[]", "memory_store_id", "scope_id", "session_id",
     "vault_id")
)  # fmt: skip
"""Parameters of lists that name a resource. Cursors such as `after_id` may name an item of anybody."""
MOST_QUERY_IDS = 100
"""Maximum resources that a query names; a list has no more items."""
METHODS: Mapping[str, str] = {
    "/v1/messages": "POST",
    "/v1/messages/count_tokens": "POST",
    "/v1/models": "GET, HEAD",
}
"""The methods of endpoints that will have no others; for all other paths the provider decides."""
STAINLESS_LIMIT_S = 3_600
"""The longest deadline that a client may have; a longer one is cut to it."""


def client_request_of(
    scope: Mapping[str, Any],
    named: Mapping[bytes, bytes],
    settings: Settings,
    client: CallerIdentity,
    target: RequestTarget,
    request_id: str,
    now_ms: int,
) -> ClientRequest:
    """Return the request as far as its head tells."""
    request = ClientRequest(
        request_id=request_id,
        method=scope["method"],
        path=target.path,
        query=target.query,
        headers=scope["headers"],
        endpoint=target.endpoint,
        session_id=named.get(b"x-claude-code-session-id", b"").decode("latin-1")[:64],
        credential=client.credential,
        client_key=client.key_id,
        owner=client.owner,
        shared=client.shared,
        withhold=client.withhold,
        only_routes=client.key.routes if client.key else (),
        only_models=client.key.models if client.key else (),
        arrived_ms=now_ms,
    )
    if target.endpoint not in READ_BODIES:
        check_method(request.method, target.path)
        request.resource_ids = path_ids(target)
        request.names_in_path = bool(request.resource_ids)
        if target.query:
            request.resource_ids += query_ids(target)
        request.base_url = base_url_of(scope, named, settings.base_path)
    return request


def check_method(method: str, path: str) -> None:
    """Raise MethodNotAllowed for what no provider serves, so that it spends no key."""
    allowed = METHODS.get(path, method)
    if method not in allowed:
        raise MethodNotAllowed(f"{path} does not support {method}; it supports {allowed}", allowed=allowed)


def path_ids(target: RequestTarget) -> tuple[str, ...]:
    """Return the resource that a path names. Sub-resources live on the same route."""
    parts = target.path.split("/")[2:]
    if target.endpoint == "files":
        return tuple(parts[1:2])
    if target.endpoint == "batches":
        return tuple(parts[2:3])
    if target.endpoint == "models":
        return ()
    if parts[0] in OWN_WORDS:
        parts = parts[:2]
    return tuple(part for part in parts if RESOURCE_ID.fullmatch(part))[:1]


def query_ids(target: RequestTarget) -> tuple[str, ...]:
    """Return the resources that a list is asked for, such as the sessions of an agent: it lives on their route."""
    if target.endpoint == "models":
        return ()
    named = parse_qsl(target.query)
    ids = dict.fromkeys(value for name, value in named if name in QUERY_NAMES and RESOURCE_ID.fullmatch(value))
    return tuple(ids)[:MOST_QUERY_IDS]


def deadline_ms(named: Mapping[bytes, bytes], settings: Settings, *, stream: bool) -> int:
    """Return the client's deadline: from its SDK's header, else from the settings."""
    if client_timeout := named.get(b"x-stainless-timeout"):  # SDKs send 600, or 20.0 for a user's own timeout
        try:
            limit_s = float(client_timeout)
        except ValueError:
            limit_s = 0.0
        if limit_s > 0:
            return max(1, int(min(limit_s, STAINLESS_LIMIT_S) * 1000))
    return settings.timeouts.stream_ms if stream else settings.timeouts.request_ms
