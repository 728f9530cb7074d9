"""What is used of libraries beyond their documentation. Each of them is bounded above in pyproject.toml: whoever raises
a bound runs this with the new version first."""

import asyncio
import inspect
import tomllib
from pathlib import Path

import httpcore
import httptools
import pytest
from httpcore._async.http11 import AsyncHTTP11Connection
from prometheus_client import CollectorRegistry, Counter, Histogram
from redis.asyncio.connection import Connection
from rq import SimpleWorker
from rq.job import Job
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import Server, ServerState

ROOT = Path(__file__).parents[2]
BOUNDED = ("httpcore", "httptools", "prometheus-client", "redis", "rq", "uvicorn")
PROTOCOL_FIELDS = (
    "app", "cycle", "headers", "loop", "parser", "pipeline", "scope", "tasks",
    "timeout_keep_alive_task", "transport", "url",
)  # fmt: skip


@pytest.mark.parametrize("name", BOUNDED)
def test_libraries_whose_insides_are_used_are_bounded_above(name: str) -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    [line] = [line for line in wanted if line.startswith(f"{name}>")]
    assert ",<" in line


async def test_uvicorns_protocol_has_the_fields_and_steps_that_connections_use() -> None:
    async def app(scope: object, receive: object, send: object) -> None: ...

    config = Config(app, log_config=None, loop="none", lifespan="off", interface="asgi3")
    config.load()
    protocol = HttpToolsProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    protocol.on_message_begin()
    assert [name for name in PROTOCOL_FIELDS if not hasattr(protocol, name)] == []
    for method in ("on_message_begin", "on_header", "on_response_complete", "shutdown", "_unset_keepalive_if_required"):
        assert callable(getattr(protocol, method))
    assert {"read_paused", "write_paused"} <= vars(FlowControl(None)).keys()  # type: ignore[arg-type]
    for method in ("pause_reading", "resume_reading", "drain"):
        assert callable(getattr(FlowControl, method))
    assert callable(Server.on_tick)
    assert callable(Server.main_loop)
    assert callable(Server.capture_signals)
    assert vars(ServerState()).keys() >= {"connections", "tasks"}


def test_the_parser_stops_behind_the_head_of_an_offered_upgrade() -> None:
    """The rest of what was fed is told by an offset, and a body is not read."""
    parser = httptools.HttpRequestParser(object())
    head = b"POST / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: x\r\ncontent-length: 2\r\n\r\n"
    with pytest.raises(httptools.HttpParserUpgrade) as offer:
        parser.feed_data(head + b"{}")
    assert offer.value.args[0] == len(head)


def test_prometheus_counts_can_be_added_in_one_go() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("h", "h", registry=registry, buckets=(1, 2))
    assert len(histogram._buckets) == 3
    histogram._buckets[0].inc(2)
    histogram._sum.inc(1.5)
    assert registry.get_sample_value("h_sum") == 1.5
    assert registry.get_sample_value("h_bucket", {"le": "1.0"}) == 2
    Counter("c", "c", registry=registry).inc(3)
    assert registry.get_sample_value("c_total") == 3


def test_a_redis_connection_has_a_writer() -> None:
    connection = Connection()
    assert connection._writer is None


RQ_STEPS = {
    "heartbeat": ["timeout", "pipeline"],
    "check_for_suspension": ["burst"],
    "set_state": ["state", "pipeline"],
    "handle_execution_ended": ["job", "queue", "heartbeat_ttl"],
    "handle_job_success": ["job", "queue", "started_job_registry", "execution"],
    "cleanup_execution": ["job", "pipeline", "execution"],
    "increment_successful_job_count": ["pipeline"],
}
"""Steps of RQ's worker around a job that `workers.worker` replaces or takes, with their parameters."""


@pytest.mark.parametrize("step", RQ_STEPS)
def test_rqs_worker_has_the_steps_that_fold_jobs_replace(step: str) -> None:
    """One that RQ renames would be called no more, or be missing at the end of each job."""
    assert list(inspect.signature(getattr(SimpleWorker, step)).parameters)[1:] == RQ_STEPS[step]


def test_rq_keeps_a_job_under_three_keys() -> None:
    """The end of a job without a result deletes them."""
    assert {"key", "dependents_key", "dependencies_key"} <= set(dir(Job))


def test_httpcore_keeps_h11s_state_where_it_is_looked_for() -> None:
    """`service.http1.upstream` asks it whether bytes have come behind an answer."""
    connection = AsyncHTTP11Connection(httpcore.Origin(b"http", b"x", 80), httpcore.AsyncMockStream([]))
    assert connection._h11_state.trailing_data == (b"", False)
