"""Nothing of a request outlives it: no task, no connection that nobody will use again."""

import asyncio

from tests.fakes import FakeProvider, reply
from tests.support.proxies import ASK, STREAM, Server, Serving
from tests.support.streams import DELTA, SSE, START
from tests.support.waiting import wait_until

PATIENCE_S = 20.0


async def leave(served: Serving) -> None:
    """A client that goes in the middle of its stream."""
    async with served.http.stream("POST", "/v1/messages", json=STREAM) as answer:
        async for _ in answer.aiter_bytes():
            return


async def test_no_task_outlives_its_request(server: Server, anthropic: FakeProvider, zai: FakeProvider) -> None:
    """Whether it was answered, failed over, refused or left."""
    served = await server.start(anthropic=anthropic, zai=zai)
    await served.ask(ASK)
    own = asyncio.all_tasks()
    for _ in range(20):
        hanging = reply.raw(START + DELTA * 3, content_type=SSE).cut("hang", "bytes", len(START + DELTA))
        anthropic.script(reply.message(), reply.message(), reply.error(529), reply.error(400), hanging)
        for body in (ASK, STREAM, STREAM, ASK):
            await served.ask(body)
            served.forget()
        await leave(served)
        await served.http.get("/v1/nothing-at-all")
    await wait_until(lambda: asyncio.all_tasks() == own)
    assert ("anthropic", "aborted", "") in served.told
