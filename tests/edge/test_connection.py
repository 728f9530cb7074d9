"""A connection answers what uvicorn's own does, byte for byte; and what is its own: bounds, refusals, slow clients."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.drain import Drain
from service.edge import connection as module
from service.edge.body_memory import BodyMemory
from service.edge.connection import BODY_WINDOW_BYTES, KEPT_BYTES, ClientConnection, Shortcut
from service.edge.refusals import Refusals
from service.edge.request_cycle import LEAVING
from service.edge.request_target import read_target, target_in
from service.edge.responses import AsgiResponseWriter
from service.errors import ClientError
from tests.fakes import FakeProvider
from tests.support.proxies import ASK, STREAM, Server, Wire
from tests.support.reading import until_read
from tests.support.waiting import wait_until

Handler = Callable[[Any, Any, Any], Awaitable[None]]
JSON = b"content-type: application/json\r\n"
LAST = b"connection: close\r\n"
LARGE = b"x" * (4 * KEPT_BYTES)


def post(body: bytes, headers: bytes = JSON, path: bytes = b"/v1/echo") -> bytes:
    """A request with a length."""
    return b"POST %b HTTP/1.1\r\nhost: h\r\n%bcontent-length: %d\r\n\r\n%b" % (path, headers, len(body), body)


def get(path: bytes, headers: bytes = b"", method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    """A request without a body."""
    return b"%b %b HTTP/%b\r\nhost: h\r\n%b\r\n" % (method, path, version, headers)


async def body_of(receive: Any) -> bytes:
    """The whole body."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionError("the client has gone")
        body += bytes(message["body"])
        if not message["more_body"]:
            return body


async def answer(send: Any, body: bytes, *more: bytes, status: int = 200, length: int | None = None) -> None:
    """An answer in one piece or several, by chunks unless it says its length."""
    headers = [(b"content-type", b"text/plain")] + ([(b"content-length", b"%d" % length)] if length is not None else [])
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for part in more:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": body})


async def handle(scope: Any, receive: Any, send: Any) -> None:
    """Answers by what is asked for."""
    what = scope["path"].rpartition("/")[2]
    if what == "early":
        await answer(send, b"too much", status=413, length=8)
    elif what == "unread":
        # Until more of the body has come than is kept.
        await wait_until(lambda: any(each.flow.read_paused for each in scope["state"]["connections"]))
        await answer(send, b"too much", status=413, length=8)
    elif what == "chunks":
        await answer(send, b"three", b"one", b"", b"two")
    elif what == "empty":
        await answer(send, b"", status=204)
    elif what == "nothing":
        await answer(send, b"", length=0)
    elif what == "short":
        await answer(send, b"shor", length=5)
    elif what == "long":
        await answer(send, b"longer", length=5)
    elif what == "two-lines":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b\r\nc: d")]})
    else:
        body = await body_of(receive)
        told = [scope["method"], scope["raw_path"], scope["query_string"], scope["http_version"], scope["path"]]
        await answer(send, said := f"{told} {len(body)} {body[:40]!r}".encode(), length=len(said))


class Uncounted:
    """Counts nothing."""

    def begin(self) -> None:
        pass

    def end(self, endpoint: str, verdict: str, reason: str) -> None:
        pass

    def end_early(self, verdict: str) -> None:
        pass


async def answering_faults(scope: Any, receive: Any, send: Any) -> None:
    """Answers as `handle`, and a body that does not come as the API's handler does."""
    try:
        await handle(scope, receive, send)
    except ClientError as error:
        await AsgiResponseWriter(send, "req_011").fail(error)


@asynccontextmanager
async def serving(handler: Handler, protocol: Any = None) -> AsyncIterator["Served"]:
    """A server of this handler, straight away and behind uvicorn's own cycle."""
    http: Any = protocol or partial(
        ClientConnection,
        shortcut=Shortcut(handler, "/base", Drain(), Refusals(lambda: "req_011", Uncounted()), BodyMemory(1 << 28)),
    )
    config = uvicorn.Config(
        handler, http=http, lifespan="off", log_config=None, date_header=False, server_header=False, ws="none"
    )
    config.load()
    state = uvicorn.server.ServerState()
    made: Any = config.http_protocol_class
    make = partial(made, config=config, server_state=state, app_state={"connections": state.connections})
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    try:
        yield Served(server.sockets[0].getsockname()[1], state)
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await wait_until(lambda: not (state.tasks or state.connections))


