"""Commands on a batch that wait for each other's rows: each goes by what is there when it has them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg
import pytest
import pytest_asyncio

from tests.integration.store_bench import StoreBench
from tests.integration.test_store_events import waiting
from wtb_ray import errors
from wtb_ray.db import Database
from wtb_ray.model import Budget, Case, Fault
from wtb_ray.store.settlements import DRAINED, Settlement
from wtb_ray.store.sql import SQL

BATCH = "SELECT FROM batches WHERE id = %s FOR NO KEY UPDATE"
CELL = "SELECT FROM cells WHERE id = %s FOR NO KEY UPDATE"
FAULT = Fault(code="node_failed", type="ValueError", message="no")


@pytest_asyncio.fixture
async def bench(db: Database) -> StoreBench:
    bench = await StoreBench.make(db)
    await bench.runner()
    return bench


@asynccontextmanager
async def held_up(url: str, lock: str, key: object) -> AsyncIterator[None]:
    """Somebody else has the row until the end."""
    async with await psycopg.AsyncConnection.connect(url) as conn:
        await conn.execute(lock, (key,))
        yield
        await conn.rollback()


@asynccontextmanager
async def splitting(bench: StoreBench, url: str) -> AsyncIterator[str]:
    """A batch of two cells that share an execution, which at the end is split."""
    batch = await bench.batch(cases=1, variants=2, share_prefix=True)
    assert await bench.store.executions.admit(batch.id, 9, actor="scheduler") == 1
    (held,) = await bench.claim()
    (_, moved) = (await bench.store.cells.list(batch.id)).items
    async with held_up(url, CELL, moved.id):
        split = asyncio.create_task(bench.settle(held, "split", parts=((0,), (1,))))
        await waiting(bench.db, 1)
        yield batch.id
    assert await split is None


async def test_a_part_that_splits_off_while_the_batch_stops_is_stopped_too(
    bench: StoreBench, url: str
) -> None:
    async with splitting(bench, url) as id:
        stopping = asyncio.create_task(bench.store.batches.stop(id, None, actor="me"))
        await waiting(bench.db, 2)
    await stopping
    assert await bench.cells(id) == ["CANCELLED", "CANCELLED"]
    executions = (await bench.store.executions.list(batch_id=id)).items
    assert [one.status for one in executions] == ["CANCELLED", "CANCELLED"]


async def test_a_part_that_splits_off_while_its_version_is_given_up_fails_too(
    bench: StoreBench, url: str
) -> None:
    error = errors.EntryFailed("the entry raised ImportError")
    async with splitting(bench, url) as id:
        giving_up = asyncio.create_task(
            bench.store.executions.abandon(bench.version.version, error, actor="s")
        )
        await waiting(bench.db, 2)
    assert await giving_up == 2
    assert await bench.cells(id) == ["FAILED", "FAILED"]


async def test_the_budget_of_cells_is_exact_however_many_admit(bench: StoreBench, url: str) -> None:
    batch = await bench.batch(cases=6, variants=1, budget=Budget(cells=2))
    async with held_up(url, BATCH, batch.id):
        admitting = [
            asyncio.create_task(bench.store.executions.admit(batch.id, 2, actor="scheduler"))
            for _ in range(2)
        ]
        await waiting(bench.db, 2)
    assert sorted(await asyncio.gather(*admitting)) == [0, 2]


async def test_a_batch_grows_by_all_that_is_added_at_the_same_time(
    bench: StoreBench, url: str
) -> None:
    batch = await bench.batch(cases=1, variants=2)
    async with held_up(url, BATCH, batch.id):
        growing = [
            asyncio.create_task(
                bench.store.batches.extend(
                    batch.id, [Case(id=id, input={"x": 1})], (), None, max_cells=99, actor="me"
                )
            )
            for id in ("one", "other")
        ]
        await waiting(bench.db, 2)
    await asyncio.gather(*growing)
    cells = (await bench.store.cells.list(batch.id)).items
    assert [cell.case_id for cell in cells[:2]] == ["c0", "c0"]
    assert sorted(cell.case_id for cell in cells[2:]) == ["one", "one", "other", "other"]


async def test_cells_that_run_again_use_what_they_gave_back_of_the_budget(
    bench: StoreBench, url: str
) -> None:
    batch = await bench.batch(cases=3, variants=1, budget=Budget(cells=2))
    assert await bench.store.executions.admit(batch.id, 9, actor="scheduler") == 2
    failed, _ = await bench.claim()
    assert await bench.settle(failed, "fail", fault=FAULT) is None
    async with held_up(url, BATCH, batch.id):
        again = asyncio.create_task(bench.store.batches.rerun(batch.id, ["FAILED"], actor="me"))
        await waiting(bench.db, 1)
        enforcing = asyncio.create_task(bench.store.batches.enforce_budgets(actor="scheduler"))
        await waiting(bench.db, 2)
    await again
    assert await enforcing == []
    assert await bench.store.executions.admit(batch.id, 9, actor="scheduler") == 1
    assert await bench.store.batches.enforce_budgets(actor="scheduler") == [batch.id]


async def test_what_is_claimed_while_its_batch_is_paused_is_given_back(
    bench: StoreBench, url: str
) -> None:
    batch = await bench.batch(cases=2, variants=1)
    assert await bench.store.executions.admit(batch.id, 9, actor="scheduler") == 2
    claim = {
        "owner": "r1",
        "owner_epoch": 1,
        "version": bench.version.version,
        "any": [True],
        "batches": [None],
        "priorities": [0],
        "shares": [1],
        "solo": False,
        "solo_suspect": 3,
        "status": "RUNNING",
    }
    async with await psycopg.AsyncConnection.connect(url) as conn:
        await conn.execute(SQL["claim_executions"], claim)
        pausing = asyncio.create_task(bench.store.batches.pause(batch.id, actor="me"))
        await waiting(bench.db, 1)
        await conn.commit()
    await pausing
    [(id, epoch, wanted)] = await bench.store.executions.wishes("r1")
    assert wanted == "drain"
    drained = Settlement(id, epoch, "r1", "requeue", reason=DRAINED)
    assert await bench.store.executions.settle([drained]) == [None]
    assert await bench.claim() == []
    await bench.store.batches.resume(batch.id, actor="me")
    assert [held.wanted for held in await bench.claim()] == ["run", "run"]


async def test_a_step_is_one_step_although_its_batch_is_paused_meanwhile(bench: StoreBench) -> None:
    waits, runs = await bench.claimed(2)
    for held in (waits, runs):
        assert await bench.settle(held, "pause", reason="requested") is None
    batches, id = bench.store.batches, waits.batch_id
    assert id is not None
    await bench.store.control.step(runs.execution_id, actor="me")
    [running] = await bench.claim()
    await bench.store.control.step(waits.execution_id, actor="me")
    await batches.pause(id, actor="me")
    assert await bench.settle(running, "requeue", reason=DRAINED) is None, "its runner ends"
    await batches.resume(id, actor="me")
    assert [held.wanted for held in await bench.claim()] == ["step", "step"]


async def test_a_batch_that_gets_more_to_do_while_it_is_closed_stays_open(
    bench: StoreBench, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (failed,) = await bench.claimed()
    assert await bench.settle(failed, "fail", fault=FAULT) is None
    # Whoever closes has seen that all has ended, and stands before the lock of the row.
    looking = "b.status = 'RUNNING' AND pg_advisory_xact_lock_shared(7)::text IS NOT NULL"
    closing = SQL["lock_finished"].replace("b.status = 'RUNNING'", looking)
    monkeypatch.setitem(SQL, "lock_finished", closing)
    async with held_up(url, "SELECT pg_advisory_xact_lock(%s)", 7):
        closed = asyncio.create_task(bench.store.batches.close(actor="scheduler"))
        await waiting(bench.db, 1)
        assert failed.batch_id is not None
        await bench.store.batches.rerun(failed.batch_id, ["FAILED"], actor="me")
    assert await closed == []
    assert await bench.store.executions.admit(failed.batch_id, 9, actor="scheduler") == 1


async def test_cells_are_listed_while_variants_are_added(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await bench.batch(cases=1, variants=1)
    read = bench.store.cells._bindings

    async def then_grows(id: str) -> Sequence[dict[str, str]]:
        found = await read(id)
        more = ((), [{"node": "more"}], None)
        await bench.store.batches.extend(id, *more, max_cells=9, actor="me")
        return found

    monkeypatch.setattr(bench.store.cells, "_bindings", then_grows)
    for count in (1, 2):
        assert len((await bench.store.cells.list(batch.id)).items) == count
        monkeypatch.undo()
