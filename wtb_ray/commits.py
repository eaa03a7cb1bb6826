"""What concurrent runs of a process want to store, committed together behind one fence.

One transaction holds the head updates of all executions in the group, which are the fence, and then
the rows of those that still hold their execution: blobs, checkpoints, writes, steps, events last.
An item is written once or not at all, also when the connection is lost during COMMIT, and a bad
item fails alone. Items of one thread are committed in the order in which they came.
"""

import asyncio
import logging
import random
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import AsyncCursor
from psycopg.rows import TupleRow, tuple_row

from wtb_ray import arrays, db, errors

logger = logging.getLogger(__name__)

SQL: Final = db.queries("saver")
BIG: Final = 1_000_000
"""An item over this many bytes gets a transaction of its own."""
PATIENCE_S: Final = 60.0
"""How long a group is tried again while the database is away."""

BAD_ITEM: Final = (psycopg.Error, struct.error, TypeError, ValueError)
"""What Postgres, or the encoding for it, raises about one of the items of a group."""

ENDED_SESSION: Final = frozenset({"25006", "25P03", "25P04"})
"""Read-only after a failover, idle for too long, in a transaction for too long."""

KINDS: Final = {
    "fence": ("text", "int8", "text", "text", "int4"),
    "blobs": ("text", "text", "text", "text", "text", "bytea"),
    "checkpoints": ("text", "text", "text", "text", "jsonb", "jsonb"),
    "writes": ("text", "text", "text", "text", "text", "int4", "text", "text", "bytea"),
    "steps": ("text", "text", "int4", "text", "utf8", "text", "utf8", "float8", "text", "text"),
    "events": ("text", "text", "text", "text", "text", "utf8"),
}
"""What the columns of each statement are."""

Row = tuple[Any, ...]
Claim = tuple[str, int, str]
Cursor = AsyncCursor[TupleRow]


@dataclass(slots=True)
class Item:
    """Rows of one thread that belong together.

    A `claim` (execution, epoch, thread) is what the fence compares; without one there is no fence.
    """

    thread_id: str
    ns: str
    checkpoint_id: str
    claim: Claim | None
    size: int = 0

    @property
    def run(self) -> Claim | str:
        """Whose failures count: those of the same run, or of the thread where nothing is fenced."""
        return self.claim or self.thread_id


class Step(NamedTuple):
    """A root super-step: the new head (checkpoint, number), its row, its event except for the input's."""

    head: tuple[str, int]
    row: Row
    event: Row | None


@dataclass(slots=True)
class Put(Item):
    """A checkpoint with its blobs and, for a root checkpoint of an execution, its step."""

    checkpoint: Row = ()
    parent: str | None = None
    blobs: list[Row] = field(default_factory=list)
    step: Step | None = None
    lease: str | None = None
    """Under which the files of the step are stored: it is stored only while that stands."""


@dataclass(slots=True)
class Writes(Item):
    """Pending writes of one task; `spare` when nobody needs them once the next checkpoint is there."""

    rows: list[Row] = field(default_factory=list)
    spare: bool = False


Outcome = str | Exception
"""What the execution is wanted to do, or why the item was not stored."""


