"""One transaction for one command: retried when the database asks for it, in the log's order.

The event log is ordered by transaction id, and a transaction gets its id with its first row lock.
A command that locks several rows may wait for one that has changed a later row meanwhile under a
higher id; its event about that row would then stand before the other's. `in_order` finds this
after the locks are taken, and the command starts again under a new id: what the log says about a
row, in its order, is that row's history.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import psycopg
from psycopg.rows import DictRow

from wtb_ray import errors
from wtb_ray.db import Connection, Database

Result = TypeVar("Result")

ATTEMPTS: Final = 8
PAUSE_S: Final = 0.005
HALF_OF_XIDS: Final = 1 << 31


async def transact(db: Database, work: Callable[[Connection], Awaitable[Result]]) -> Result:
    """Runs `work` in one transaction; after a deadlock or lost race, all of it again.

    Raises:
        DatabaseUnavailable: The database does not answer, or the races never end.
    """
    for attempt in range(ATTEMPTS):
        try:
            async with db.transaction() as conn:
                return await work(conn)
        except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure) as e:
            lost = e
        await asyncio.sleep(random.uniform(0, PAUSE_S * 2**attempt))  # noqa: S311
    raise errors.DatabaseUnavailable(
        f"the command lost {ATTEMPTS} races for its rows: {lost}"
    ) from lost


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
