"""Anthropic's own account of an organization's usage and cost: two daily reports of the Admin API, read page by page.

The usage report has tokens by model, API key, workspace and tier, without money; the cost report has money by
workspace, model, tier and kind of token, without API keys. A page that can't be had now is asked for again, a few
times. Not here: the two put together, and beside the ledger (`reconcile`).
"""

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Generic, TypeVar

import httpx
import msgspec
from msgspec import Struct

from service.egress import UnusableProxy, proxy_for, tls_context
from service.settings.invoice import InvoiceSettings
from workers.recount import Progress
from workers.usage import Period

USAGE_PATH = "/v1/organizations/usage_report/messages"
COST_PATH = "/v1/organizations/cost_report"
USAGE_GROUPS = ("model", "api_key_id", "workspace_id", "service_tier")
COST_GROUPS = ("workspace_id", "description")
API_VERSION = "2023-06-01"
DAYS_A_PAGE = 31
"""The most that the API gives at once."""
MOST_PAGES = 500
MOST_TRIES = 5
TIMEOUT = httpx.Timeout(60, connect=10)
LONGEST_WAIT_S = 60
"""For a longer wait, the user tries again."""
NOT_NOW = frozenset((408, 429, 500, 502, 503, 504, 529))
CREATE_KEY = (
    "an administrator of the organization creates one in the Console, under Settings, Admin keys; keys of the Messages "
    "API and of subscriptions can't read its reports, and organizations of one person have none"
)

R = TypeVar("R", bound=Struct)
Query = list[tuple[str, str | int | float | bool | None]]
Told = Callable[[str], None]
"""Tells the user what takes long."""


class InvoiceError(Exception):
    """The reports can't be read; the message says why, and what to do."""


class CacheCreation(Struct, frozen=True):
    """Tokens written to the prompt cache."""

    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class ToolUse(Struct, frozen=True):
    """Uses of paid tools."""

    web_search_requests: int = 0


class UsageResult(Struct, frozen=True):
    """A row of the usage report. A null key is the Console's own use, a null workspace the default one."""

    uncached_input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation: CacheCreation | None = None
    server_tool_use: ToolUse | None = None
    model: str | None = None
    api_key_id: str | None = None
    workspace_id: str | None = None
    service_tier: str | None = None


class CostResult(Struct, frozen=True):
    """A row of the cost report. `amount` is a decimal number of cents."""

    amount: str
    currency: str | None = None
    cost_type: str | None = None
    token_type: str | None = None
    model: str | None = None
    workspace_id: str | None = None
    service_tier: str | None = None


class ReportDay(Struct, Generic[R], frozen=True):
    """The rows of one day, UTC."""

    starting_at: datetime
    results: list[R]


class Page(Struct, Generic[R], frozen=True):
    """A page of a report."""

    data: list[ReportDay[R]]
    has_more: bool = False
    next_page: str | None = None


_usage_decoder = msgspec.json.Decoder(Page[UsageResult])
_cost_decoder = msgspec.json.Decoder(Page[CostResult])


