"""A proxy between two Unix sockets of Postgres that loses connections when a test wants it."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

SOCKET = ".s.PGSQL.5432"
COMMIT = b"COMMIT"


class SocketProxy:
    """Forwards everything until a rule says that a connection is to be lost.

    `lose` is asked for every piece that the client sends: None forwards it; "before" drops it and
    both connections, "after" forwards it, waits for the answer and drops that; "silent" drops it
    and the client's connection, so that the server does not notice.
    """

    def __init__(self, url: str) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="wtb-proxy-"))
        self._target = str(Path(str(conninfo_to_dict(url)["host"])) / SOCKET)
        self.url = make_conninfo(url, host=str(self._directory))
        self.lose: Callable[[bytes], str | None] = lambda data: None
        self.lost = 0
        self.refuse = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def lose_commits(self, how: str, times: int = 1) -> None:
        """Loses the next connections that commit."""

        def rule(data: bytes) -> str | None:
            return how if COMMIT in data and self.lost < times else None

        self.lose, self.lost = rule, 0

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self._writers.add(to_client)
        if self.refuse:
            to_client.close()
            return
        server, to_server = await asyncio.open_unix_connection(self._target)
        self._writers.add(to_server)
        answers = asyncio.create_task(self._answers(server, to_client))
        self._tasks.add(answers)
        while data := await client.read(65536):
            how = self.lose(data)
            if how is None:
                to_server.write(data)
                continue
            self.lost += 1
            answers.cancel()
            if how == "after":
                to_server.write(data)
                await asyncio.gather(answers, return_exceptions=True)
                assert await server.read(65536), "the server did not answer"
            to_client.transport.abort()
            if how != "silent":
                to_server.close()
            return
        to_server.close()

    async def _answers(self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        while data := await server.read(65536):
            to_client.write(data)
        to_client.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["SocketProxy"]:
        listener = await asyncio.start_unix_server(self._serve, self._directory / SOCKET)
        try:
            yield self
        finally:
            listener.close()
            for writer in self._writers:
                writer.transport.abort()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            shutil.rmtree(self._directory)
