"""Status and check as a person sees them."""

import re
from io import StringIO

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.commands.finding import Finding
from service.commands.terminal_views import notes, short, show_findings, show_status, why, words_of
from service.console.fleet_status import FleetStatus
from service.console.overview import fleet_notices
from service.fleet.status import ReplicaStatus, Status, StreamStatus
from service.routing.quota import WaitReading, WindowReading
from service.routing.route_status import RouteStatus, UnknownError
from service.telemetry.safe_console import SafeConsole, Text

NOW_MS = 1_789_000_000_000
ZAI = RouteStatus(
    route="zai",
    title="Z.AI",
    state="quota_warning",
    quota="warning",
    used_tokens=950,
    limit_tokens=1_000,
    used_percent=95.0,
    attempts=12,
    failed=1,
    input_tokens=12_345,
    output_tokens=999_999,
    cache_read_tokens=3,
)
WAITING = RouteStatus(
    route="anthropic", title="Anthropic", state="waiting", reason="quota 429", until_ms=NOW_MS + 5_000
)


def screen(status: Status) -> str:
    """What 80 columns without colours show."""
    return drawn(lambda console: show_status(status, console))


def drawn(draw: object) -> str:
    """What is printed on a plain screen."""
    out = StringIO()
    assert callable(draw)
    draw(SafeConsole(file=out, width=80, color_system=None))
    return out.getvalue()


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1k"),
        (12_345, "12.3k"),
        (999_499, "999k"),
        (999_500, "1M"),
        (999_999, "1M"),
        (4_560_000, "4.56M"),
        (999_999_999, "1G"),
        (1_234_567_890_123, "1.23T"),
    ],
)
def test_counts_are_short(count: int, expected: str) -> None:
    """Three digits and a letter."""
    assert short(count) == expected


@given(st.integers(0, 999 * 10**12))
def test_counts_never_take_more_than_five_characters(count: int) -> None:
    """And are never written with an exponent; what they say is right within half a percent."""
    text = short(count)
    assert re.fullmatch(r"\d{1,3}(\.\d{1,2})?[kMGT]?", text)
    assert len(text) <= 5
    sizes = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    size = sizes.get(text[-1], 1)
    assert abs(float(text.rstrip("kMGT")) * size - count) <= 0.0051 * count


def test_a_reason_has_its_end_while_it_lies_ahead() -> None:
    """The local time of day; a moment that has passed is not shown."""
    assert re.fullmatch(r"quota 429, until \w{3} \d\d:\d\d:\d\d", why(WAITING, NOW_MS))
    assert why(WAITING, NOW_MS + 5_000) == "quota 429"
    assert why(ZAI, NOW_MS) == ""


def test_status_fits_a_terminal() -> None:
    """Routes in their order, then reasons, what waits for the workers, and who is alive; in 80 columns."""
    shown = screen(
        Status(
            at_ms=NOW_MS,
            routes=(WAITING, ZAI),
            streams=(StreamStatus("zai", 1, 1_200, 3, 10), StreamStatus("control", 0, 0, 0, None)),
            replicas=(ReplicaStatus("r1", 7, 400, 0),),
        )
    )
    lines = shown.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert lines[1].split()[:2] == ["anthropic", "waiting"]
    assert "no limit" in lines[1]
    assert lines[2].split() == ["zai", "quota", "warning", "████████", "95", "%", "12", "1", "12.3k", "1M", "3"]
    assert "anthropic: quota 429, until" in shown
    assert "1,200 events folded, entries to fold: zai 3" in shown
    assert "r1 (seen 0 s ago)" in shown


def test_a_replica_says_what_it_is() -> None:
    """Version, address, age, what it still has to write down, and whether it goes."""
    replica = ReplicaStatus("r1", 7, 400, 3, "", "0.2.0", "0.0.0.0:4181", NOW_MS - 7_200_000, draining=True)
    shown = screen(Status(at_ms=NOW_MS, routes=(), streams=(), replicas=(replica, replica)))
    line = "r1 (0.2.0, 0.0.0.0:4181, up 2 h, seen 0 s ago, 3 events pending, draining)"
    assert f"replicas  {line}\n          {line}\n" in shown
    page = StringIO()
    terminal = SafeConsole(file=page, width=80, color_system=None, force_terminal=True)
    show_status(Status(at_ms=NOW_MS, routes=(), streams=(), replicas=(replica,)), terminal)
    assert max(len(shown_line) for shown_line in page.getvalue().splitlines()) <= 80
    assert "\n          draining)\n" in page.getvalue()


