"""The laws of reports: what the cells say, by whatever is asked for, in UTC and exact dollars."""

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click
import pytest
from click.testing import CliRunner

from service.ledger.events import ClientKeyIssued, TokenCounts
from tests.support.stream_factories import NOON_MS, append, ended, new_id
from tests.workers.conftest import Bench
from workers import cli
from workers.store import first_id, week_of
from workers.usage import Period, dimensions_of, dollars, period_of

Run = Callable[..., tuple[int, str]]
DAY_MS = 86_400_000
NOW = datetime(2026, 11, 22, 17, 30, tzinfo=UTC)
ALL = ("--since", "2026-09-01", "--until", "2026-10-01")


@pytest.fixture
def used(bench: Bench) -> Bench:
    """Two days, two routes, two models, two keys; a failure that another attempt followed; one without a price."""
    append(bench.redis, [ended(1), ended(2, outcome="failed", kind="reset", scope="route", final=False)])
    append(
        bench.redis,
        [ended(3, at_ms=NOON_MS + DAY_MS, client_key="bob", cost_nusd=None, tokens=TokenCounts(cache_read=7))],
    )
    append(bench.redis, [ended(1, model_sent="glm-5.2", cost_nusd=1_500_000_000, outcome="aborted")], "zai")
    bench.project()
    bench.project("zai")
    return bench


def rows_of(run: Run, *arguments: str) -> list[dict[str, Any]]:
    """The rows of a report."""
    status, output = run(cli.usage, *ALL, "--json", *arguments)
    assert status == 0
    found: list[dict[str, Any]] = json.loads(output)["rows"]
    return found


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        (["day"], [("2026-09-10", 3, 2), ("2026-09-11", 1, 1)]),
        (["week"], [("2026-09-07", 4, 3)]),
        (["route"], [("anthropic", 3, 2), ("zai", 1, 1)]),
        (
            ["model", "day"],
            [
                ("claude-sonnet-4-5", "2026-09-10", 2, 1),
                ("claude-sonnet-4-5", "2026-09-11", 1, 1),
                ("glm-5.2", "2026-09-10", 1, 1),
            ],
        ),
        (["key"], [("alice", 3, 2), ("bob", 1, 1)]),
    ],
)
def test_usage_is_grouped_by_what_is_asked_for(used: Bench, command: Run, by: list[str], groups: list[Any]) -> None:  # noqa: ARG001
    """In that order; commas or several options; attempts and requests."""
    for asked in (["--by", ",".join(by)], [word for name in by for word in ("--by", name)]):
        rows = rows_of(command, *asked)
        assert [(*(row[name] for name in by), row["attempts"], row["requests"]) for row in rows] == groups


def test_a_row_has_every_count(used: Bench, command: Run) -> None:  # noqa: ARG001
    """Tokens by kind, failures, what has no price, and the cost in both units."""
    assert rows_of(command, "--by", "route")[0] == {
        "route": "anthropic",
        "requests": 2,
        "attempts": 3,
        "failed": 1,
        "aborted": 0,
        "lost": 0,
        "input_tokens": 20,
        "output_tokens": 10,
        "cache_read_tokens": 7,
        "cache_write_5m_tokens": 0,
        "cache_write_1h_tokens": 0,
        "batch_items": 0,
        "cost_nusd": 2_000,
        "cost_usd": "0.000002000",
        "unpriced": 1,
        "estimated": 0,
        "estimated_tokens": 0,
        "moves": 0,
        "moved_tokens": 0,
        "moved_cost_nusd": 0,
        "moved_unpriced": 0,
    }


def test_the_total_is_that_of_all_rows(used: Bench, command: Run) -> None:  # noqa: ARG001
    """In JSON and in the table's last line, which says UTC, dollars, and what has no price."""
    total = json.loads(command(cli.usage, *ALL, "--json")[1])["total"]
    assert (total["attempts"], total["requests"], total["cost_usd"]) == (4, 3, "1.500002000")
    status, output = command(cli.usage, *ALL, "--by", "route,model")
    assert status == 0
    assert "2026-09-01 00:00 to 2026-10-01 00:00, UTC" in output
    assert output.splitlines()[-2].split() == ["total", "3", "4", "1", "1", "30", "15", "7", "$1.5000+"]


def test_csv_is_what_spreadsheets_read(used: Bench, command: Run) -> None:  # noqa: ARG001
    """A head and plain numbers."""
    rows = list(csv.DictReader(io.StringIO(command(cli.usage, *ALL, "--csv", "--by", "key")[1])))
    assert [(row["key"], row["attempts"], row["cost_usd"]) for row in rows] == [
        ("alice", "3", "1.500002000"),
        ("bob", "1", "0.000000000"),
    ]


