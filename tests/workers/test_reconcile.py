"""The ledger beside the invoice: what is equal, what differs, what did not pass through the proxy, and what can't be
read."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import pytest

from service.ledger.events import TokenCounts
from service.settings import InvoiceSettings, Secret
from tests.fakes.admin_api import ADMIN_KEY, CENTS_PER_MTOK, FakeAdminApi, day_at
from tests.support.stream_factories import NOON_MS, append, ended
from tests.workers.conftest import Bench
from workers import cli
from workers.invoice import MOST_TRIES, AdminApi, InvoiceError, Page, UsageResult
from workers.reconcile import Amounts, Line, days_of, invoice_of, judged

Run = Callable[..., tuple[int, str]]
DAY_MS = 86_400_000
NOW = datetime(2026, 9, 12, tzinfo=UTC)
MODEL = "claude-sonnet-4-5"
DAY, NEXT_DAY = day_at(NOON_MS), day_at(NOON_MS + DAY_MS)
PERIOD = ("--since", "2026-09-01", "--until", "2026-10-01")
TOKENS = TokenCounts(input=1_000, output=200, cache_read=30_000, cache_write_5m=4_000, cache_write_1h=500)
KINDS = {name: getattr(TOKENS, name) for name in TokenCounts.__struct_fields__}


def cost_of(tokens: TokenCounts) -> int:
    """The fake's price, in nano-dollars."""
    return sum(getattr(tokens, kind) * cents * 10 for kind, cents in CENTS_PER_MTOK.items())


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAdminApi]:
    """The Admin API, and the settings that lead to it."""
    with FakeAdminApi() as made:
        monkeypatch.setenv("ANTHROPIC_ADMIN_KEY", ADMIN_KEY)
        monkeypatch.setenv("ANTHROPIC_ADMIN_URL", made.url)
        yield made


@pytest.fixture
def used(bench: Bench, fake: FakeAdminApi) -> FakeAdminApi:
    """Two days of two models, on the ledger and on the invoice, which has full names and several rows."""
    for number, (day_ms, model) in enumerate(((0, MODEL), (DAY_MS, MODEL), (DAY_MS, "claude-opus-4-8")), start=1):
        event = ended(number, at_ms=NOON_MS + day_ms, model_sent=model, tokens=TOKENS, cost_nusd=cost_of(TOKENS))
        append(bench.redis, [event])
        fake.used(day_at(event.at_ms), f"{model}-20250929", **KINDS)
    append(bench.redis, [ended(1, model_sent="glm-5.2")], "zai")
    for stream in ("anthropic", "zai"):
        bench.project(stream)
    return fake


def compared(run: Run, *arguments: str, status: int = 0) -> dict[str, Any]:
    """The comparison as JSON."""
    code, output = run(cli.reconcile, *PERIOD, "--json", *arguments)
    assert code == status, output
    found: dict[str, Any] = json.loads(output)
    return found


def test_equal_sides_agree(used: FakeAdminApi, command: Run) -> None:  # noqa: ARG001
    """By day and canonical model, in tokens by kind and exact dollars; other providers are named as left out."""
    found = compared(command, "--tolerance", "0")
    assert found["ok"] is True
    assert [(row["day"], row["model"], row["beyond_tolerance"]) for row in found["rows"]] == [
        (DAY, MODEL, []),
        (NEXT_DAY, "claude-opus-4-8", []),
        (NEXT_DAY, MODEL, []),
    ]
    row = found["rows"][0]
    assert (
        row["ledger"]
        == row["invoice"]
        == {f"{kind}_tokens": count for kind, count in KINDS.items()}
        | {
            "cost_nusd": cost_of(TOKENS),
            "cost_usd": f"0.0{cost_of(TOKENS):08}",
        }
    )
    assert set(row["difference"].values()) == {0, "0.000000000"}
    assert found["total"]["ledger"] == found["total"]["invoice"]
    assert found["total"]["invoice"]["cost_nusd"] == 3 * cost_of(TOKENS)
    assert (found["routes"], found["routes_not_compared"]) == (["anthropic"], ["zai"])
    assert (found["since"], found["until"]) == ("2026-09-01", "2026-10-01")