def test_a_mixed_fleet_is_shown() -> None:
    """Which replicas run which version; those of one version, and one that reports none, are no news."""
    older, newer = (
        ReplicaStatus(name, 7, 400, 0, version=version) for name, version in (("r1", "0.1.0"), ("r2", "0.2.0"))
    )
    silent = ReplicaStatus("r3", 7, 400, 0)
    shown = screen(Status(at_ms=NOW_MS, routes=(), streams=(), replicas=(older, newer, silent)))
    assert "versions  differ between replicas: 0.1.0 r1; 0.2.0 r2\n" in shown
    alike = Status(at_ms=NOW_MS, routes=(), streams=(), replicas=(newer, newer, silent))
    assert "differ" not in screen(alike)
    mixed = FleetStatus(Status(at_ms=NOW_MS, routes=(), streams=(), replicas=(newer, older)), {})
    words = ["replicas run different versions: 0.1.0, 0.2.0"]
    assert [notice.message for notice in fleet_notices(mixed) if notice.code == "versions_differ"] == words
    assert fleet_notices(FleetStatus(alike, {})) == []


def test_an_empty_fleet_says_what_to_look_for() -> None:
    """Nothing waits, nobody is alive."""
    shown = screen(Status(at_ms=NOW_MS, routes=(), streams=(), replicas=()))
    assert "entries to fold: none" in shown
    assert "none; is a proxy running?" in shown


def test_findings_are_marked() -> None:
    """Good, bad, and neither."""
    findings = [Finding("a", True, "fine"), Finding("b", False, "[bold]broken"), Finding("c", None, "off")]
    shown = drawn(lambda console: show_findings(findings, console))
    assert shown.splitlines() == ["✓ a fine", "✗ b [bold]broken", "· c off"]


def test_windows_waits_and_the_forecast_are_shown() -> None:
    """A line each, with their clocks; nothing about what is not there."""
    reading = RouteStatus(
        route="subscription",
        title="Claude subscription",
        state="quota_warning",
        exhausted_at_ms=NOW_MS + 3_600_000,
        waits=(
            WaitReading("quota", NOW_MS + 9_000, "quota 429", "opus"),
            WaitReading("quota", NOW_MS, "quota 429", "", "0f1e", "count_tokens"),
        ),
        unknown_words=(UnknownError("aabb", 400, "messages", 2, 1, NOW_MS - 9, NOW_MS - 5),),
        second_opinions={"answered": 3, "none": 1},
        unread_usage={"hologram_tokens": NOW_MS},
        windows=(
            WindowReading("5h", "warning", 97.2, NOW_MS + 7_200_000, "allowed_warning"),
            WindowReading("7d", "warning", None, NOW_MS + 7_200_000, "rejected"),
        ),
    )
    lines = list(notes(reading, NOW_MS))
    clock = r"\w{3} \d\d:\d\d:\d\d"
    wanted = (
        rf"cool-down quota, opus: quota 429, until {clock}",
        rf"cool-down quota of account 0f1e, count_tokens: quota 429, until {clock}",
        rf"windows 5h 97 % until {clock}, 7d rejected until {clock}",
        rf"at this rate, the weekly limit is reached {clock}",
        rf"unknown error aabb: status 400 on messages, 2 requests of 1 clients, last {clock}",
        "second opinions 3 answered, 1 none",
        rf"fields of usage that are not counted: hologram_tokens \(last {clock}\)",
    )
    assert len(lines) == len(wanted)
    for line, pattern in zip(lines, wanted, strict=True):
        assert re.fullmatch(pattern, line)
    assert list(notes(ZAI, NOW_MS)) == []
    shown = screen(Status(at_ms=NOW_MS, routes=(reading,), streams=(), replicas=()))
    assert "subscription: windows 5h 97 %" in shown


def test_a_clock_that_is_off_is_told() -> None:
    """Log lines of that machine have other times."""
    replica = ReplicaStatus("r1", 7, 400, 0, clock_skew_ms=-300_000)
    assert "its machine's clock is 5 min slow" in words_of(replica, NOW_MS)
    assert "clock" not in words_of(msgspec.structs.replace(replica, clock_skew_ms=900), NOW_MS)


def test_a_pipe_has_no_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is wrapped, cut or coloured there, however narrow the terminal is that the command was typed in."""
    monkeypatch.setenv("COLUMNS", "40")
    out = StringIO()
    console = SafeConsole(file=out)
    name = "a-route-with-a-name-that-is-longer-than-any-terminal-is-wide-" * 3
    show_status(Status(NOW_MS, (msgspec.structs.replace(ZAI, route=name),), (), ()), console)
    show_findings([Finding("home", True, "w " * 200)], console)
    console.print(Text("t " * 200))
    lines = out.getvalue().splitlines()
    assert lines[1].startswith(name)
    assert len(lines) == 8
    assert "\x1b" not in out.getvalue()
