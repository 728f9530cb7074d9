"""Anthropic's usage and cost reports on the loopback: dates, groups, pages, keys, and failures on demand.

    with FakeAdminApi() as fake:
        fake.used("2026-09-10", "claude-sonnet-4-5", input=10, output=5)

As documented for `GET /v1/organizations/usage_report/messages` and `GET /v1/organizations/cost_report`. Amounts follow
from `CENTS_PER_MTOK` and are half for batches; the priority tier has none.
"""

from __future__ import annotations

import base64
import json
import threading
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

ADMIN_KEY = "sk-ant-admin01-fake-0123456789abcdef"
USAGE_PATH = "/v1/organizations/usage_report/messages"
COST_PATH = "/v1/organizations/cost_report"
DAY = timedelta(days=1)
MOST_DAYS = 31
CENTS_PER_MTOK = {"input": 300, "output": 1500, "cache_read": 30, "cache_write_5m": 375, "cache_write_1h": 600}
CENTS_A_SEARCH = Decimal(1)
TOKEN_TYPES = {
    "input": "uncached_input_tokens",
    "output": "output_tokens",
    "cache_read": "cache_read_input_tokens",
    "cache_write_5m": "cache_creation.ephemeral_5m_input_tokens",
    "cache_write_1h": "cache_creation.ephemeral_1h_input_tokens",
}
USAGE_GROUPS = (
    "account_id", "api_key_id", "context_window", "inference_geo", "model", "service_account_id", "service_tier",
    "speed", "workspace_id",
)  # fmt: skip
COST_GROUPS = ("description", "workspace_id")


class Used(NamedTuple):
    """Usage of one day."""

    day: str
    model: str
    key: str | None
    workspace: str | None
    tier: str
    searches: int
    tokens: dict[str, int]