class Commits:
    """The group commit of one process and database."""

    def __init__(self, database: db.Database) -> None:
        self._db = database
        self._group: db.GroupCommit[Item, str] = db.GroupCommit(self._flush)
        self.failed: dict[Claim | str, Exception] = {}
        """Failed writes by run; the next checkpoint of the run is refused with them."""

    def submit(self, item: Item) -> "asyncio.Future[str]":
        """Takes the item, before any await, and gives the future of its outcome."""
        return self._group.submit(item)

    async def drain(self) -> None:
        """Returns when everything submitted so far is stored or failed."""
        await self._group.drain()

    async def _flush(self, items: list[Item]) -> list[str | BaseException]:
        outcomes: list[str | BaseException] = []
        for part in _parts(items):
            outcomes += await self._store(part)
        return outcomes

    async def _store(self, items: Sequence[Item]) -> list[Outcome]:
        """Commits the items together; one by one when the data of one cannot be stored."""
        outcomes: dict[int, Outcome] = {}
        live: list[Item] = []
        for item in items:
            failure = self.failed.get(item.run) if isinstance(item, Put) else None
            if failure is None:
                live.append(item)
            else:
                outcomes[id(item)] = failure
        try:
            stored = await self._commit(live) if live else []
        except errors.DatabaseUnavailable as e:
            stored = [e] * len(live)
        except BAD_ITEM as e:
            if len(items) > 1:
                return [outcome for item in items for outcome in await self._store([item])]
            stored = [_refused(live[0], e)]
        for item, outcome in zip(live, stored, strict=True):
            outcomes[id(item)] = outcome
            if isinstance(item, Writes) and isinstance(outcome, Exception):
                self.failed.setdefault(item.run, outcome)
        return [outcomes[id(item)] for item in items]

    async def _commit(self, items: Sequence[Item]) -> list[Outcome]:
        """Commits once, however often the connection is lost.

        Raises:
            psycopg.Error: Something in the items cannot be stored.
            DatabaseUnavailable: The database was away for too long.
        """
        deadline = time.monotonic() + PATIENCE_S
        pause = 0.02
        while True:
            trial = _Trial(items)
            try:
                await trial.run(self._db)
            except (errors.DatabaseUnavailable, psycopg.Error) as e:
                _raise_unless_passing(e)
                if await self._is_committed(trial, deadline):
                    return trial.outcomes
                if time.monotonic() > deadline:
                    raise errors.DatabaseUnavailable(f"the group was not stored: {e}") from e
                logger.warning("a group of %d is tried again: %s", len(items), e)
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
                pause = min(pause * 2, 1.0)
            else:
                return trial.outcomes

    async def _is_committed(self, trial: "_Trial", deadline: float) -> bool:
        """What became of a transaction whose COMMIT was not answered; waits until it has ended.

        A crash of the server may give the number of a lost transaction to another one, so a row of
        the group must be there too. A group of pending writes alone may be written twice.
        """
        if trial.xid is None:
            return False
        pause = 0.02
        while True:
            try:
                row = await self._db.row(SQL["status"], {"xid": trial.xid, **trial.witness()})
                if row is None or row["status"] != "in progress":
                    return row is not None and row["status"] == "committed" and row["stored"]
                if pause > 0.5:  # the server has not seen that this end is gone
                    await self._db.row(SQL["end_lost"], (trial.xid,))
            except psycopg.errors.InvalidParameterValue:
                return False  # "in the future": the server crashed and knows nothing of it
            except errors.DatabaseUnavailable:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)


