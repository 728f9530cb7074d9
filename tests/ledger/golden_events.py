"""What the golden files hold. `python -m tests.ledger.golden_events` writes those that are not there yet."""

from pathlib import Path
from typing import Any, get_args

import msgspec

from service.ledger import wire
from service.ledger.events import Event, EventBase, Forgotten, PriceChange, TokenCounts, UsageLine, Window

GOLDEN = Path(__file__).parent / "golden"
NEWEST = {
    "resource_created": "v2",
    "attempt_lost": "v3",
    "batch_item_used": "v4",
    "attempt_ended": "v5",
    "resource_used": "v2",
    "usage_repriced": "v3",
}
"""The newest version of each event that has had a field added; of all others it is the first."""
TYPES: dict[str, type[EventBase]] = {str(kind.__struct_config__.tag): kind for kind in get_args(Event)}
VALUES: dict[str, Any] = {
    "event_id": "0198f3c0-1234-7abc-8def-0123456789ab",
    "at_ms": 1_756_382_400_000,
    "replica": "r-7",
    "seq": 42,
    "spooled": True,
    "request_id": "q-1",
    "endpoint": "count_tokens",
    "model_asked": "claude-opus-4-8",
    "model_sent": "glm-5.2",
    "client_key": "alice",
    "session_id": "s-1",
    "stream": True,
    "estimated_tokens": 1_200,
    "attempt_id": "0198f3c0-0000-7abc-8def-0123456789ab",
    "started_at_ms": 1_756_382_390_000,
    "outcome": "failed",
    "kind": "quota",
    "scope": "quota",
    "status": 429,
    "message": "spent · 使い切り",
    "tokens": TokenCounts(1, 2, 3, 4, 5),
    "first_byte_ms": 0,
    "total_ms": 10_000,
    "slow": True,
    "probe": True,
    "retry_at_ms": 1_756_390_000_000,
    "windows": {"5h": Window(used_ratio=1.0, resets_at_ms=1_756_390_000_000, status="rejected"), "7d": Window()},
    "cost_nusd": 0,
    "price_version": "2026-09",
    "final": False,
    "holds": "opus",
    "batch_id": "msgbatch_1",
    "custom_id": "item-1",
    "resource_id": "msgbatch_1",
    "resource_kind": "batch",
    "route": "zai",
    "by": "op",
    "reason": "why",
    "weekly_tokens": 0,
    "weekly_cost_nusd": 5,
    "models": ("claude*",),
    "routes": ("zai",),
    "concurrency": 2,
    "expires_at_ms": 1_766_382_400_000,
    "key_id": "k1",
    "name": "Alice",
    "sha256": "ab" * 32,
    "count": 3,
    "of": "zai",
    "fold_rules": 1,
    "account": "0f1e2d3c4b5a6978",
    "words": "1122334455667788",
    "body": "99aabbccddeeff00",
    "moved_from": "anthropic",
    "lost": "cache,thoughts",
    "opinion": "none",
    "move_cost_nusd": 6,
    "dropped": ("safeguards",),
    "attempt": 2,
    "early_head": True,
    "upstream_id": "req_011CV",
    "forgot": Forgotten(circuit="open", cool_downs=2, windows=3, missing_models=1, unknown_errors=4),
    "rows": ("zai/ab12", "control/cd34"),
    "model_served": "claude-haiku-4-5",
    "lines": (
        UsageLine("claude-haiku-4-5", "fallback", TokenCounts(1, 2), {"web_search": 3}, "priority", "fast", "us"),
        UsageLine(
            "claude-opus-5", "declined", TokenCounts(0, 0, 3, 4, 5), unbilled=True, credit="redeemed", cost_nusd=0
        ),
    ),
    "estimated": True,
    "unread": ("hologram_tokens", "iterations.oracle"),
    "part": "sthr_1",
    "model": "claude-opus-5-5",
    "tools": {"web_search": 2},
    "speed": "fast",
    "geo": "us",
    "active_ms": 1_500,
    "made_at_ms": 1_756_382_300_000,
    "changes": (PriceChange("glm-5.2", cost_nusd=7), PriceChange("claude-opus-5", 5, 0)),
    "of_lost": True,
    "of_growth": True,
    "code": "ended",
    "usable": True,
    "rates_nusd": TokenCounts(5_000_000, 25_000_000, 500_000, 6_250_000, 10_000_000),
}
"""What the fields of the newest version's files hold; a field that comes later is added here with its new files."""
OWN_VALUES: dict[str, dict[str, Any]] = {"resource_used": {"kind": "session"}}
"""Fields whose name means something else in another event."""


def made(tag: str, form: str) -> EventBase:
    """The event that a file of the newest version holds."""
    kind = TYPES[tag]
    values = VALUES | OWN_VALUES.get(tag, {})
    fields = [field for field in msgspec.structs.fields(kind) if form == "full" or field.required]
    return kind(**{field.name: values[field.name] for field in fields})


def file_of(tag: str, form: str, version: str = "") -> Path:
    """Where an event's bytes lie, by default those of its newest version."""
    return GOLDEN / f"{tag}.{version or NEWEST.get(tag, 'v1')}.{form}.json"


def write_missing() -> None:
    """Write the files of the newest version that are not there; a file that is there is never changed."""
    for tag in TYPES:
        for form in ("full", "least"):
            if not file_of(tag, form).exists():
                file_of(tag, form).write_bytes(wire.encode_event(made(tag, form)))  # type: ignore[arg-type]


if __name__ == "__main__":
    write_missing()
