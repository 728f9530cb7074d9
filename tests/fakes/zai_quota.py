"""Z.AI's quota page: the raw key in `Authorization`, without `Bearer`; percentages per window."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.fakes import reply

if TYPE_CHECKING:
    from tests.fakes.language import Received, Reply

QUOTA_PATH = "/api/monitor/usage/quota/limit"
FIVE_HOURS_UNIT, WEEK_UNIT = 3, 6


@dataclass
class ZaiQuota:
    """Percent used of the 5 h window and of the week."""

    five_hour_percent: float = 12.0
    week_percent: float = 34.0

    def answer(self, request: Received) -> Reply:
        if request.credential_kind != "raw":
            return reply.json({"code": 1001, "msg": "Authentication Failed", "success": False})
        now_ms = int(time.time() * 1000)
        windows = [
            (FIVE_HOURS_UNIT, 5, self.five_hour_percent, now_ms + 5 * 3_600_000),
            (WEEK_UNIT, 1, self.week_percent, now_ms + 7 * 86_400_000),
        ]
        limits = [
            {"type": "TOKENS_LIMIT", "unit": unit, "number": number, "percentage": percent, "nextResetTime": reset_ms}
            for unit, number, percent, reset_ms in windows
        ]
        return reply.json({"code": 200, "msg": "Operation successful", "success": True, "data": {"limits": limits}})
