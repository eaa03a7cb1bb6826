"""Postgres: the connection pool, transactions, named queries, migrations and group commit.

Everything that is durable goes through a `Database`. Times in predicates are the database's own,
and a transaction that was idle or ran too long is ended by the server, not waited for.
"""

import asyncio
import math
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from importlib import resources
from typing import Any, Final, Generic, LiteralString, TypeVar, cast
from weakref import WeakKeyDictionary

import orjson
import psycopg
from langgraph.checkpoint.postgres.base import MIGRATIONS as LANGGRAPH_MIGRATIONS
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from wtb_ray import arrays, errors

Connection = AsyncConnection[DictRow]

SESSION: Final = (
    "-c timezone=UTC -c idle_in_transaction_session_timeout=30s -c transaction_timeout=120s"
)
LIVENESS: Final[dict[str, Any]] = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""A server that is gone without a word is noticed within seconds; the system's own wait is hours."""
IDLE_CHECK_S: Final = 1.0
"""A connection that was not used for this long is tried before it is given out."""
AGAIN_S: Final = 1.0
"""How long a cancelled task is waited for before it is cancelled once more."""
MIGRATION_LOCK: Final = 0x777462  # "wtb"
COMMITS_LOCK: Final = 0x777463
"""Shared by the group commits of runs; whoever holds it alone has no later writer of their rows."""


def queries(name: str) -> dict[str, LiteralString]:
    """The named blocks of `sql/{name}.sql`; each begins with a line `-- name: what_it_is`."""
    text = resources.files("wtb_ray.sql").joinpath(f"{name}.sql").read_text()
    parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)[1:]
    return {
        key: cast(LiteralString, sql.strip())
        for key, sql in zip(parts[::2], parts[1::2], strict=True)
    }


class Database:
    """A pool of connections to one database, for one process and event loop."""

    def __init__(self, url: str, *, size: int = 4, name: str = "wtb", timeout: float = 30.0):
        self.url = url
        self._returned: WeakKeyDictionary[Connection, float] = WeakKeyDictionary()
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            url,
            min_size=1,
            max_size=size,
            open=False,
            timeout=timeout,
            max_idle=300,
            max_lifetime=1800,
            check=self._check,
            reset=self._reset,
            kwargs={
                "autocommit": True,
                "prepare_threshold": 3,
                "row_factory": dict_row,
                "application_name": name,
                "options": SESSION,
                "context": arrays.CONTEXT,
                **LIVENESS,
            },
        )

    async def open(self) -> "Database":
        """Opens the pool; returns at once, connections are made in the background."""
        await self._pool.open(wait=False)
        return self

    async def close(self) -> None:
        await self._pool.close()

    async def __aenter__(self) -> "Database":
        return await self.open()

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def _reset(self, conn: Connection) -> None:
        self._returned[conn] = time.monotonic()

    async def _check(self, conn: Connection) -> None:
        """Finds connections that a restart of the server has cut; busy ones are spared the question."""
        if time.monotonic() - self._returned.get(conn, -math.inf) > IDLE_CHECK_S:
            await AsyncConnectionPool.check_connection(conn)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in autocommit mode.

        Raises:
            DatabaseUnavailable: No connection within the pool's timeout, or it was lost.
        """
        try:
            async with self._pool.connection() as conn:
                yield conn
        except (PoolTimeout, psycopg.OperationalError) as e:
            if isinstance(e, psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure):
                raise
            raise errors.DatabaseUnavailable(f"the database does not answer: {e}") from e

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside one transaction: committed at the end, rolled back on any exception."""
        async with self.connection() as conn, conn.transaction():
            yield conn

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Connection]:
        """A transaction that reads, in which all statements see the same rows."""
        async with self.transaction() as conn:
            await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield conn

    async def rows(
        self, sql: LiteralString, params: Mapping[str, Any] | Sequence[Any] = ()
    ) -> list[DictRow]:
        """All rows of one statement."""
        async with self.connection() as conn:
            return await (await conn.execute(sql, params)).fetchall()

    async def row(
        self, sql: LiteralString, params: Mapping[str, Any] | Sequence[Any] = ()
    ) -> DictRow | None:
        """The first row of one statement, or None."""
        async with self.connection() as conn:
            return await (await conn.execute(sql, params)).fetchone()


