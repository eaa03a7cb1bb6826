"""Followers get every event in the order of the log: none missing, none twice, however slow."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from wtb_ray.db import Database
from wtb_ray.events import BatchStarted, Cursor, Event, EventRow, ExecutionCancelled
from wtb_ray.serve.stream import Feed, Part, Wanted, sse
from wtb_ray.store import Store

EVERYTHING = Wanted()


@pytest_asyncio.fixture
async def store(db: Database) -> Store:
    return Store(db)


@pytest_asyncio.fixture
async def feed(store: Store) -> AsyncIterator[Feed]:
    feed = Feed(store.events, poll_ms=10, queue=16, page=8)
    yield feed
    await feed.close()


async def write(
    db: Database, store: Store, n: int = 1, *, execution: str = "e1", event: Event | None = None
) -> None:
    """One transaction with n events."""
    async with db.transaction() as conn:
        for i in range(n):
            await store.events.append(
                conn,
                "test",
                event or ExecutionCancelled(reason=str(i)),
                execution_id=execution,
                batch_id=None if execution == "e1" else "b1",
            )


async def collect(
    feed: Feed,
    n: int,
    *,
    after: Cursor = Cursor.START,
    wanted: Wanted = EVERYTHING,
    pause: float = 0,
) -> list[EventRow]:
    rows: list[EventRow] = []
    async for part in feed.follow(after, wanted, idle_s=5):
        rows.extend(part.rows)
        if len(rows) >= n:
            return rows
        await asyncio.sleep(random.uniform(0, pause))
    return rows


async def everything(store: Store) -> list[str]:
    rows = await store.events.read(Cursor.START, limit=100_000)
    return [row.cursor for row in rows]


async def test_many_writers_and_followers(db: Database, store: Store, feed: Feed) -> None:
    """Transactions that overlap commit out of order; fast, slow and late followers see all."""
    writers, rounds, each = 6, 15, 3
    total = writers * rounds * each

    async def writer() -> None:
        for _ in range(rounds):
            async with db.transaction() as conn:
                for _ in range(each):
                    await store.events.append(conn, "test", BatchStarted(), batch_id="b")
                    await asyncio.sleep(random.uniform(0, 0.004))

    async def late(delay: float, pause: float) -> list[EventRow]:
        await asyncio.sleep(delay)
        return await collect(feed, total, pause=pause)

    followers = [
        asyncio.create_task(late(random.uniform(0, 0.3), pause)) for pause in [0] * 10 + [0.02] * 10
    ]
    await asyncio.gather(*(writer() for _ in range(writers)))
    seen = await asyncio.gather(*followers)
    expected = await everything(store)
    assert len(expected) == total
    for rows in seen:
        assert [row.cursor for row in rows] == expected


@pytest.mark.parametrize("live", [False, True], ids=["reading the past", "following"])
async def test_a_stalled_follower_is_not_waited_for_and_misses_nothing(
    db: Database, store: Store, feed: Feed, live: bool
) -> None:
    parts = feed.follow(Cursor.START, EVERYTHING)
    await write(db, store)
    seen = (await anext(parts)).rows
    if live:
        await write(db, store)
        seen += (await anext(parts)).rows
    others = asyncio.create_task(collect(feed, 100 + len(seen)))
    for _ in range(10):
        await write(db, store, 10)
    assert len(await others) == 100 + len(seen)  # six times what fits into the stalled one's queue
    while len(seen) < len(await others):
        seen += (await anext(parts)).rows
    await parts.aclose()
    assert [row.cursor for row in seen] == await everything(store)


async def test_a_follower_resumes_behind_any_event(db: Database, store: Store, feed: Feed) -> None:
    for n in (1, 5, 3, 9, 2):
        await write(db, store, n)
    expected = await everything(store)
    for i in range(0, 20, 3):
        rows = await collect(feed, 20 - i - 1, after=Cursor.parse(expected[i]))
        assert [row.cursor for row in rows] == expected[i + 1 :]


async def test_reconnecting_all_the_time_loses_nothing(
    db: Database, store: Store, feed: Feed
) -> None:
    total = 120
    writer = asyncio.create_task(_write_slowly(db, store, total))
    seen: list[str] = []
    after = Cursor.START
    while len(seen) < total:
        rows = await collect(feed, min(random.randint(1, 9), total - len(seen)), after=after)
        seen += [row.cursor for row in rows]
        after = Cursor.parse(seen[-1])
    await writer
    assert seen == await everything(store)


async def _write_slowly(db: Database, store: Store, total: int) -> None:
    for _ in range(total):
        await write(db, store)
        await asyncio.sleep(random.uniform(0, 0.005))


async def test_an_open_transaction_holds_the_log_back(
    db: Database, store: Store, feed: Feed
) -> None:
    """A transaction that began first and commits last comes first, so nobody passes it by."""
    follower = asyncio.create_task(collect(feed, 3))
    async with db.transaction() as conn:
        await store.events.append(conn, "slow", ExecutionCancelled(reason="slow"))
        await write(db, store, 2)
        await asyncio.sleep(0.1)
        assert not follower.done()
    assert [row.actor for row in await follower] == ["slow", "test", "test"]


async def test_transactions_are_ordered_as_numbers(db: Database, store: Store, feed: Feed) -> None:
    async with db.connection() as conn:
        for xid in ("9", "99", "100", "10"):
            await conn.execute(
                "INSERT INTO events (xid, type, actor, payload)"
                " VALUES (%s::xid8, 'batch.started', 'test', '{}')",
                (xid,),
            )
    rows = await collect(feed, 4)
    assert [row.cursor.partition(".")[0] for row in rows] == ["9", "10", "99", "100"]
    assert str(await store.events.latest()) == rows[-1].cursor


async def test_filters(db: Database, store: Store, feed: Feed) -> None:
    live = asyncio.create_task(collect(feed, 4, wanted=Wanted(execution_id="e2")))
    by_batch = asyncio.create_task(collect(feed, 4, wanted=Wanted(batch_id="b1")))
    by_type = asyncio.create_task(
        collect(feed, 2, wanted=Wanted(types=frozenset({"batch.started"})))
    )
    await write(db, store, 3)
    await asyncio.sleep(0.05)
    await write(db, store, 2, execution="e2")
    await write(db, store, 2, execution="e2", event=BatchStarted())
    assert {row.execution_id for row in await live} == {"e2"}
    assert {row.batch_id for row in await by_batch} == {"b1"}
    assert [row.type for row in await by_type] == ["batch.started"] * 2


async def test_history_ends_where_the_log_ended(db: Database, store: Store, feed: Feed) -> None:
    await write(db, store, 20)
    rows: list[EventRow] = []
    async for part in feed.history(Cursor.START, EVERYTHING):
        rows.extend(part.rows)
        await write(db, store)  # a log that grows faster than it is read has an end all the same
    assert [row.cursor for row in rows] == (await everything(store))[:20]


async def test_an_idle_follower_moves_on_over_what_it_does_not_want(
    db: Database, store: Store, feed: Feed
) -> None:
    await write(db, store, 5)
    async for part in feed.follow(Cursor.START, Wanted(execution_id="other"), idle_s=0.05):
        assert part.rows == []
        if str(part.cursor) == (await everything(store))[-1]:
            break
    rows = asyncio.create_task(collect(feed, 1, after=part.cursor, wanted=Wanted("other")))
    await write(db, store, 1, execution="other")
    assert [row.execution_id for row in await rows] == ["other"]


async def test_nothing_is_polled_without_followers(db: Database, store: Store, feed: Feed) -> None:
    await write(db, store, 1)
    await collect(feed, 1)
    await asyncio.sleep(0.05)
    assert feed._task is not None
    assert feed._task.done()
    await write(db, store, 1)
    assert len(await collect(feed, 2)) == 2


async def test_closing_ends_all_streams(feed: Feed) -> None:
    followers = [asyncio.create_task(collect(feed, 1)) for _ in range(3)]
    await asyncio.sleep(0.05)
    await feed.close()
    assert await asyncio.gather(*followers) == [[], [], []]


def test_server_sent_events(db: Database) -> None:
    assert sse(Part([], Cursor(xid=7, seq=9))) == b": idle\nid: 7.9\n\n"
