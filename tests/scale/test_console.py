"""The console and the operators' commands reach Redis wherever it is: a Cluster, behind Sentinel, over TLS."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from service.commands.events import Wanted, show_events
from service.console.reports import ReportClient
from service.fleet.control_stream import operator, read_view
from service.fleet.status import read_status
from service.fleet.stream_writer import RedisPort
from service.ledger.events import RouteDisabled, RouteEnabled
from service.ledger.wire import CONTROL, encode_entry
from service.redis_client.factory import open_async
from service.settings import from_variables
from tests.support.topologies import Cluster, Secured, Sentinel

TOPOLOGIES: list[type[Cluster | Sentinel | Secured]] = [Cluster, Sentinel, Secured]


@pytest.mark.parametrize("kind", TOPOLOGIES, ids=lambda kind: kind.__name__.lower())
def test_operators_reach(kind: type[Cluster | Sentinel | Secured], tmp_path: Path) -> None:
    """Commands are put there and read back, by the view, the status and the events; so is the workers' queue."""
    with kind(tmp_path) as topology:
        with operator(topology.url) as desk:
            desk.append(
                [
                    RouteDisabled(**desk.common_fields(), route="zai"),
                    RouteEnabled(**desk.common_fields(), route="anthropic"),
                ]
            )
            desk.append([RouteDisabled(**desk.common_fields(), route="anthropic", reason="why")])
            assert read_view(desk.redis).control.disabled == {"zai": "", "anthropic": "why"}
        shown: list[Any] = []
        asyncio.run(show_events(topology.url, None, Wanted(), 10, shown.extend, follow=False))
        assert [(view.type, view.route) for view in shown] == [
            ("route_disabled", "zai"),
            ("route_enabled", "anthropic"),
            ("route_disabled", "anthropic"),
        ]
        asyncio.run(append_as_a_proxy(topology.url))
        status = read_status(from_variables({"REDIS_URL": topology.url}), topology.url)
        assert [(stream.stream, stream.lag) for stream in status.streams] == [("control", 3)]
        if not isinstance(topology, Cluster):
            assert asyncio.run(workers_by(topology.url)) == 0


async def append_as_a_proxy(url: str) -> None:
    """A proxy's own command: the console's, or a refusal."""
    async with open_async(url, legacy_responses=False) as redis:
        event = RouteEnabled(event_id="of a proxy", at_ms=1, replica="r", seq=1, route="zai")
        await RedisPort(redis).append([(CONTROL, encode_entry([event]))])


async def workers_by(url: str) -> int | None:
    """How many workers are at the queue that lies there."""
    reports = ReportClient(url)
    try:
        return await reports.workers()
    finally:
        reports.close()