@pytest.fixture
def moved(bench: Bench) -> Bench:
    """A session that went to another provider and back, another that got a new account, and a failure on the way."""
    written = TokenCounts(input=5, output=900, cache_read=40, cache_write_5m=1_000, cache_write_1h=200)
    append(bench.redis, [ended(1), ended(2, outcome="failed", kind="reset", scope="route", final=False)])
    there = ended(1, moved_from="anthropic", lost="cache,thoughts", tokens=TokenCounts(input=700), client_key="bob")
    append(bench.redis, [there], "zai")
    back = ended(3, at_ms=NOON_MS + DAY_MS, moved_from="zai", lost="cache", tokens=written, move_cost_nusd=4_000_000)
    other = ended(4, at_ms=NOON_MS + DAY_MS, lost="cache", tokens=TokenCounts(input=7), move_cost_nusd=50)
    append(bench.redis, [back, other])
    bench.project()
    bench.project("zai")
    return bench


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("day", [("2026-09-10", 1, 700, 0), ("2026-09-11", 2, 1_212, 4_000_050)]),
        ("route", [("anthropic", 2, 1_212, 4_000_050), ("zai", 1, 700, 0)]),
        ("key", [("alice", 2, 1_212, 4_000_050), ("bob", 1, 700, 0)]),
    ],
)
def test_moves_of_sessions_and_what_they_cost(moved: Bench, command: Run, by: str, groups: list[Any]) -> None:  # noqa: ARG001
    """What was read anew: neither what was in a cache nor what was answered."""
    fields = (by, "moves", "moved_tokens", "moved_cost_nusd")
    assert [tuple(row[name] for name in fields) for row in rows_of(command, "--by", by)] == groups
    total = json.loads(command(cli.usage, *ALL, "--json")[1])["total"]
    assert tuple(total[name] for name in fields[1:]) == (3, 1_912, 4_000_050)


def test_moves_stand_in_the_table_and_in_csv(moved: Bench, command: Run) -> None:
    """With a sentence on what they cost, where there were any."""
    output = command(cli.usage, *ALL, "--by", "route")[1]
    assert output.splitlines()[1].split()[-2:] == ["moves", "cost"]
    assert "Moved sessions had 1,912 tokens read anew, at a list price of $0.0040." in output
    rows = list(csv.DictReader(io.StringIO(command(cli.usage, *ALL, "--csv", "--by", "route")[1])))
    assert [(row["moves"], row["moved_tokens"], row["moved_cost_nusd"]) for row in rows] == [
        ("2", "1212", "4000050"),
        ("1", "700", "0"),
    ]
    there = ended(5, at_ms=NOON_MS, lost="cache", tokens=TokenCounts(input=9), cost_nusd=None)
    append(moved.redis, [there], "zai")
    moved.project("zai")
    unpriced = "at a list price of $0.0040, and 1 answers without a price."
    assert unpriced in " ".join(command(cli.usage, *ALL, "--by", "route")[1].split())
    assert json.loads(command(cli.usage, *ALL, "--json")[1])["total"]["moved_unpriced"] == 1