class Served:
    """A server: where it listens, and its ends of connections."""

    def __init__(self, port: int, state: Any) -> None:
        self.port = port
        self.state = state

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Wire]:
        """A connection."""
        wire = Wire(*await asyncio.open_connection("127.0.0.1", self.port))
        try:
            yield wire
        finally:
            await wire.close()

    async def talk(self, pieces: tuple[bytes, ...]) -> bytes:
        """Send these one after the other; all that comes until the server closes."""
        async with self.connected() as wire:
            for piece in pieces:
                await wire.send(piece)
                await until_read(self.state.connections, wire.reader, wire.writer)
            return await wire.to_the_end()


def talks() -> Iterator[Any]:
    """What clients send, in pieces, each talk with its name."""
    last = post(b"{}", JSON + LAST)
    yield "json", (last,)
    yield "no json", (post(b"\xff", b"content-type: image/png\r\n" + LAST),)
    yield "in pieces", (last[:20], last[20:70], last[70:-1], last[-1:])
    yield "a large body", (post(LARGE, JSON + LAST),)
    yield "chunked", (b"POST /v1/e?a=b HTTP/1.1\r\nhost: h\r\n%btransfer-encoding: chunked\r\n%b\r\n" % (JSON, LAST),
                      b"3\r\nabc\r\n", b"2;x=y\r\nde\r\n0\r\n", b"trailer: t\r\n\r\n")  # fmt: skip
    yield "two", (post(b"1"), post(b"2"), last)
    yield "pipelined", (post(b"1") + get(b"/v1/chunks") + post(b"2") + get(b"/v1/empty") + last,)
    yield "pipelined, mixed with others", (post(b"1") + get(b"http://h/v1/x") + post(b"2") + last,)
    yield "expects a 100 and is refused", (post(b"{}", JSON + LAST + b"expect: 100-continue\r\n", b"/v1/early"),)
    yield "refused early, and goes on", (post(LARGE, path=b"/v1/early"), last)
    yield "refused unread, and goes on", (post(LARGE, path=b"/v1/unread"), last)
    yield "head", (get(b"/v1/echo", method=b"HEAD"), get(b"/v1/chunks", LAST, b"HEAD"))
    yield "chunks", (get(b"/v1/chunks", LAST),)
    yield "no content", (get(b"/v1/empty"), get(b"/v1/nothing", LAST))
    yield "http 1.0", (get(b"/v1/echo", version=b"1.0"),)
    yield "http 1.0, kept alive", (get(b"/v1/echo", b"connection: keep-alive\r\n", version=b"1.0"),)
    yield "an escape and a query", (get(b"/v1/a%20b?x=%20&y", LAST),)
    yield "an upgrade", (get(b"/v1/x", b"upgrade: h2c\r\nconnection: upgrade, close\r\n"),)
    yield "shorter than said", (get(b"/v1/short"),)
    yield "longer than said", (get(b"/v1/long"),)


@pytest.mark.parametrize("pieces", [pytest.param(pieces, id=name) for name, pieces in talks()])
async def test_the_answer_is_uvicorns(pieces: tuple[bytes, ...]) -> None:
    """Whatever is sent: the same bytes come back as by uvicorn's own cycle, from its own protocol."""
    async with serving(handle, HttpToolsProtocol) as usual, serving(handle) as lean:
        expected, got = await usual.talk(pieces), await lean.talk(pieces)
    assert got == expected
    assert expected


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/v1/messages", "/v1/messages", b""),
        (b"/v1/messages?beta=true", "/v1/messages", b"beta=true"),
        (b"/base/v1//messages", "/v1/messages", b""),
        (b"/base/v1/a%20b?x=%20&y", "/v1/a b", b"x=%20&y"),
        (b"http://h/v1/x", "/v1/x", b""),
        (b"HTTP://H/base/livez?a", "/livez", b"a"),
        (b"/base/livez", "/livez", b""),
        (b"/basement/livez", "/basement/livez", b""),
    ],
)
async def test_a_handler_sees_the_canonical_path_alone(target: bytes, path: str, query: bytes) -> None:
    """Whoever answers, the API's handler or the framework: in the target, and in each field of the scope."""
    seen: list[Any] = []

    async def note(scope: Any, receive: Any, send: Any) -> None:
        seen.append((target_in(scope), scope["path"], scope["raw_path"], scope["query_string"]))
        await handle(scope, receive, send)

    async with serving(note) as served:
        assert (await served.talk((get(target, LAST),))).startswith(b"HTTP/1.1 200 ")
    [(found, *told)] = seen
    assert found == read_target("GET", target.lower().removeprefix(b"http://h"), "/base")
    assert told == [path, found.path.encode(), query]


