"""S3 for tests of objects: moto's real server, and a proxy before it that fails when told to."""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import fsspec
from moto.server import ThreadedMotoServer

BUCKET = "wtb-objects"
CREDENTIALS = {"key": "test", "secret": "test"}


@contextmanager
def moto() -> Iterator[dict[str, Any]]:
    """Storage options of an S3 server with the bucket `wtb-objects`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}", **CREDENTIALS}
    fsspec.filesystem("s3", skip_instance_cache=True, **options).makedirs(BUCKET, exist_ok=True)
    yield options
    server.stop()


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    head: bytes = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def identity(self) -> tuple[str, str, str]:
        return self.method, self.path, hashlib.sha256(self.body).hexdigest()


def answer(status: int, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>".encode()
    head = f"HTTP/1.1 {status} Fault\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


ANSWERS = {
    "500": answer(500, "InternalError"),
    "503": answer(503, "SlowDown"),
    "507": answer(507, "InsufficientStorage"),
}
FAULTS = [*("500", "503", "reset", "lose", "cut", "repeat", "flip")]


class FaultyServer:
    """Forwards requests to a real server but for the ones that `fault` names a fault for.

    500, 503, 507: answers with it; reset: drops the request and the connection; stall: never
    answers; lose: forwards and drops the answer; cut: half of the answer's body; flip: an answer
    with one byte changed; repeat: forwards twice and gives the second answer.
    """

    def __init__(self, upstream: str):
        self._host, _, port = upstream.removeprefix("http://").partition(":")
        self._port = int(port)
        self.fault: Callable[[Request], str | None] = lambda request: None
        self.seen: list[Request] = []
        self.faults = 0
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    def first(self, times: int, how: str, method: str = "", path: str = "") -> None:
        """The first `times` sendings of each request of this kind meet a fault."""
        met: Counter[tuple[str, str, str]] = Counter()

        def fault(request: Request) -> str | None:
            if method not in request.method or path not in request.path:
                return None
            met[request.identity] += 1
            return how if met[request.identity] <= times else None

        self.fault = fault

    def sometimes(self, seed: int, share: float) -> None:
        """Any request may meet any fault."""
        dice = random.Random(seed)
        self.fault = lambda request: dice.choice(FAULTS) if dice.random() < share else None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FaultyServer"]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            request = await _read(reader, writer)
            self.seen.append(request)
            how = self.fault(request)
            self.faults += how is not None
            await self._answer(request, how, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        finally:
            writer.transport.abort() if writer.transport.is_closing() else writer.close()

    async def _answer(
        self, request: Request, how: str | None, writer: asyncio.StreamWriter
    ) -> None:
        if how == "stall":
            await asyncio.sleep(3600)
        if how == "reset":
            writer.transport.abort()
            return
        if how in ANSWERS:
            writer.write(ANSWERS[how])
            await writer.drain()
            return
        found = await self._forward(request)
        if how == "lose":
            writer.transport.abort()
            return
        if how == "repeat":
            found = await self._forward(request)
        head, gap, body = found.partition(b"\r\n\r\n")
        if how == "cut":
            body = body[: len(body) // 2]
        if how == "flip" and body and b" 20" in head[:13]:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        writer.write(head + gap + body)
        await writer.drain()

    async def _forward(self, request: Request) -> bytes:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(request.head + request.body)
        await writer.drain()
        found = await reader.read()
        writer.close()
        return found


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    raw = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = raw.strip().split("\r\n")
    fields = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
    if fields.pop("expect", None):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    fields["connection"] = "close"
    assert "transfer-encoding" not in fields
    body = await reader.readexactly(int(fields.get("content-length", 0)))
    head = "\r\n".join([first, *(f"{k}: {v}" for k, v in fields.items())]) + "\r\n\r\n"
    method, path, _ = first.split(" ")
    return Request(method, path, head.encode(), body)