def test_requests_are_unknown_where_events_were_dropped(used: Bench, command: Run) -> None:
    """They are in the events alone. Tokens are known all the same."""
    used.execute("UPDATE ccproxy.checkpoints SET kept_from = %s", first_id(week_of(first_id(0)) + 2_960))
    (row,) = rows_of(command, "--by", "week")
    assert (row["requests"], row["moves"], row["attempts"]) == (None, None, 4)
    assert "dropped" in command(cli.usage, *ALL)[1]


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)])
def test_events_that_wait_to_be_folded_are_told(
    used: Bench, command: Run, form: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many a report lacks, beside it; a stream that was never folded counts, one of operators' events does not."""
    monkeypatch.setattr(cli, "FOLDED_WITHIN_S", 0.1)
    assert json.loads(command(cli.usage, *ALL, "--json")[1])["unfolded_events"] == 0
    assert CliRunner().invoke(cli.usage, [*ALL, *form]).stderr == ""
    append(used.redis, [ended(8), ended(9)])
    append(used.redis, [ended(1)], "new")
    issued = ClientKeyIssued(event_id=new_id(), at_ms=NOON_MS, replica="r1", seq=1, key_id="k", name="k", sha256="0")
    append(used.redis, [issued], "control")
    result = CliRunner().invoke(cli.usage, [*ALL, *form])
    assert (result.exit_code, result.stderr.splitlines()) == (
        0, ["3 events wait in Redis and are not in this report yet; is a worker running?"]
    )  # fmt: skip
    assert json.loads(command(cli.usage, *ALL, "--json")[1])["unfolded_events"] == 3


def test_a_report_waits_for_the_fold_of_what_has_just_happened(
    used: Bench, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single proxy's events are folded once a second; who asks at once gets the last of them as well."""
    append(used.redis, [ended(8), ended(9)])
    monkeypatch.setattr("time.sleep", lambda _: used.project())
    found = json.loads(command(cli.usage, *ALL, "--json")[1])
    assert (found["unfolded_events"], found["total"]["attempts"]) == (0, 6)


def test_without_redis_a_report_says_what_it_cant_know(used: Bench, command: Run, monkeypatch: Any) -> None:  # noqa: ARG001
    """Its rows are there all the same."""
    monkeypatch.setenv("REDIS_URL", "redis://:marked-password@127.0.0.1:1/0")
    result = CliRunner().invoke(cli.usage, [*ALL, "--json"])
    found = json.loads(result.stdout)
    assert (result.exit_code, found["unfolded_events"], found["total"]["attempts"]) == (0, None, 4)
    assert "ccproxy check" in result.stderr
    assert "marked" not in result.output


def test_a_time_without_usage_says_so(bench: Bench, command: Run) -> None:  # noqa: ARG001
    """No empty table."""
    assert "No usage in this period" in command(cli.usage)[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--since", "yesterday"], "is not a time; use a date"),
        (["--since", "2026-09-02", "--until", "2026-09-01"], "before it begins"),
        (["--by", "day,colour"], "use day, week, route, model, key"),
    ],
)
def test_mistakes_are_told_with_their_mend(command: Run, arguments: list[str], words: str) -> None:
    """What was not understood, and what would be."""
    status, output = command(cli.usage, *arguments)
    assert status == 2
    assert words in " ".join(output.split())


@pytest.mark.parametrize("which", [cli.usage, cli.ledger.commands["verify"], cli.ledger.commands["dead"]])
def test_a_database_that_cannot_be_asked_is_told(
    command: Run, monkeypatch: pytest.MonkeyPatch, which: click.Command
) -> None:
    """An exit code, no traceback; without an address, the variable is named."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert command(which)[0] == 1
    monkeypatch.delenv("DATABASE_URL")
    assert command(which)[0] == 1


def test_a_running_up_is_found(bench: Bench, command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Its addresses are in its home."""
    monkeypatch.delenv("DATABASE_URL")
    (tmp_path / "run.json").write_text(json.dumps({"database_url": bench.postgres.url}), encoding="utf-8")
    assert command(cli.usage)[0] == 0
    assert command(cli.migrate, "--check") == (0, "schema.current\n")


@pytest.mark.parametrize(
    ("since", "until", "period"),
    [
        (None, None, ("2026-11-15T00", "2026-11-22T18")),
        ("2026-11-02", None, ("2026-11-02T00", "2026-11-22T18")),
        ("12h", "1h", ("2026-11-22T05", "2026-11-22T17")),
        ("4w", None, ("2026-10-25T17", "2026-11-22T18")),
        ("2026-11-02T15:20+02:00", "2026-11-03T00:00", ("2026-11-02T13", "2026-11-03T00")),
    ],
)
def test_a_period_is_whole_hours_around_what_is_asked_for(
    since: str | None, until: str | None, period: tuple[str, str]
) -> None:
    """UTC, unless the time says otherwise."""
    assert period_of(since, until, NOW) == Period(*(datetime.fromisoformat(f"{hour}:00+00:00") for hour in period))


@pytest.mark.parametrize(
    ("nusd", "places", "text"),
    [
        (0, 4, "0.0000"),
        (49_999, 4, "0.0000"),
        (50_000, 4, "0.0001"),
        (1_234_567_890, 4, "1.2346"),
        (999_999_999, 2, "1.00"),
        (-1_500_000_000, 2, "-1.50"),
        (1, 9, "0.000000001"),
    ],
)
def test_dollars_are_exact(nusd: int, places: int, text: str) -> None:
    """No floating point, rounded half up."""
    assert dollars(nusd, places) == text


def test_groups_are_named_once() -> None:
    """Whatever is given twice counts once; nothing is by day."""
    assert (dimensions_of([]), dimensions_of(["key, day", "key"])) == (("day",), ("key", "day"))
