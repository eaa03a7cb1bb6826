"""The event log: followers miss nothing, and its order is the order of history."""

import asyncio
import random

import psycopg

from tests.integration.store_bench import StoreBench
from wtb_ray.db import Database
from wtb_ray.events import BatchFailed, Cursor
from wtb_ray.store import Store

WRITERS, EACH = 8, 12


async def waiting(db: Database, count: int) -> None:
    """Returns when this many sessions wait for a lock."""
    while True:
        row = await db.row(
            "SELECT count(*) AS n FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        if row is not None and row["n"] >= count:
            return
        await asyncio.sleep(0.01)


async def write(db: Database, number: int) -> None:
    """Transactions of two events each that commit late, and now and then not at all."""
    for i in range(EACH):
        async with db.transaction() as conn:
            for half in "ab":
                event = BatchFailed(reason=f"{number}.{i}{half}")
                await Store(db).events.append(conn, "w", event, batch_id=f"b{number % 2}")
                await asyncio.sleep(random.choice([0, 0, 0.001, 0.01]))
            if i % 5 == 4:
                raise psycopg.Rollback


async def follow(
    store: Store, written: asyncio.Event, limit: int, batch_id: str | None
) -> list[str]:
    """The cursors of the log read page by page while it is written."""
    seen: list[str] = []
    cursor = Cursor.START
    while True:
        last = written.is_set()
        page = await store.events.read(cursor, limit, batch_id=batch_id, types=["batch.failed"])
        seen += [event.cursor for event in page]
        if page:
            cursor = Cursor.parse(page[-1].cursor)
        elif last:
            return seen
        await asyncio.sleep(0)


async def test_followers_miss_nothing_though_commits_come_out_of_order(
    bench: StoreBench, url: str
) -> None:
    written = asyncio.Event()
    async with Database(url, size=WRITERS) as db:
        followers = [
            asyncio.create_task(follow(bench.store, written, limit, batch))
            for limit, batch in ((500, None), (3, None), (7, "b0"))
        ]
        await asyncio.gather(*(write(db, number) for number in range(WRITERS)))
        written.set()
        everything, small, half = await asyncio.gather(*followers)
    rows = await bench.db.rows(
        "SELECT xid::text || '.' || seq AS cursor, batch_id FROM events"
        " WHERE type = 'batch.failed' ORDER BY xid, seq"
    )
    assert len(rows) == WRITERS * (EACH - EACH // 5) * 2
    assert everything == [row["cursor"] for row in rows]
    assert small == everything
    assert half == [row["cursor"] for row in rows if row["batch_id"] == "b0"]


async def test_the_logs_order_is_each_rows_history(bench: StoreBench, url: str) -> None:
    """A stop of a batch waits at one execution while another of the batch is paused."""
    first, second = sorted(await bench.claimed(2), key=lambda a: a.execution_id)
    batch_id = str(first.batch_id)
    async with await psycopg.AsyncConnection.connect(url) as conn:
        await conn.execute(
            "SELECT FROM executions WHERE id = %s FOR NO KEY UPDATE", (first.execution_id,)
        )
        stopping = asyncio.create_task(bench.store.batches.stop(batch_id, None, actor="me"))
        await waiting(bench.db, 1)
        assert await bench.settle(second, "pause", reason="breakpoint") is None
        await conn.rollback()
    await stopping
    assert await bench.types(execution_id=second.execution_id) == [
        "execution.created",
        "execution.started",
        "execution.paused",
        "execution.cancelled",
    ]


async def test_reading_by_what_it_is_about(bench: StoreBench) -> None:
    held, other = await bench.claimed(2)
    await bench.settle(held, "complete")
    events = bench.store.events
    about = await events.read(Cursor.START, execution_id=held.execution_id)
    assert [e.type for e in about] == [
        "execution.created",
        "execution.started",
        "execution.completed",
        "cell.scored",
    ]
    assert {(e.project, e.execution_id, e.batch_id) for e in about} == {
        ("p", held.execution_id, held.batch_id)
    }
    assert [e.actor for e in about] == ["scheduler", "r1", "r1", "r1"]
    started = await events.read(Cursor.START, types=["execution.started"])
    assert [e.execution_id for e in started] == [held.execution_id, other.execution_id]
    assert await events.read(Cursor.START, types=[]) == []
    everything = await events.read(Cursor.START)
    rest = await events.read(Cursor.parse(everything[2].cursor), 4)
    assert rest == everything[3:7]
    assert str(await events.latest()) == everything[-1].cursor
    assert await events.read(await events.latest()) == []


async def test_a_fresh_log_begins_at_the_start(db: Database) -> None:
    assert await Store(db).events.latest() == Cursor.START
