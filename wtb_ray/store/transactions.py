"""One transaction for one command: retried when the database asks for it, in the log's order.

The event log is ordered by transaction id, and a transaction gets its id with its first row lock.
A command that locks several rows may wait for one that has changed a later row meanwhile under a
higher id; its event about that row would then stand before the other's. `in_order` finds this
after the locks are taken, and the command starts again under a new id: what the log says about a
row, in its order, is that row's history. One that loses again and again, to runs that commit all the
time, holds their commits up while it takes its turn.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import psycopg
from psycopg.rows import DictRow

from wtb_ray import errors
from wtb_ray.db import COMMITS_LOCK, Connection, Database

Result = TypeVar("Result")

ATTEMPTS: Final = 8
PATIENT: Final = 3
"""Attempts until the commits of runs are held up."""
PAUSE_S: Final = 0.005
LOST: Final = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.LockNotAvailable,
)
HALF_OF_XIDS: Final = 1 << 31


async def transact(db: Database, work: Callable[[Connection], Awaitable[Result]]) -> Result:
    """Runs `work` in one transaction; after a deadlock or lost race, all of it again.

    Raises:
        DatabaseUnavailable: The database does not answer, or the races never end.
    """
    for attempt in range(ATTEMPTS):
        try:
            async with db.transaction() as conn:
                if attempt >= PATIENT:
                    await _hold_up_commits(conn)
                return await work(conn)
        except LOST as e:
            lost = e
        await asyncio.sleep(random.uniform(0, PAUSE_S * 2**attempt))  # noqa: S311
    raise errors.DatabaseUnavailable(
        f"the command lost {ATTEMPTS} races for its rows: {lost}"
    ) from lost


async def _hold_up_commits(conn: Connection) -> None:
    """Waits until no run commits, and lets none until this transaction, which has no id yet, has ended."""
    await conn.execute("SET LOCAL lock_timeout = '2s'")  # one of them may hang
    await conn.execute("SELECT pg_advisory_xact_lock(%s)", (COMMITS_LOCK,))
    await conn.execute("SET LOCAL lock_timeout = DEFAULT")


def in_order(rows: Sequence[DictRow]) -> Sequence[DictRow]:
    """The locked rows, if none was last written by a later transaction than this one.

    Raises:
        SerializationFailure: One was; `transact` starts again.
    """
    for row in rows:
        distance = (int(row["written_by"]) - int(row["xid"])) % (2 * HALF_OF_XIDS)
        if 0 < distance < HALF_OF_XIDS:
            raise psycopg.errors.SerializationFailure(f"row {row['id']} has a later writer")
    return rows