class Refused(Exception):
    """An error in Anthropic's shape."""

    def __init__(self, status: int, kind: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.headers = status, kind, message, headers


class FakeAdminApi:
    """The Admin API of one organization. `asked` are the targets that were asked for, in order."""

    def __init__(self) -> None:
        self.rows: list[Used] = []
        self.charges: list[tuple[str, str, Decimal]] = []
        self.failures: list[Refused] = []
        self.days_a_page = MOST_DAYS
        self.repeats_pages = False
        self.currency = "USD"
        self.asked: list[str] = []
        self.keys: list[str | None] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def used(
        self,
        day: str,
        model: str,
        *,
        key: str | None = "apikey_proxy",
        workspace: str | None = None,
        tier: str = "standard",
        searches: int = 0,
        **tokens: int,
    ) -> None:
        """Note usage of a day, tokens by kind."""
        assert tokens.keys() <= CENTS_PER_MTOK.keys()
        self.rows.append(Used(day, model, key, workspace, tier, searches, tokens))

    def charged(self, day: str, cost_type: str, cents: str) -> None:
        """Note a cost that is for no tokens."""
        self.charges.append((day, cost_type, Decimal(cents)))

    def fail(self, status: int, message: str = "Not now", kind: str = "api_error", **headers: str) -> None:
        """Refuse the next request that no earlier call of this refuses."""
        self.failures.append(Refused(status, kind, message, **headers))

    def answer(self, target: str, key: str | None) -> dict[str, Any]:
        """The report that a request asks for."""
        self.asked.append(target)
        self.keys.append(key)
        if self.failures:
            raise self.failures.pop(0)
        if key != ADMIN_KEY:
            raise Refused(401, "authentication_error", "invalid x-api-key")
        parts = urlsplit(target)
        query = parse_qs(parts.query)
        if parts.path == USAGE_PATH:
            return self._page(query, USAGE_GROUPS, self._usage)
        if parts.path == COST_PATH:
            return self._page(query, COST_GROUPS, self._costs)
        raise Refused(404, "not_found_error", "Not found")

    def _page(self, query: dict[str, list[str]], known: tuple[str, ...], rows: Any) -> dict[str, Any]:
        groups = query.get("group_by[]", [])
        limit = int(query.get("limit", ["7"])[0])
        if set(groups) - set(known) or query.get("bucket_width", ["1d"]) != ["1d"] or not 1 <= limit <= MOST_DAYS:
            raise Refused(400, "invalid_request_error", "group_by, bucket_width or limit: Input should be valid")
        first, end = (datetime.fromisoformat(query[name][0]) for name in ("starting_at", "ending_at"))
        if "page" in query:
            first = datetime.fromisoformat(base64.b64decode(query["page"][0].removeprefix("page_")).decode())
        last = min(end, first + min(limit, self.days_a_page) * DAY)
        token = first if self.repeats_pages else last
        days = [first + number * DAY for number in range((last - first).days)]
        return {
            "data": [
                {
                    "starting_at": f"{day:%Y-%m-%dT%H:%M:%SZ}",
                    "ending_at": f"{day + DAY:%Y-%m-%dT%H:%M:%SZ}",
                    "results": rows(f"{day:%Y-%m-%d}", groups),
                }
                for day in days
            ],
            "has_more": last < end or self.repeats_pages,
            "next_page": "page_" + base64.b64encode(token.isoformat().encode()).decode() if last < end else None,
        }

    def _usage(self, day: str, groups: list[str]) -> list[dict[str, Any]]:
        cells: dict[tuple[str | None, ...], dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for row in self.rows:
            if row.day == day:
                names = {
                    "model": row.model,
                    "api_key_id": row.key,
                    "workspace_id": row.workspace,
                    "service_tier": row.tier,
                }
                cell = cells[tuple(names[group] for group in sorted(names) if group in groups)]
                cell["searches"] += row.searches
                for kind, count in row.tokens.items():
                    cell[kind] += count
        known = sorted({"model", "api_key_id", "workspace_id", "service_tier"}.intersection(groups))
        return [
            dict.fromkeys(USAGE_GROUPS)
            | dict(zip(known, names, strict=True))
            | {
                "uncached_input_tokens": cell["input"],
                "output_tokens": cell["output"],
                "cache_read_input_tokens": cell["cache_read"],
                "cache_creation": {
                    "ephemeral_5m_input_tokens": cell["cache_write_5m"],
                    "ephemeral_1h_input_tokens": cell["cache_write_1h"],
                },
                "server_tool_use": {"web_search_requests": cell["searches"]},
            }
            for names, cell in cells.items()
        ]

    def _costs(self, day: str, groups: list[str]) -> list[dict[str, Any]]:
        """Costs by description have all that they are for; without that group, a sum for each workspace."""
        cells: dict[tuple[str | None, ...], Decimal] = defaultdict(Decimal)
        for row in self.rows:
            if row.day != day or row.tier.startswith("priority"):
                continue
            for kind, count in row.tokens.items():
                cents = Decimal(CENTS_PER_MTOK[kind]) * count / 1_000_000 / (2 if row.tier == "batch" else 1)
                cells[row.workspace, "tokens", row.model, TOKEN_TYPES[kind], row.tier] += cents
            cells[row.workspace, "web_search", None, None, None] += CENTS_A_SEARCH * row.searches
        for at, cost_type, cents in self.charges:
            if at == day:
                cells[None, cost_type, None, None, None] += cents
        if "description" not in groups:
            sums: dict[tuple[str | None, ...], Decimal] = defaultdict(Decimal)
            for names, cents in cells.items():
                sums[names[0], None, None, None, None] += cents
            cells = sums
        fields = ("workspace_id", "cost_type", "model", "token_type", "service_tier")
        return [
            {"currency": self.currency, "amount": str(cents), "context_window": None, "description": None}
            | dict(zip(fields, names, strict=True))
            for names, cents in cells.items()
            if cents
        ]


def handler_of(fake: FakeAdminApi) -> type[BaseHTTPRequestHandler]:
    """The HTTP side of a fake."""

    class Handler(BaseHTTPRequestHandler):
        """Answers with the fake's reports."""

        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                self._send(200, fake.answer(self.path, self.headers.get("x-api-key")))
            except Refused as error:
                body = {"type": "error", "error": {"type": error.kind, "message": error.message}}
                self._send(error.status, body, **error.headers)

        def _send(self, status: int, value: dict[str, Any], **headers: str) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name.replace("_", "-"), text)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    return Handler


def day_at(ms: int) -> str:
    """The day of a moment, as reports have it."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}"
