"""The pool after a restart of the server, and the order and errors of group commits."""

import asyncio

import psycopg
import pytest

from wtb_ray.db import IDLE_CHECK_S, Database, GroupCommit


async def test_connections_that_a_restart_has_cut_are_replaced_unseen(
    db: Database, url: str
) -> None:
    async with db.connection() as first, db.connection() as second:
        pids = [first.info.backend_pid, second.info.backend_pid]
    await asyncio.sleep(IDLE_CHECK_S * 1.1)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) pid", (pids,))
    for _ in range(3):
        row = await db.row("SELECT pg_backend_pid() AS pid")
        assert row is not None
        assert row["pid"] not in pids


async def test_group_commit_keeps_order_and_gives_each_item_its_own_outcome() -> None:
    groups: list[list[int]] = []

    async def flush(items: list[int]) -> list[int | BaseException]:
        groups.append(items)
        await asyncio.sleep(0.01)
        return [ValueError(f"{i} is odd") if i % 2 else i * 10 for i in items]

    commits: GroupCommit[int, int] = GroupCommit(flush)
    first = commits.submit(0)
    await asyncio.sleep(0.005)
    rest = [commits.submit(i) for i in range(1, 5)]
    outcomes = await asyncio.gather(first, *rest, return_exceptions=True)
    assert groups == [[0], [1, 2, 3, 4]]
    assert [str(o) for o in outcomes] == ["0", "1 is odd", "20", "3 is odd", "40"]


async def test_a_failing_flush_fails_its_group_only() -> None:
    async def flush(items: list[int]) -> list[int | BaseException]:
        if 1 in items:
            raise ConnectionError("away")
        return [*items]

    commits: GroupCommit[int, int] = GroupCommit(flush)
    with pytest.raises(ConnectionError):
        await commits.submit(1)
    assert await commits.submit(2) == 2