@pytest.mark.parametrize("target", [b"/base/v1", b"/v1/%6dessages", b"/v1/x#y", b"http://other/v1/x", b"*"])
async def test_what_has_no_canonical_path_reaches_no_handler(target: bytes) -> None:
    """The connection answers it by itself, and goes on."""

    async def never(_: Any, __: Any, ___: Any) -> None:
        raise AssertionError

    async with serving(never) as served:
        told = await served.talk((get(target), get(target, LAST)))
    assert told.count(b'"type":"error"') == 2


async def test_json_is_handled_when_it_is_whole() -> None:
    """Nobody waits for the rest of it; what is no JSON may be passed on as it comes."""
    async with serving(handle) as served, served.connected() as wire, served.connected() as upload:
        await wire.send(post(b"whole")[:-1])
        await upload.send(post(b"whole", b"")[:-1])
        await wait_until(lambda: len(served.state.tasks) == 1)
        assert sorted(bool(connection._cycle.waiting_handler) for connection in served.state.connections) == [
            False,
            True,
        ]
        for one in (wire, upload):
            await one.send(b"e")
            assert b"b'whole'" in await one.until(b"whole")


async def test_what_nobody_asks_for_is_not_read() -> None:
    """The proxy keeps a part of a body that its handler does not take; the rest stays with the client."""
    may_read = asyncio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        await may_read.wait()
        await handle(scope, receive, send)

    async with serving(wait) as served, served.connected() as wire:
        body = LARGE * 16
        sending = asyncio.create_task(wire.send(post(body)))
        await wait_until(lambda: bool(served.state.tasks))
        [connection] = served.state.connections
        await wait_until(lambda: connection.flow.read_paused)
        assert KEPT_BYTES < connection._cycle.buffered_bytes <= 2 * KEPT_BYTES
        assert connection.flow.read_paused
        may_read.set()
        await sending
        assert b" %d b'xxx" % len(body) in await wire.until(b"xxx")


async def test_the_handler_is_told_when_its_client_goes() -> None:
    """At once, by a call, though it waits for something else; not once the answer is at its end."""
    gone: list[str] = []
    over = asyncio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"][LEAVING](lambda: gone.append(scope["path"]))
        if scope["path"] == "/v1/answered":
            await handle(scope, receive, send)
        await over.wait()

    async with serving(wait) as served:
        for path in (b"/v1/answered", b"/v1/left"):
            async with served.connected() as wire:
                await wire.send(get(path))
                if path == b"/v1/answered":
                    await wire.until(b"answered")
                else:
                    await wait_until(lambda: len(served.state.tasks) == 2)
            await wait_until(lambda: not served.state.connections)
        over.set()
    assert gone == ["/v1/left"]


async def test_a_client_that_waits_for_a_100_gets_it() -> None:
    """When its body is asked for, and not before."""
    async with serving(handle) as served, served.connected() as wire:
        await wire.send(post(b"{}", JSON + LAST + b"expect: 100-continue\r\n").removesuffix(b"{}"))
        assert await wire.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await wire.send(b"{}")
        assert (await wire.to_the_end()).endswith(b"2 b'{}'")


@pytest.mark.parametrize("how", ["client", "server"])
async def test_half_a_request_is_handled_at_its_end(how: str) -> None:
    """A client that goes while it sends counts; one that still sends when the server ends is answered."""
    seen: list[str] = []

    async def note(_: Any, receive: Any, send: Any) -> None:
        seen.append((await receive())["type"])
        await answer(send, b"come again", status=503)

    async with serving(note) as served, served.connected() as wire:
        await wire.send(post(b"half of it")[:-5])
        await wait_until(lambda: any(connection._cycle for connection in served.state.connections))
        assert not served.state.tasks
        if how == "server":
            [connection] = served.state.connections
            connection.shutdown()
            assert b"connection: close" in await wire.to_the_end()
        else:
            await wire.close()
        await wait_until(lambda: bool(seen))
    assert seen == ["http.request" if how == "server" else "http.disconnect"]