class _Trial:
    """One try to commit a group: its rows, and how far it came."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.outcomes: list[Outcome] = []
        self.xid: str | None = None
        """Set once COMMIT may have been sent."""
        self._items = items

    def witness(self) -> dict[str, str | None]:
        """A checkpoint that is stored exactly when the group is."""
        for item, outcome in zip(self._items, self.outcomes, strict=True):
            if isinstance(item, Put) and not isinstance(outcome, Exception):
                return {"thread": item.thread_id, "ns": item.ns, "id": item.checkpoint_id}
        return {"thread": None, "ns": None, "id": None}

    async def run(self, database: db.Database) -> None:
        async with database.connection() as conn, conn.pipeline(), conn.transaction():
            cursor = conn.cursor(row_factory=tuple_row)
            await conn.execute("SELECT pg_advisory_xact_lock_shared(%s)", (db.COMMITS_LOCK,))
            unleased = await self._unleased(cursor)
            wanted = await self._fence(cursor, unleased)
            self.outcomes = [_outcome(item, wanted, unleased) for item in self._items]
            held = [
                item
                for item, outcome in zip(self._items, self.outcomes, strict=True)
                if not isinstance(outcome, Exception)
            ]
            if not wanted:  # the fence tells it, so that rows and COMMIT are sent together
                self.xid = await self._transaction_id(cursor)
            for name, columns in _tables(held):
                await conn.execute(SQL[name], columns)

    async def _transaction_id(self, cursor: Cursor) -> str | None:
        await cursor.execute(SQL["xid"])
        row = await cursor.fetchone()
        return row[0] if row else None

    async def _unleased(self, cursor: Cursor) -> set[str]:
        """Leases of the group that have run out; whoever ends another waits for this transaction."""
        wanted = {item.lease for item in self._items if isinstance(item, Put) and item.lease}
        if not wanted:
            return set()
        await cursor.execute(SQL["leases"], (sorted(wanted),))
        return wanted - {id async for (id,) in cursor}

    async def _fence(self, cursor: Cursor, unleased: set[str]) -> dict[Claim, str]:
        heads: dict[Claim, tuple[str | None, int | None]] = {}
        for item in self._items:
            if item.claim is not None:
                stored = isinstance(item, Put) and item.lease not in unleased
                step = item.step if isinstance(item, Put) and stored else None
                heads[item.claim] = step.head if step else heads.get(item.claim, (None, None))
        if not heads:
            return {}
        rows = [(*claim, *head) for claim, head in sorted(heads.items())]
        await cursor.execute(SQL["fence"], arrays.columns(KINDS["fence"], rows))
        found: dict[Claim, str] = {}
        async for id, epoch, thread, wanted, self.xid in cursor:
            found[id, epoch, thread] = wanted
        return found


def _parts(items: list[Item]) -> Iterator[list[Item]]:
    """The group in order, with large items alone."""
    part: list[Item] = []
    for item in items:
        if item.size > BIG:
            if part:
                yield part
            yield [item]
            part = []
        else:
            part.append(item)
    if part:
        yield part


def _tables(items: Sequence[Item]) -> Iterator[tuple[str, list[arrays.Column]]]:
    """The rows of the items by statement, in the order in which they are written."""
    puts = [item for item in items if isinstance(item, Put)]
    parents = {(put.thread_id, put.ns, put.parent) for put in puts}
    writes: dict[Row, Row] = {}
    for item in items:
        if not isinstance(item, Writes):
            continue
        if item.spare and (item.thread_id, item.ns, item.checkpoint_id) in parents:
            continue
        for row in item.rows:
            key = (item.thread_id, item.ns, item.checkpoint_id, row[0], row[2])
            if key not in writes or row[2] < 0:
                writes[key] = (*key[:3], *row)
    found = {
        "blobs": [(put.thread_id, put.ns, *blob) for put in puts for blob in put.blobs],
        "checkpoints": list(
            {
                (put.thread_id, put.ns, put.checkpoint_id): (
                    *(put.thread_id, put.ns, put.checkpoint_id, put.parent),
                    *put.checkpoint,
                )
                for put in puts
            }.values()
        ),
        "writes": list(writes.values()),
        "steps": [put.step.row for put in puts if put.step],
        "events": [put.step.event for put in puts if put.step and put.step.event],
    }
    for name, rows in found.items():
        if rows:
            yield name, arrays.columns(KINDS[name], rows)


def _outcome(item: Item, wanted: dict[Claim, str], unleased: set[str]) -> Outcome:
    if item.claim and item.claim not in wanted:
        return _lost(item)
    if isinstance(item, Put) and item.lease in unleased:
        return errors.Unavailable(
            f"the files of {item.thread_id} took so long that some may be gone again",
            reason="lease",
        )
    return wanted[item.claim] if item.claim else "run"


def _lost(item: Item) -> errors.Fenced:
    return errors.Fenced(f"{item.thread_id} is held by another owner now", thread_id=item.thread_id)


def _refused(item: Item, error: Exception) -> errors.WTBError:
    """Why one item cannot be stored, with its channel where there is no doubt about it."""
    rows = item.blobs if isinstance(item, Put) else item.rows if isinstance(item, Writes) else []
    channels = {row[0] if isinstance(item, Put) else row[3] for row in rows}
    data = isinstance(error, (psycopg.DataError, psycopg.OperationalError)) or not isinstance(
        error, psycopg.Error
    )
    reason = str(error).strip()
    return (errors.UnstorableValue if data else errors.WTBError)(
        f"checkpoint {item.checkpoint_id} of {item.thread_id} cannot be stored: {reason}",
        thread_id=item.thread_id,
        checkpoint_id=item.checkpoint_id,
        channel=channels.pop() if len(channels) == 1 else None,
        reason=reason,
    )


def _raise_unless_passing(error: Exception) -> None:
    """Raises what trying again does not help against."""
    cause = error.__cause__ if isinstance(error, errors.DatabaseUnavailable) else error
    state = (isinstance(cause, psycopg.Error) and cause.sqlstate) or ""
    # Postgres counts "too large" among operational errors, and ended sessions among internal ones.
    passing = isinstance(cause, psycopg.OperationalError) and not state.startswith("54")
    if cause is not None and not passing and state not in ENDED_SESSION:
        raise cause
