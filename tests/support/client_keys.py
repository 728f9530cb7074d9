"""Client keys of a proxy in this process, as the control stream would bring them."""

import secrets
from typing import Any

from service.ledger.events import ClientKeyIssued
from service.ledger.fold import advance
from service.ledger.keys import make_key
from tests.support.proxies import Serving


def issue(served: Serving, name: str = "ann", **limits: Any) -> tuple[str, str]:
    """A key as the operators' stream would bring it: its text and its id."""
    key = make_key(name, secrets.token_bytes(27))
    event = ClientKeyIssued(
        event_id=f"issued {key.key_id}", at_ms=0, key_id=key.key_id, name=name, sha256=key.sha256, **limits
    )
    advance(served.parts.watcher.view.control, event)
    return key.text, key.key_id


def shown(key: str) -> dict[str, str]:
    """The header that shows a key."""
    return {"authorization": f"Bearer {key}"}
