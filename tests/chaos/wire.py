"""The network between some processes and Valkey, which can be cut, stalled, or made to lose the answers alone.

A process that is killed or frozen takes its whole machine with it; a wire fails for one side, and after a request has
gone through: the append that landed and was never acknowledged.
"""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any

from tests.chaos.plan import Act
from tests.support.ports import free_port

CHUNK_BYTES = 65_536
START_S = 10.0


class Wire:
    """Passes bytes on between a port of its own and Valkey's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.alive = True
        self._target = 0
        self._cut = False
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._forth, self._back = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)

    def start(self, target: int) -> None:
        """Begin to pass on to this port."""
        self._target = target
        self._thread.start()
        self._run(self._serve())

    def stop(self) -> None:
        """End, with all connections."""
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_S)
        self._loop.close()

    def hurt(self, act: Act) -> None:
        """Do it now."""
        self._run(self._fail(act))

    def heal(self) -> bool:
        """Bring it back; what was stalled goes on its way."""
        self._run(self._mend())
        return True

    def complaint(self) -> str:
        """Wires do nothing by themselves."""
        return ""

    async def _serve(self) -> None:
        await self._mend()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _end(self) -> None:
        self._server.close()
        await self._break()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _fail(self, act: Act) -> None:
        if act == "cut":
            self._cut = True
            await self._break()
        self._back.clear()
        if act == "stall":
            self._forth.clear()

    async def _mend(self) -> None:
        self._cut = False
        self._forth.set()
        self._back.set()

    async def _break(self) -> None:
        for writer in self._open:
            writer.transport.abort()
        for task in self._tasks:  # those that wait at a gate don't see the end of their connection
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, back}
        pumps = {
            asyncio.ensure_future(self._pump(reader, back, self._forth)),
            asyncio.ensure_future(self._pump(there, writer, self._back)),
        }
        self._tasks |= pumps
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for each in (writer, back):
            each.transport.abort()
        for pump in pumps:
            pump.cancel()
        self._tasks -= pumps
        self._open -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(CHUNK_BYTES):
                await gate.wait()
                writer.write(data)
                await writer.drain()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(START_S)