def test_a_model_that_differs_is_beyond_the_tolerance(used: FakeAdminApi, command: Run) -> None:
    """In the kinds that differ, and in dollars; a tolerance that is wide enough forgives it."""
    used.used(NEXT_DAY, "claude-opus-4-8", output=2_000)
    found = compared(command, status=1)
    beyond = {(row["day"], row["model"]): row["beyond_tolerance"] for row in found["rows"]}
    assert beyond == {(DAY, MODEL): [], (NEXT_DAY, MODEL): [], (NEXT_DAY, "claude-opus-4-8"): ["output", "cost_nusd"]}
    assert found["rows"][1]["difference"]["output_tokens"] == 2_000
    assert compared(command, "--tolerance", "95")["ok"] is True


def test_a_ledger_with_more_than_the_invoice_differs_too(used: FakeAdminApi, command: Run) -> None:
    """Such as an answer that was counted twice, or a day that the invoice does not have."""
    used.rows = [row for row in used.rows if row.day == NEXT_DAY]
    found = compared(command, status=1)
    assert found["rows"][0]["beyond_tolerance"] == [*KINDS, "cost_nusd"]
    assert found["rows"][0]["difference"]["cost_nusd"] == -cost_of(TOKENS)


def test_traffic_beside_the_proxy_is_visible(used: FakeAdminApi, command: Run) -> None:
    """A model that the ledger has never seen, and the keys and workspaces of the invoice; `--api-key` leaves others
    out, and shares the costs out by what each key used."""
    used.used(DAY, MODEL, key="apikey_other", workspace="wrkspc_lab", **KINDS)
    used.used(DAY, MODEL, key="apikey_other", **KINDS)
    used.used(DAY, "claude-fable-5-2", key=None, input=7)
    found = compared(command, status=1)
    assert found["models_not_in_ledger"] == ["claude-fable-5-2"]
    accounts = {(one["api_key_id"], one["workspace_id"]): one for one in found["api_keys"]}
    assert {place: one["input_tokens"] for place, one in accounts.items()} == {
        ("apikey_proxy", "default"): 3_000,
        ("apikey_other", "wrkspc_lab"): 1_000,
        ("apikey_other", "default"): 1_000,
        ("none", "default"): 7,
    }
    assert accounts["apikey_proxy", "default"]["cost_nusd"] == 3 * cost_of(TOKENS)
    own = compared(command, "--api-key", "apikey_proxy", "--tolerance", "0")
    assert own["ok"] is True
    assert [one["compared"] for one in own["api_keys"]] == [True, False, False, False]
    rows = compared(command, "--workspace", "default", status=1)["rows"]
    assert {row["model"]: row["difference"]["input_tokens"] for row in rows if row["day"] == DAY} == {
        "claude-fable-5-2": 7,
        MODEL: 1_000,
    }


def test_batches_cost_half_and_searches_go_to_the_model_that_searched(
    bench: Bench, fake: FakeAdminApi, command: Run
) -> None:
    """Both are on the invoice without the model's or the key's name."""
    cost = cost_of(TOKENS) // 2 + 30_000_000
    append(bench.redis, [ended(1, tokens=TOKENS, cost_nusd=cost)])
    bench.project()
    fake.used(DAY, MODEL, tier="batch", searches=3, **KINDS)
    fake.used(DAY, "claude-opus-4-8", key="apikey_other", **KINDS)
    assert compared(command, "--api-key", "apikey_proxy", "--tolerance", "0")["ok"] is True


def test_what_is_charged_for_no_tokens_is_a_row_of_its_own(used: FakeAdminApi, command: Run) -> None:
    """The ledger has no price for the run time of sessions or sandboxes, and says so by differing."""
    used.charged(DAY, "session_usage", "12.5")
    found = compared(command, status=1)
    [row] = [row for row in found["rows"] if row["beyond_tolerance"]]
    assert (row["model"], row["difference"]["cost_usd"]) == ("session usage", "0.125000000")
    assert found["models_not_in_ledger"] == ["session usage"]


def test_priority_usage_has_no_dollars_to_compare(bench: Bench, fake: FakeAdminApi, command: Run) -> None:
    """Its tokens are compared all the same."""
    append(bench.redis, [ended(1, tokens=TOKENS, cost_nusd=cost_of(TOKENS))])
    bench.project()
    fake.used(DAY, MODEL, tier="priority", **KINDS)
    assert [row["prepaid"] for row in compared(command)["rows"]] == [True]
    fake.used(DAY, MODEL, tier="priority", input=500)
    assert compared(command, status=1)["rows"][0]["beyond_tolerance"] == ["input"]