async def ended(*tasks: "asyncio.Task[Any]") -> None:
    """Cancels tasks until they have ended; what they raise is lost.

    Once is not enough: an answer of the database that comes at the same moment swallows it, as
    `asyncio.wait_for` does up to Python 3.11.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)


Item = TypeVar("Item")
Result = TypeVar("Result")


class GroupCommit(Generic[Item, Result]):
    """Collects what concurrent tasks of a process want to write and commits it in groups.

    `flush` gets all items that came while the last group was being written, in the order in which
    they came, and returns one result or exception for each. Items that arrive during a flush form
    the next group: no timer, so a lone item waits for nothing.
    """

    def __init__(
        self,
        flush: Callable[[list[Item]], Awaitable[list[Result | BaseException]]],
        limit: int = 512,
    ):
        self._flush = flush
        self._limit = limit
        self._queue: list[tuple[Item, asyncio.Future[Result]]] = []
        self._task: asyncio.Task[None] | None = None
        self._turn: asyncio.Future[None] | None = None
        self._submitted = 0
        self._finished = 0

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """Puts the item into the next group, before any await, and gives its future."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._queue.append((item, future))
        self._submitted += 1
        if self._task is None or self._task.done():
            # Not in the context of whoever came first: the task outlives it.
            self._task = loop.create_task(self._run(), context=Context())
        return future

    async def _run(self) -> None:
        while self._queue:
            group, self._queue = self._queue[: self._limit], self._queue[self._limit :]
            try:
                results = await self._flush([item for item, _ in group])
            except Exception as e:  # noqa: BLE001  # it is raised by every item of the group
                results = [e] * len(group)
            except BaseException:
                stopping = errors.Unavailable("the process is stopping")
                for _, future in (*group, *self._queue):
                    _settle(future, stopping)
                self._queue = []
                raise
            for (_, future), result in zip(group, results, strict=True):
                _settle(future, result)
            self._finished += len(group)
            turn, self._turn = self._turn, None
            if turn is not None:
                turn.set_result(None)

    async def drain(self) -> None:
        """Returns when everything submitted so far is written or failed."""
        target = self._submitted
        while self._finished < target and self._task is not None and not self._task.done():
            if self._turn is None:
                self._turn = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._turn, self._task], return_when=asyncio.FIRST_COMPLETED)


def _settle(future: "asyncio.Future[Result]", result: Result | BaseException) -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)


def _migrations() -> list[tuple[int, str]]:
    return sorted(
        (int(match[1]), entry.read_text())
        for entry in resources.files("wtb_ray.sql").iterdir()
        if (match := re.fullmatch(r"(\d{4})_\w+\.sql", entry.name))
    )


def migrate(url: str, *, timeout: float = 60.0) -> list[int]:
    """Brings the database to the newest schema, LangGraph's tables included; gives what it applied.

    Forward only, and safe to call from many processes at once. The lock is tried, never waited
    for: a session that waits holds a snapshot, and LangGraph's `CREATE INDEX CONCURRENTLY` in the
    session that has the lock would wait for that snapshot for ever.

    Raises:
        DatabaseUnavailable: The database does not answer, or the lock is not free within `timeout` s.
    """
    deadline = time.monotonic() + timeout
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as conn:
            while not _try_lock(conn):
                if time.monotonic() > deadline:
                    raise errors.DatabaseUnavailable(
                        f"another process holds the migration lock for over {timeout:g} s"
                    )
                time.sleep(0.05)
            try:
                _migrate_langgraph(conn)
                return _migrate_own(conn)
            finally:
                conn.execute("SELECT pg_advisory_unlock(%s)", (MIGRATION_LOCK,))
    except psycopg.OperationalError as e:
        raise errors.DatabaseUnavailable(f"the database does not answer: {e}") from e


def _try_lock(conn: psycopg.Connection[Any]) -> bool:
    row = conn.execute("SELECT pg_try_advisory_lock(%s)", (MIGRATION_LOCK,)).fetchone()
    return bool(row and row[0])


def _migrate_langgraph(conn: psycopg.Connection[Any]) -> None:
    conn.execute(LANGGRAPH_MIGRATIONS[0])
    row = conn.execute("SELECT max(v) FROM checkpoint_migrations").fetchone()
    done = -1 if row is None or row[0] is None else int(row[0])
    for number, sql in enumerate(LANGGRAPH_MIGRATIONS):
        if number > done:
            conn.execute(sql)
            conn.execute("INSERT INTO checkpoint_migrations (v) VALUES (%s)", (number,))


def _migrate_own(conn: psycopg.Connection[Any]) -> list[int]:
    conn.execute(
        "CREATE TABLE IF NOT EXISTS wtb_migrations"
        " (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    done = {row[0] for row in conn.execute("SELECT version FROM wtb_migrations")}
    applied = []
    for version, sql in _migrations():
        if version not in done:
            with conn.transaction():
                conn.execute(sql)
                conn.execute("INSERT INTO wtb_migrations (version) VALUES (%s)", (version,))
            applied.append(version)
    return applied


def main() -> int:
    """`python -m wtb_ray.db [URL]`: migrates that database, or the one of `WTB_DATABASE_URL`.

    Prints `{"applied": [...]}` or `{"error": {...}}`.
    """
    url = sys.argv[1] if len(sys.argv) > 1 else os.environ["WTB_DATABASE_URL"]
    outcome: dict[str, Any]
    try:
        outcome = {"applied": migrate(url)}
    except errors.WTBError as e:
        outcome = {"error": e.body()}
    except psycopg.Error as e:
        outcome = {"error": errors.DatabaseUnavailable(str(e)).body()}
    sys.stdout.write(f"{orjson.dumps(outcome).decode()}\n")
    return int("error" in outcome)


if __name__ == "__main__":
    sys.exit(main())
