"""The measuring programs measure what they say: a load against the stand-in, and what is made of its figures."""

import asyncio
import os
import time
from typing import Any

import msgspec
import pytest

from bench import processes, rates
from bench.load import Figures, Job, Load
from bench.processes import exact_seconds, stat
from bench.report import Sample, chart, tables
from bench.scenarios import ALL
from bench.soak import Reading, slope_of
from bench.standin import Connection
from bench.targets import Target
from bench.traffic import Kind, body


@pytest.mark.parametrize("kind", ["json", "sse", "paced"])
async def test_whole_answers_are_counted(kind: Kind) -> None:
    """All three kinds; clients that leave are told apart, and paced events tell how long they took."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    job = Job(port=port, path="/v1/messages", kind=kind, body_bytes=2_000, open_at_once=4, most=8, leave_every=4)
    figures = await Load(job).run()
    assert figures.errors == 0
    assert figures.left >= 2
    assert figures.done + figures.left >= 8
    assert (figures.chunk_p50 is not None) == (kind == "paced")
    server.close()
    await server.wait_closed()


async def test_what_is_no_answer_is_an_error() -> None:
    """404 is not counted as done."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    figures = await Load(Job(port=port, path="/elsewhere", kind="json", body_bytes=2_000, most=1)).run()
    assert (figures.done, figures.errors) == (0, 1)
    assert "404" in figures.error
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("size", [2_000, 60_000])
def test_bodies_have_their_size(size: int) -> None:
    """About so many bytes of JSON, whose turns alternate."""
    data = body(size, "sse")
    assert abs(size - len(data)) < 0.1 * size
    told = msgspec.json.decode(data)
    roles = [turn["role"] for turn in told["messages"]]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    assert told["stream"] is True


def test_a_report_has_all_targets_and_says_what_failed() -> None:
    """Medians, spreads, ratios; no figure where no answer came."""
    good = Figures(
        seconds=2, done=100, left=0, errors=0, error="", first_p50=1.5, first_p99=3, chunk_p50=None, chunk_p99=None
    )
    none = msgspec.structs.replace(good, done=0, errors=7, first_p50=None, first_p99=None)
    samples = [
        Sample.of(ALL[0].name, name, figures, cpu_ms=0.4, own_cpu_ms=0.3, rss_mb=50, own_rss_mb=40)
        for name, figures in (("direct", good), ("ccproxy", good), ("nginx", none))
        for _ in range(2)
    ]
    text = "\n".join(tables(samples, [ALL[0].name]))
    assert "| ccproxy | 50 (50 to 50) | 0.400 (0.400 to 0.400); the proxy's process alone 0.300 | 1.00 | 0.00" in text
    assert "| nginx | 0 (0 to 0) | - | - | - | - | 14 |" in text
    assert "ccproxy" in chart(samples, [ALL[0].name])


def test_the_slope_is_that_of_the_line() -> None:
    """2 MB for each 1000 requests."""
    readings = [Reading(number * 1_000, 50 + 2 * number, 10, 3) for number in range(5)]
    assert slope_of(readings) == pytest.approx(0.002)


def test_rates_are_told_by_process_and_beside_nginx() -> None:
    """Medians of each process, how many times nginx takes, and at rest the part of a core."""
    rest, load = rates.Load(0).name, rates.Load(10, "json", 2_000).name
    ours = {"proxy": 1.0, "worker": 0.5, "other": 0.0}
    samples = [
        rates.Sample(rest, "ccproxy", True, 0, 0, None, None, ours),
        rates.Sample(load, "nginx", False, 100, 0, 0.2, 0.3, {"other": 0.1}),
        *(rates.Sample(load, "ccproxy", False, 100, 1, 0.9, 1.5, ours) for _ in range(2)),
    ]
    text = "\n".join(rates.table(samples))
    assert "| at rest | ccproxy | 0.15 (0.15 to 0.15) % of a core | - | 1.00 | 0.50 | 0.00 | 0.00 | 0.00 | 0 |" in text
    assert "| JSON 2 KB, 10/s | nginx | 0.10 (0.10 to 0.10) | 1 (1 to 1) | - | - | - | - | - | 0 |" in text
    assert "| JSON 2 KB, 10/s | ccproxy | 1.50 (1.50 to 1.50) | 15 (15 to 15) | 1.00 | 0.50 |" in text


def test_processes_of_others_are_not_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """nginx has workers, too; only our own processes have columns."""
    commands = {1: "nginx: worker process", 2: "python -m service.cli worker"}
    monkeypatch.setattr(processes, "tree", lambda _: [1, 2])
    monkeypatch.setattr(processes, "command_of", commands.__getitem__)
    monkeypatch.setattr(processes, "exact_seconds", lambda _: 1.0)
    process: Any = Running()
    assert rates.used_ms(Target("nginx", 1, process=process)) == {"other": 2_000.0}
    assert rates.used_ms(Target("ccproxy", 1, process=process, own=" serve")) == {"worker": 2_000.0}


class Running:
    """A process by its number."""

    pid = 1


def test_processor_time_is_finer_than_a_tick() -> None:
    """What a process has used grows with what it does, and is not far from what its ticks say."""
    before_s = exact_seconds(os.getpid())
    until_s = time.process_time() + 0.003
    while time.process_time() < until_s:
        pass
    used_s = exact_seconds(os.getpid())
    assert used_s - before_s >= 0.002
    ticks = sum(int(field) for field in stat(os.getpid())[11:15]) / os.sysconf("SC_CLK_TCK")
    assert used_s == pytest.approx(ticks, rel=0.2, abs=0.5)
