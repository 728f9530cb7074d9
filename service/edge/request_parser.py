"""The head of a request of the Messages API as the relay wants it; `body_reader` has the rest.

Unknown headers and beta values are nobody's business here: clients and provider agree on them.
"""

import re
from collections.abc import Mapping
from typing import Any

from service.edge.body_reader import READ_BODIES
from service.edge.keys import CallerIdentity
from service.edge.request_target import RequestTarget, base_url_of
from service.relay import ClientRequest
from service.settings import Settings

RESOURCE_ID = re.compile(r"[a-z]+_(?=[A-Za-z]*[0-9])[A-Za-z0-9]{6,128}|(?=[^0-9]*[0-9])[^/]{8,}")
"""An id in a path of an endpoint that is not known: unlike a word such as count_tokens it has a digit."""
STAINLESS_LIMIT_S = 3_600
"""A client may shorten or lengthen its deadline up to an hour."""


def client_request_of(
    scope: Mapping[str, Any],
    named: Mapping[bytes, bytes],
    settings: Settings,
    client: CallerIdentity,
    target: RequestTarget,
    request_id: str,
    now_ms: int,
) -> ClientRequest:
    """The request as far as its head tells."""
    call = ClientRequest(
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
        arrived_ms=now_ms,
    )
    if target.endpoint not in READ_BODIES:
        call.resource_ids = path_ids(target)
        call.names_in_path = bool(call.resource_ids)
        call.base_url = base_url_of(scope, named, settings.base_path)
    return call


def path_ids(target: RequestTarget) -> tuple[str, ...]:
    """The resource that a path names. What stands behind it is a part of it, and goes where it goes."""
    parts = target.path.split("/")[2:]
    if target.endpoint == "files":
        return tuple(parts[1:2])
    if target.endpoint == "batches":
        return tuple(parts[2:3])
    if target.endpoint == "models":
        return ()
    return tuple(part for part in parts if RESOURCE_ID.fullmatch(part))[:1]


def deadline_ms(named: Mapping[bytes, bytes], settings: Settings, *, stream: bool) -> int:
    """How long the client waits: its SDK says so, else the settings."""
    if told := named.get(b"x-stainless-timeout"):  # SDKs send 600, and 20.0 for a limit of their user's
        try:
            limit_s = float(told)
        except ValueError:
            limit_s = 0.0
        if 0 < limit_s <= STAINLESS_LIMIT_S:
            return max(1, int(limit_s * 1000))
    return settings.timeouts.stream_ms if stream else settings.timeouts.request_ms
