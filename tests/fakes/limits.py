"""The rate-limit headers of Anthropic: of API keys (RFC 3339 resets) and of subscriptions (unified, epoch seconds)."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

HOUR_S = 3600
CLAIMS = {"5h": "five_hour", "7d": "seven_day", "7d_oi": "seven_day_overage_included"}


def key_headers() -> dict[str, str]:
    """An API key's headers; the figures are made up."""
    reset = (datetime.now(UTC) + timedelta(seconds=60)).strftime("%Y-%m-%dT%H:%M:%SZ")
    limits = {"requests": 4000, "tokens": 2_400_000, "input-tokens": 2_000_000, "output-tokens": 400_000}
    headers = {}
    for name, limit in limits.items():
        headers[f"anthropic-ratelimit-{name}-limit"] = str(limit)
        headers[f"anthropic-ratelimit-{name}-remaining"] = str(limit - 1)
        headers[f"anthropic-ratelimit-{name}-reset"] = reset
    return headers


def unified_headers(
    *,
    status: str = "allowed",
    five_hour: float = 0.12,
    seven_day: float = 0.34,
    seven_day_model: float | None = None,
    reset_s: int | None = None,
    overage: str | None = None,
) -> dict[str, str]:
    """A subscription's headers: utilizations are fractions, `reset_s` is the epoch second at which the claim resets."""
    now_s = int(time.time())
    windows: dict[str, tuple[float, int]] = {
        "5h": (five_hour, now_s + 5 * HOUR_S),
        "7d": (seven_day, now_s + 7 * 24 * HOUR_S),
    }
    if seven_day_model is not None:
        windows["7d_oi"] = (seven_day_model, now_s + 7 * 24 * HOUR_S)
    claim = max(windows, key=lambda name: windows[name][0])
    if reset_s is not None:
        windows[claim] = (windows[claim][0], reset_s)
    headers = {
        "anthropic-ratelimit-unified-status": status,
        "anthropic-ratelimit-unified-reset": str(windows[claim][1]),
        "anthropic-ratelimit-unified-representative-claim": CLAIMS[claim],
        "anthropic-ratelimit-unified-fallback-percentage": "0.5",
        "anthropic-ratelimit-unified-overage-status": overage or "rejected",
    }
    if overage is None:
        headers["anthropic-ratelimit-unified-overage-disabled-reason"] = "org_level_disabled"
    for name, (utilization, window_reset_s) in windows.items():
        headers[f"anthropic-ratelimit-unified-{name}-status"] = _window_status(utilization)
        headers[f"anthropic-ratelimit-unified-{name}-reset"] = str(window_reset_s)
        headers[f"anthropic-ratelimit-unified-{name}-utilization"] = f"{utilization:g}"
    return headers


def _window_status(utilization: float) -> str:
    if utilization >= 1.0:
        return "rejected"
    return "allowed_warning" if utilization >= 0.75 else "allowed"