def test_a_year_comes_in_pages(used: FakeAdminApi, command: Run) -> None:
    """Each day once, whatever the page's size; both reports, with their groups."""
    used.days_a_page = 4
    assert compared(command, "--tolerance", "0")["ok"] is True
    pages = len(used.asked) // 2
    assert pages == 8
    assert sum("page=page_" in target for target in used.asked) == 2 * (pages - 1)
    assert "group_by%5B%5D=api_key_id" in used.asked[0]
    assert set(used.keys) == {ADMIN_KEY}


def test_pages_without_an_end_are_an_error(used: FakeAdminApi, command: Run) -> None:
    """Not a command that never ends."""
    used.days_a_page, used.repeats_pages = 4, True
    code, output = command(cli.reconcile, *PERIOD)
    assert code == 2
    assert "again and again" in output


@pytest.mark.parametrize(
    ("status", "headers", "mend"),
    [
        (401, {}, "must be an admin key; an administrator of the organization creates one"),
        (403, {}, "must be an admin key; an administrator of the organization creates one"),
        (404, {}, "check ANTHROPIC_ADMIN_URL"),
        (400, {}, "refuses /v1/organizations/usage_report/messages (status 400)"),
        (429, {"retry_after": "3600"}, "try again in 3600 s"),
    ],
)
def test_an_error_says_what_to_do(
    status: int, headers: dict[str, str], mend: str, used: FakeAdminApi, command: Run
) -> None:
    """With exit code 2, so that scripts don't take it for a difference; a quoted key is masked."""
    used.fail(status, f"no: {ADMIN_KEY} \x1b[31m", **headers)
    code, output = command(cli.reconcile, *PERIOD)
    assert code == 2
    assert mend in output
    assert ADMIN_KEY not in output
    assert "(no: ***" in output


def test_without_a_key_nothing_is_asked(used: FakeAdminApi, command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable, and where such keys come from."""
    monkeypatch.delenv("ANTHROPIC_ADMIN_KEY")
    code, output = command(cli.reconcile)
    assert (code, used.asked) == (2, [])
    assert "ANTHROPIC_ADMIN_KEY is not set; an administrator" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--since", "soon"), "is not a time"),
        (("--since", "2026-09-02", "--until", "2026-09-01"), "ends (2026-09-01) before it begins"),
        (("--since", "2020-01-01"), "compare at most 366 at once"),
    ],
)
def test_a_period_that_makes_no_sense_is_refused(
    arguments: tuple[str, ...], message: str, used: FakeAdminApi, command: Run
) -> None:
    """Before anything is asked."""
    code, output = command(cli.reconcile, *arguments)
    assert (code, used.asked) == (2, [])
    assert message in output


def api_of(fake: FakeAdminApi, waits: list[float], said: list[str], **options: Any) -> AdminApi:
    """An Admin API whose waits take no time."""
    settings = InvoiceSettings(Secret(ADMIN_KEY), options.pop("url", fake.url))
    return AdminApi(settings, said.append, sleep=waits.append, **options)


def test_limits_and_outages_are_waited_for(fake: FakeAdminApi) -> None:
    """As long as the answer says, a bounded number of times; the user hears of it."""
    waits: list[float] = []
    said: list[str] = []
    fake.fail(429, retry_after="7")
    fake.fail(529)
    fake.fail(500)
    api = api_of(fake, waits, said)
    period = days_of("2026-09-01", "2026-09-02", NOW)
    assert [len(page.data) for page in api.usage(period)] == [1]
    assert waits == [7, 2, 4]
    assert said[0] == "127.0.0.1: status 429; asking again in 7 s"
    for _ in range(MOST_TRIES):
        fake.fail(503, "down")
    with pytest.raises(InvoiceError, match=r"can't answer .* now \(status 503\) \(down\); try again later"):
        list(api.usage(period))
    api.close()


def test_a_host_that_is_away_is_an_error(fake: FakeAdminApi) -> None:
    """After as many tries."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    waits: list[float] = []
    api = api_of(fake, waits, [], transport=httpx.MockTransport(refuse))
    with pytest.raises(InvoiceError, match=r"127\.0\.0\.1 can't be reached: connection refused"):
        list(api.costs(days_of("2026-09-01", "2026-09-02", NOW)))
    assert waits == [1, 2, 4, 8]
    api.close()


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"data": [{"starting_at": "x", "results": []}]}', b'{"data": 1}', b"\xff"]
)
def test_an_answer_that_is_no_report_is_an_error(fake: FakeAdminApi, body: bytes) -> None:
    """Such as a page of a machine in between."""
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body, request=request))
    api = api_of(fake, [], [], transport=transport)
    with pytest.raises(InvoiceError, match="did not answer /v1/organizations/cost_report with a report"):
        list(api.costs(days_of("2026-09-01", "2026-09-02", NOW)))
    api.close()