class AdminApi:
    """Reads the reports of one organization."""

    def __init__(
        self,
        settings: InvoiceSettings,
        told: Told,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._told = told
        self._sleep = sleep
        self._key = settings.admin_key.reveal()
        try:
            proxy = proxy_for(settings.admin_url)
        except UnusableProxy as error:
            raise InvoiceError(str(error)) from None
        self._client = httpx.Client(
            base_url=settings.admin_url,
            timeout=TIMEOUT,
            transport=transport,
            verify=tls_context(),
            proxy=proxy.url if proxy else None,
            trust_env=False,
            headers={"x-api-key": self._key, "anthropic-version": API_VERSION, "user-agent": "ccproxy"},
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def usage(self, period: Period) -> Iterator[Page[UsageResult]]:
        """Yield the pages of the usage report. Raises InvoiceError."""
        return self._pages(USAGE_PATH, period, USAGE_GROUPS, _usage_decoder)

    def costs(self, period: Period) -> Iterator[Page[CostResult]]:
        """Yield the pages of the cost report. Raises InvoiceError."""
        return self._pages(COST_PATH, period, COST_GROUPS, _cost_decoder)

    def _pages(
        self, path: str, period: Period, groups: tuple[str, ...], decoder: msgspec.json.Decoder[Page[R]]
    ) -> Iterator[Page[R]]:
        query: Query = [
            ("starting_at", f"{period.since:%Y-%m-%dT%H:%M:%SZ}"),
            ("ending_at", f"{period.until:%Y-%m-%dT%H:%M:%SZ}"),
            ("bucket_width", "1d"),
            ("limit", str(DAYS_A_PAGE)),
            *(("group_by[]", group) for group in groups),
        ]
        seen = {""}
        token = ""
        for _ in range(MOST_PAGES):
            page = self._page(path, [*query, ("page", token)] if token else query, decoder)
            yield page
            token = page.next_page or ""
            if not (page.has_more and token):
                return
            if token in seen:
                raise InvoiceError(f"{path} names the same next page again and again; try again later")
            seen.add(token)
        raise InvoiceError(f"{path} has more than {MOST_PAGES} pages; choose a shorter period")

    def _page(self, path: str, query: Query, decoder: msgspec.json.Decoder[Page[R]]) -> Page[R]:
        response = self._answer(path, query)
        if response.status_code != httpx.codes.OK:
            raise InvoiceError(self._refusal(path, response))
        try:
            return decoder.decode(response.content)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvoiceError(
                f"{response.url.host} did not answer {path} with a report ({error}); check ANTHROPIC_ADMIN_URL"
            ) from None

    def _answer(self, path: str, query: Query) -> httpx.Response:
        """The first answer that is worth reading, or the last one. Raises InvoiceError if there is none at all."""
        for tries in range(1, MOST_TRIES + 1):
            response, reason = self._try(path, query)
            if response is not None and response.status_code not in NOT_NOW:
                return response
            wait_s = max(wait_asked_s(response) if response else 0, 2.0 ** (tries - 1))
            if tries == MOST_TRIES or wait_s > LONGEST_WAIT_S:
                break
            self._told(f"{self._client.base_url.host}: {reason}; asking again in {wait_s:.0f} s")
            self._sleep(wait_s)
        if response is None:
            raise InvoiceError(f"{self._client.base_url.host} can't be reached: {reason}")
        return response

    def _try(self, path: str, query: Query) -> tuple[httpx.Response | None, str]:
        """An answer, None if there is none; and what to say of it."""
        try:
            response = self._client.get(path, params=query)
        except httpx.HTTPError as error:
            return None, str(error) or type(error).__name__
        return response, f"status {response.status_code}"

    def _refusal(self, path: str, response: httpx.Response) -> str:
        """An error of the API, with what to do about it."""
        said = self._message_of(response)
        match response.status_code:
            case 401:
                return f"Anthropic does not accept ANTHROPIC_ADMIN_KEY{said}: it must be an admin key; {CREATE_KEY}"
            case 403:
                return f"ANTHROPIC_ADMIN_KEY may not read {path}{said}: it must be an admin key; {CREATE_KEY}"
            case 404:
                return f"{response.url.host} has no {path}{said}; check ANTHROPIC_ADMIN_URL"
            case 429:
                return f"Anthropic limits how often reports are read{said}; {again_in(wait_asked_s(response))}"
            case status if status in NOT_NOW:
                return f"Anthropic can't answer {path} now (status {status}){said}; try again later"
            case status:
                return f"Anthropic refuses {path} (status {status}){said}"

    def _message_of(self, response: httpx.Response) -> str:
        """The message of an error in Anthropic's shape, in parentheses; the key is not quoted."""
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            return ""
        return f" ({message.replace(self._key, '***')[:300]})" if isinstance(message, str) and message else ""


def wait_asked_s(response: httpx.Response) -> float:
    """The wait that an answer asks for, in seconds; 0 if it names none."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdecimal() and len(text) < len("1000000") else 0.0


def again_in(wait_s: float) -> str:
    """When to try again."""
    return f"try again in {wait_s:.0f} s" if wait_s else "try again later"


def with_progress(pages: Iterator[Page[R]], days: int, progress: Progress) -> Iterator[Page[R]]:
    """Yield the pages, and tell how many days have come."""
    for page in pages:
        yield page
        days += len(page.data)
        progress(days)