async def test_a_head_is_one_head() -> None:
    """What a header brings in a line of its own does not leave."""
    async with serving(handle) as served:
        assert await served.talk((get(b"/v1/two-lines"),)) == b""


async def test_a_lonely_head_leaves_all_the_same() -> None:
    """A stream whose content is still to come has begun."""
    end = asyncio.Event()

    async def begin(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await end.wait()
        await send({"type": "http.response.body", "body": b"late"})

    async with serving(begin) as served, served.connected() as wire:
        await wire.send(get(b"/v1/x", LAST))
        assert (
            await wire.until(b"\r\n\r\n")
            == b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        end.set()
        assert (await wire.to_the_end()).endswith(b"4\r\nlate\r\n0\r\n\r\n")


async def test_a_head_leaves_with_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one piece, and a stream's next piece in another."""
    written: list[bytes] = []
    write = asyncio.selector_events._SelectorSocketTransport.write  # type: ignore[attr-defined]

    def note(transport: Any, data: bytes) -> None:
        written.append(data)
        write(transport, data)

    async with serving(handle) as served, served.connected() as wire:
        monkeypatch.setattr(asyncio.selector_events._SelectorSocketTransport, "write", note)  # type: ignore[attr-defined]
        await wire.send(get(b"/v1/chunks"))
        await wire.until(b"0\r\n\r\n")
    assert [data.count(b"HTTP/1.1 200 OK\r\n") for data in written] == [0, 1, 0, 0]
    assert written[1].endswith(b"\r\n\r\n3\r\none\r\n")


async def test_a_slow_reader_holds_the_handler_back() -> None:
    """Writing waits while the client takes nothing."""
    sent = 0

    async def pour(_: Any, __: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(200):
            await send({"type": "http.response.body", "body": LARGE, "more_body": True})
            sent += 1
        await send({"type": "http.response.body", "body": b"end"})

    async with serving(pour) as served, served.connected() as wire:
        await wire.send(get(b"/v1/x", LAST))
        await wait_until(lambda: any(connection.flow.write_paused for connection in served.state.connections))
        assert sent < 100
        assert (await wire.to_the_end()).endswith(b"end\r\n0\r\n\r\n")


@pytest.mark.parametrize("headers", [{}, {"connection": "close"}], ids=["kept alive", "closed"])
@pytest.mark.parametrize("body", [ASK, STREAM], ids=["json", "stream"])
async def test_a_request_leaves_nothing_to_the_collector(
    server: Server, anthropic: FakeProvider, body: dict[str, Any], headers: dict[str, str]
) -> None:
    """All that it made goes by itself when it ends, and so does its connection: no circle of references stays."""
    served = await server.start(anthropic=anthropic)
    assert (await served.ask(body, headers=headers)).status_code == 200
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(3):
            assert (await served.ask(body, headers=headers)).status_code == 200
        gc.collect()
        left = [type(thing) for thing in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not [kind for kind in left if kind.__module__.startswith("service.")]


WHOLE = get(b"/v1/echo")
PARTS = [
    pytest.param(b"", b"", id="nothing"),
    pytest.param(b"POST /v1/echo HTTP/1.1\r\nhost:", b" 408 ", id="head"),
    pytest.param(post(b"x" * 10)[:-5], b" 408 ", id="body"),
    pytest.param(post(LARGE)[: 2 * KEPT_BYTES], b" 408 ", id="large body"),
    pytest.param(post(b"x" * 10, headers=b"content-type: text/plain\r\n")[:-5], b" 408 ", id="upload"),
    pytest.param(post(b"x" * 10, path=b"/other/echo")[:-5], b" 408 ", id="body of another path"),
    pytest.param(post(b"x" * 10, path=b"/v1/early")[:-5], b" 413 ", id="body behind an answer"),
    pytest.param(WHOLE + WHOLE[:-2], b" 408 ", id="next head"),
    pytest.param(get(b"/other/echo") + WHOLE[:-2], b" 408 ", id="next head elsewhere"),
    pytest.param(WHOLE + b"|\r\n", b" 200 ", id="empty lines"),
]


@pytest.mark.parametrize(("said", "told"), PARTS)
async def test_a_client_that_is_too_slow_is_disconnected(
    said: bytes, told: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of a request is missing, and whatever was asked before: it learns why, and the connection closes."""
    monkeypatch.setattr(module, "LINGER_S", 0.01)
    async with serving(answering_faults) as served, served.connected() as wire:
        for piece in said.split(b"|"):
            await wire.send(piece)
            await wire.quiet(0.05)
        [connection] = served.state.connections
        connection.close_if_slow()
        assert not connection.transport.is_closing()  # it has its time
        connection._body_bytes = 0  # as after a window
        connection._since_s -= max(module.HEAD_S, module.BODY_WINDOW_S)
        connection.close_if_slow()
        assert told in await wire.to_the_end()
        await wait_until(lambda: not served.state.tasks)


async def test_a_slow_body_that_makes_progress_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each window begins anew; the pace counts, not the whole time."""
    monkeypatch.setattr(module, "BODY_WINDOW_S", 0.0)
    part = b"x" * BODY_WINDOW_BYTES
    async with serving(handle) as served, served.connected() as wire:
        whole = post(part * 3)
        await wire.send(whole[: -3 * len(part)])
        await wait_until(lambda: any(each._in_body for each in served.state.connections))
        [connection] = served.state.connections
        for number in range(3):
            await wire.send(part)
            await wait_until(lambda: connection._body_bytes == len(part) or not connection._in_body)
            connection.close_if_slow()
            assert connection._body_bytes == 0 or number == 2
        await wire.until(b"200 OK")


@pytest.mark.parametrize("path", [b"/v1/late", b"/other/late"])
async def test_a_client_that_waits_is_left_alone(path: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """For its answer, and afterwards for its own next request: then uvicorn's timer runs."""
    monkeypatch.setattr(module, "HEAD_S", 0.0)
    monkeypatch.setattr(module, "BODY_WINDOW_S", 0.0)
    due = asyncio.Event()

    async def late(_: Any, receive: Any, send: Any) -> None:
        await body_of(receive)
        await due.wait()
        await answer(send, b"late", length=4)

    async with serving(late) as served, served.connected() as wire:
        await wire.send(post(b"{}", path=path))
        await wire.quiet(0.05)
        [connection] = served.state.connections
        connection.close_if_slow()
        due.set()
        await wire.until(b"late")
        connection.close_if_slow()
        wire.got = b""
        await wire.send(get(path))
        await wire.until(b"late")


async def test_a_body_that_nobody_reads_is_not_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not asked for more can't send it."""
    monkeypatch.setattr(module, "BODY_WINDOW_S", 0.0)
    due = asyncio.Event()

    async def late(scope: Any, receive: Any, send: Any) -> None:
        await due.wait()
        await handle(scope, receive, send)

    async with serving(late) as served, served.connected() as wire:
        sending = asyncio.create_task(wire.send(post(LARGE)))
        await wait_until(lambda: any(each.flow.read_paused for each in served.state.connections))
        [connection] = served.state.connections
        connection.close_if_slow()
        monkeypatch.setattr(module, "BODY_WINDOW_S", 60.0)
        due.set()
        await wire.until(b"200 OK")
        await sending


async def test_a_client_that_waits_for_a_100_is_not_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends its body when it is told to."""
    monkeypatch.setattr(module, "BODY_WINDOW_S", 0.0)
    due = asyncio.Event()

    async def late(scope: Any, receive: Any, send: Any) -> None:
        await due.wait()
        await handle(scope, receive, send)

    async with serving(late) as served, served.connected() as wire:
        await wire.send(post(b"{}", JSON + b"expect: 100-continue\r\n").removesuffix(b"{}"))
        await wait_until(lambda: bool(served.state.tasks))
        [connection] = served.state.connections
        connection.close_if_slow()
        monkeypatch.setattr(module, "BODY_WINDOW_S", 60.0)
        due.set()
        await wire.until(b"100 Continue\r\n\r\n")
        await wire.send(b"{}")
        await wire.until(b"200 OK")