def test_other_currencies_are_not_compared(used: FakeAdminApi, command: Run) -> None:
    """Instead of a wrong difference."""
    used.currency = "EUR"
    code, output = command(cli.reconcile, *PERIOD)
    assert code == 2
    assert "in EUR; only US dollars can be compared" in output


def line(day: str, ledger: int, invoice: int) -> Line:
    """A day with so many tokens of input."""
    return Line(day, MODEL, Amounts(input=ledger), Amounts(input=invoice), 0, prepaid=False)


def test_days_of_the_invoice_are_those_of_utc() -> None:
    """Whatever zone its times are in."""
    rows = [{"model": MODEL, "output_tokens": 1}]
    page = {"data": [{"starting_at": "2026-09-11T02:00:00+02:00", "results": rows},
                     {"starting_at": "2026-09-11T23:00:00-01:00", "results": rows},
                     {"starting_at": "2026-09-13T00:00:00", "results": rows}]}  # fmt: skip
    invoice = invoice_of([msgspec.convert(page, Page[UsageResult])], [])
    assert [item.day for item in invoice.items] == ["2026-09-11", "2026-09-12", "2026-09-13"]


@pytest.mark.parametrize(
    ("days", "beyond"),
    [
        ([(100, 100), (100, 100)], [False, False]),
        ([(100, 80), (100, 120)], [False, False]),
        ([(100, 80), (100, 100), (100, 120)], [True, False, True]),
        ([(100, 80), (100, 80)], [True, True]),
        ([(100, 120), (100, 80), (100, 120)], [False, False, True]),
        ([(100, 120), (100, 80), (100, 80), (100, 120)], [False] * 4),
        ([(10, 5), (100_000, 100_000)], [True, False]),
        ([(0, 7)], [True]),
    ],
)
def test_midnight_makes_no_difference(days: list[tuple[int, int]], beyond: list[bool]) -> None:
    """A request that spans it may be on either day; a large neighbour hides nothing, and each day evens out one."""
    lines = [line(f"2026-09-1{number}", *sides) for number, sides in enumerate(days)]
    assert [bool(one.beyond) for one in judged(lines, 1.0)] == beyond


def test_the_table_has_both_sides_and_says_what_is_left_out(used: FakeAdminApi, command: Run) -> None:
    """For people: equal rows once, others with their difference, then the keys, then the result."""
    used.used(NEXT_DAY, "claude-opus-4-8", key="apikey_other", output=2_000)
    used.used(DAY, "claude-[red]x", input=3)
    code, output = command(cli.reconcile, *PERIOD)
    assert code == 1
    rows = [" ".join(row.split()) for row in output.splitlines()]
    assert f"{DAY} {MODEL} both 1,000 200 30,000 4,000 500 0.0330" in rows
    assert f"{NEXT_DAY} claude-opus-4-8 ledger 1,000 200 30,000 4,000 500 0.0330" in rows
    assert rows.count("difference 0 +2,000 0 0 0 +0.0300") == 1
    assert "total ledger 3,000 600 90,000 12,000 1,500 0.0990" in rows
    assert "difference +3 +2,000 0 0 0 +0.0300" in rows
    assert "apikey_other default compared 0 2,000 0 0 0 0.0300" in rows
    assert (
        "claude-[red]x is on the invoice, and never in the ledger: such requests did not pass through the proxy."
        in rows
    )
    assert any(row.startswith("Not on this invoice, and not compared: zai.") for row in rows)
    assert rows[-1] == "2 rows differ by more than 1 %."


def test_nothing_on_both_sides_is_equal(bench: Bench, fake: FakeAdminApi, command: Run) -> None:  # noqa: ARG001
    """And not an error."""
    code, output = command(cli.reconcile, *PERIOD)
    assert code == 0
    assert "Neither the ledger nor the invoice has usage in this period." in output
    assert output.splitlines()[-1] == "Ledger and invoice agree within 1 %."
