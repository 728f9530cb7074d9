"""The measuring programs measure what they say: a load against the stand-in, and what is made of its figures."""

import asyncio

import msgspec
import pytest

from bench.load import Figures, Job, Load
from bench.report import Sample, chart, tables
from bench.scenarios import ALL
from bench.soak import Reading, slope_of
from bench.standin import Connection
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
