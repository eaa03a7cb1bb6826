"""Leases on objects: one for all work of a process and generation, and what commits under them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.integration.files_bench import Restored
from tests.integration.saver_bench import execution as attached
from tests.integration.saver_bench import head, put
from tests.integration.store_bench import GRAPH, StoreBench
from tests.integration.test_scheduling import Bench
from tests.integration.test_scheduling import bench as runners
from tests.integration.test_tracking import TRACKED, start, until
from tests.trees import stored
from wtb_ray import errors
from wtb_ray.attachments import Lease
from wtb_ray.collection import Collector
from wtb_ray.db import Database
from wtb_ray.holds import Holds
from wtb_ray.objects import GUARD, ObjectStore
from wtb_ray.saver import Saver
from wtb_ray.states import ExecutionStatus as E
from wtb_ray.store import Store
from wtb_ray.store.holds import ByRunner

__all__ = ["runners"]


async def rows(db: Database) -> list[Any]:
    return await db.rows("SELECT holder, generation, manifests, runner FROM object_holds")


async def test_work_at_the_same_time_shares_a_lease(bench: StoreBench) -> None:
    holds = Holds(bench.store.holds, "me", ttl_s=0.3)
    async with holds.writing() as first, holds.writing() as second:
        assert first is second
        assert GUARD.get() is first
        assert [(row["holder"], row["generation"]) for row in await rows(bench.db)] == [("me", 1)]
        await asyncio.sleep(0.8)
        assert await bench.db.row("SELECT FROM object_holds WHERE until > now()") is not None
    assert GUARD.get() is None
    async with asyncio.timeout(10):
        while await rows(bench.db):
            await asyncio.sleep(0.05)
    assert holds._keeper is not None
    async with asyncio.timeout(10):
        while not holds._keeper.done():
            await asyncio.sleep(0.05)
    async with holds.writing() as third:
        assert third is not first
    await holds.close()
    assert await rows(bench.db) == []


async def test_nothing_is_stored_outside_of_the_work(bench: StoreBench) -> None:
    holds = Holds(bench.store.holds, "me")
    async with holds.writing() as session:
        pass
    with pytest.raises(errors.WTBError, match="outside"):
        await session.claim(["ab" * 32])
    await holds.close()


async def test_the_lease_of_a_runner_stands_as_long_as_its_own(
    bench: StoreBench, tmp_path: Path
) -> None:
    holds = Holds(bench.store.holds, "r1", ttl_s=0.2)
    holds.runner = ByRunner("r1", await bench.runner(ttl_s=0.2))
    session = await holds.begin()
    assert holds._keeper is not None
    holds._keeper.cancel()  # a node holds up its loop
    await asyncio.sleep(0.5)
    async with ObjectStore(f"file://{tmp_path}/objects") as objects:
        await objects.put(b"garbage")
        waiting = await Collector(bench.store, objects, actor="c", wait_s=0.0).collect(0.0)
        assert waiting.waits_for == ["r1"]
        await bench.store.leases.bury("r1", 1, "dead", actor="me")
        done = await Collector(bench.store, objects, actor="c", wait_s=0.0).collect(0.0)
    assert done.status == "DONE"
    assert await rows(bench.db) == []
    holds.release(session)
    await holds.close()


async def test_a_step_is_stored_only_while_the_lease_of_its_files_stands(db: Database) -> None:
    saver, store = Saver(db), Store(db)
    holds = Holds(store.holds, "me")
    one = await attached(db)
    saver.attach(one)
    released: list[str] = []

    async def snapshot(_: object) -> str:
        session = await holds.begin()
        one.lease = Lease(session.id, lambda: released.append(session.id))
        return "m1"

    one.snapshot = snapshot
    await put(saver, one, "1", 1)
    assert await head(db, one) == ("1", 1)
    (first,) = released
    assert one.lease is None
    async with db.connection() as conn:
        await conn.execute("DELETE FROM object_holds")
    with pytest.raises(errors.Unavailable, match="gone again"):
        await put(saver, one, "2", 2, parent="1")
    assert await head(db, one) == ("1", 1)
    assert released == [first, first]
    await holds.close()


async def test_a_restore_point_is_taken_only_while_the_lease_of_its_files_stands(
    bench: StoreBench,
) -> None:
    (one, other) = await bench.claimed(2)
    await bench.store.holds.begin_writing("h1", "r1", 60.0)
    found: dict[str, Any] = {"restore_point": True, "manifest": "m1", "reason": "interrupt"}
    refused = await bench.settle(one, "pause", lease="gone", **found)
    assert isinstance(refused, errors.Fenced)
    assert refused.details["reason"] == "lease"
    assert (await bench.store.executions.get(one.execution_id)).status == E.RUNNING
    await bench.settle(other, "requeue", lease="h1", **found)
    assert (await bench.store.executions.get(other.execution_id)).status == E.PENDING


async def test_other_rows_are_refused_when_the_lease_has_run_out(bench: StoreBench) -> None:
    (one,) = await bench.claimed()
    made = await bench.execution()
    await bench.put(made.id, "PAUSED")
    spec = bench.version.spec.model_copy(update={"description": "new"})
    files = bench.store.files
    for refused in (
        files.record_restore(
            one.execution_id, one.epoch, Restored(), "restart", actor="r1", lease="gone"
        ),
        bench.store.parking.displace(made.id, 0, "m1", lease="gone"),
        bench.store.projects.register(spec, GRAPH, {}, actor="me", lease="gone"),
    ):
        with pytest.raises(errors.Unavailable):
            await refused
    assert await files.restores(one.execution_id) == []
    assert await files.restores(made.id) == []


async def test_runners_and_collections_at_the_same_time(runners: Bench, tmp_path: Path) -> None:
    """Executions with files run, pause and go on while everything is collected all the time."""
    url = runners.settings.objects()
    stop = asyncio.Event()
    swept = 0

    async def collect() -> None:
        nonlocal swept
        async with ObjectStore(url) as objects:
            await objects.put_many([b"garbage %d" % n for n in range(50)])
            while not stop.is_set():
                report = await Collector(
                    runners.store, objects, actor="files", ttl_s=2.0, wait_s=20.0
                ).collect(0.0)
                swept += report.swept
                assert not report.damaged

    collecting = asyncio.create_task(collect())
    made = []
    for number in range(6):
        _, execution = await start(
            runners,
            "line",
            {"log": str(tmp_path / f"log{number}")},
            breakpoints=("before:third",),
            file_tracking=TRACKED,
        )
        made.append(execution.id)
    for id in made:
        found = await until(runners, id)
        assert found.status == E.PAUSED, found
        await runners.store.control.resume(id, actor="test")
    for id in made:
        assert (await until(runners, id)).status == E.COMPLETED
    stop.set()
    await collecting
    assert swept >= 50
    named = await runners.store.db.rows(
        "SELECT manifest FROM steps WHERE manifest IS NOT NULL"
        " UNION SELECT manifest FROM restore_points WHERE manifest IS NOT NULL"
        " UNION SELECT before FROM restores"
    )
    assert named
    async with ObjectStore(url) as objects:
        for row in named:
            await stored(objects, row["manifest"])
