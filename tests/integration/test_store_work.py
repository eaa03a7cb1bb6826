"""Work on its way: admitted, claimed once, settled once, taken back from the dead."""

import asyncio
import random

import psycopg
import pytest

from tests.integration.store_bench import RIGHT, StoreBench
from wtb_ray import errors
from wtb_ray.db import Database
from wtb_ray.model import Fault, Score, ScorerSpec, canonical
from wtb_ray.states import CellStatus, ExecutionStatus
from wtb_ray.store import Store
from wtb_ray.store.executions import Settlement
from wtb_ray.store.settlements import Kind

FAULT = Fault(code="node_failed", type="ValueError", message="no", node="a")


async def test_cells_are_admitted_and_claimed_in_the_order_of_work(bench: StoreBench) -> None:
    low = await bench.batch(cases=2)
    high = await bench.batch(cases=1, priority=5)
    for batch in (low, high):
        assert await bench.store.executions.admit(batch.id, 100, actor="s") == batch.cells
        assert await bench.store.executions.admit(batch.id, 100, actor="s") == 0
    await bench.runner()
    claimed = await bench.claim()
    assert [(a.batch_id, a.case_id, a.binding["node"], a.input) for a in claimed] == [
        (high.id, "c0", "v0", {"x": 0}),
        (high.id, "c0", "v1", {"x": 0}),
        (low.id, "c0", "v0", {"x": 0}),
        (low.id, "c0", "v1", {"x": 0}),
        (low.id, "c1", "v0", {"x": 1}),
        (low.id, "c1", "v1", {"x": 1}),
    ]
    assert claimed[-1].expected == 1


async def test_concurrent_claims_give_each_execution_once(bench: StoreBench, url: str) -> None:
    batch = await bench.batch(cases=60)
    await bench.runner("r1")
    await bench.runner("r2")

    async def work(owner: str) -> list[str]:
        async with Database(url, size=2) as db:
            store, got, idle = Store(db), list[str](), 0
            while idle < 3:
                await store.executions.admit(batch.id, random.randint(1, 9), actor="s")
                chunks = await asyncio.gather(
                    *(
                        store.executions.claim(owner, 1, bench.version.version, limit)
                        for limit in (3, 5)
                    )
                )
                claimed = [a.execution_id for chunk in chunks for a in chunk]
                got += claimed
                idle = 0 if claimed else idle + 1
            return got

    lists = await asyncio.gather(*(work(owner) for owner in ("r1", "r1", "r2", "r2")))
    everything = [id for ids in lists for id in ids]
    assert len(everything) == batch.cells
    assert len(set(everything)) == batch.cells


@pytest.mark.parametrize("why", ["expired", "dead", "draining", "other epoch", "unknown"])
async def test_a_runner_without_a_lease_gets_no_work(bench: StoreBench, why: str) -> None:
    await bench.execution()
    epoch = await bench.runner(ttl_s=-1.0 if why == "expired" else 60.0)
    if why == "dead":
        await bench.store.leases.bury("r1", epoch, "gone", actor="l")
    if why == "draining":
        await bench.store.leases.drain("r1")
    owner, epoch = ("nobody", 1) if why == "unknown" else ("r1", epoch + (why == "other epoch"))
    assert await bench.claim(owner, epoch) == []
    await bench.runner("r2")
    assert len(await bench.claim("r2")) == 1


@pytest.mark.parametrize("status", ["PAUSED", "CANCELLED"])
async def test_a_batch_at_rest_is_not_claimed_or_admitted(bench: StoreBench, status: str) -> None:
    batch = await bench.batch()
    await bench.runner()
    await bench.store.executions.admit(batch.id, 1, actor="s")
    await bench.put_batch(batch.id, status)
    assert await bench.claim() == []
    assert await bench.store.executions.admit(batch.id, 5, actor="s") == 0
    assert await bench.store.executions.demand(100) == []


async def test_a_group_of_all_kinds_is_one_transaction(bench: StoreBench) -> None:
    held = await bench.claimed(6)
    kinds: list[Kind] = ["complete", "fail", "pause", "requeue", "cancel"]
    items = [
        Settlement(a.execution_id, a.epoch, "r1", kind, fault=FAULT, reason="because", scores=RIGHT)
        for a, kind in zip(held, kinds, strict=False)
    ]
    zombie = Settlement(held[5].execution_id, held[5].epoch, "other", "complete")
    answers = await bench.store.executions.settle([*items, zombie])
    assert answers[:5] == [None] * 5
    assert isinstance(answers[5], errors.Fenced)
    settled = (await bench.events(batch_id=held[0].batch_id))[-7:]
    assert len({event.cursor.split(".")[0] for event in settled}) == 1
    assert [event.type for event in settled] == [
        "execution.completed",
        "cell.scored",
        "execution.failed",
        "cell.failed",
        "execution.paused",
        "execution.requeued",
        "execution.cancelled",
    ]
    assert settled[1].payload["scores"] == {"exact": 1.0}
    assert await bench.cells(held[0].batch_id) == [
        CellStatus.DONE,
        CellStatus.FAILED,
        CellStatus.RUNNING,
        CellStatus.RUNNING,
        CellStatus.CANCELLED,
        CellStatus.RUNNING,
    ]
    before = await bench.types()
    assert await bench.store.executions.settle(items) == [None] * 5, "an answer may get lost"
    assert await bench.types() == before


async def test_what_cannot_be_stored_fails_alone(bench: StoreBench) -> None:
    held = await bench.claimed(9)
    bad = [(ScorerSpec(name="exact"), Score(metric="exact", value=0.0, explanation="a\x00b"))]
    answers = await bench.store.executions.settle(
        [
            Settlement(a.execution_id, a.epoch, "r1", "complete", scores=bad if i == 4 else RIGHT)
            for i, a in enumerate(held)
        ]
    )
    [error] = [answer for answer in answers if answer is not None]
    assert isinstance(error, errors.UnstorableValue)
    assert held[4].execution_id in error.message
    assert answers.index(error) == 4
    cells = await bench.cells(held[0].batch_id)
    assert [i for i, status in enumerate(cells) if status != CellStatus.DONE] == [4]
    fault = Fault(code=error.code, type="UnstorableValue", message="odd \x00 and \x1b text")
    assert await bench.settle(held[4], "fail", fault=fault) is None
    failed = await bench.store.executions.get(held[4].execution_id)
    assert failed.error == fault


async def test_latency_and_node_runs_are_summed_over_the_chain_of_branches(
    bench: StoreBench,
) -> None:
    [held] = await bench.claimed()
    id = held.execution_id
    node = {"name": "a", "task_id": "t", "duration_ms": 1.0, "error": None}
    rows = [(f"{id}.0", f"cp{n}", n, 10.0) for n in (-1, 0, 1, 2, 3)]
    rows += [(f"{id}.1", "cp2b", 2, 100.0), (f"{id}.2", "cp2c", 2, 1000.0)]
    async with bench.db.transaction() as conn:
        for thread, checkpoint, step, ms in rows:
            await conn.execute(
                "INSERT INTO steps (thread_id, checkpoint_id, step, source, nodes, next_nodes,"
                " next_tasks, duration_ms) VALUES (%s, %s, %s, 'loop', %s, '{}', '[]', %s)",
                (thread, checkpoint, step, canonical([node] if step > 0 else []), ms),
            )
        for number, parent in ((1, 0), (2, 1)):
            await conn.execute(
                "INSERT INTO branches (thread_id, execution_id, number, parent_thread,"
                " parent_checkpoint, reason) VALUES (%s, %s, %s, %s, 'cp1', 'rollback')",
                (f"{id}.{number}", id, number, f"{id}.{parent}"),
            )
        await conn.execute("UPDATE executions SET thread_id = %s", (f"{id}.2",))
    executions = bench.store.executions
    assert [s.checkpoint_id for s in await executions.steps(id)] == ["cp2c", "cp1", "cp0", "cp-1"]
    assert (await executions.step(id, "cp3")).step == 3, "an abandoned step stays in the history"
    with pytest.raises(errors.UnknownCheckpoint, match="cp9"):
        await executions.step(id, "cp9")
    assert [b.number for b in await bench.store.branches.list(id)] == [0, 1, 2]
    assert await bench.settle(held, "complete", latency_ms=7.0) is None
    done = await executions.get(id)
    assert (done.latency_ms, done.node_runs) == (1030.0, 2)
    [cell] = (await bench.store.cells.list(str(held.batch_id))).items
    assert cell.latency_ms == 1030.0


async def test_a_zombie_changes_nothing_after_a_takeover(bench: StoreBench) -> None:
    [held] = await bench.claimed()
    assert await bench.store.leases.bury("r1", 1, "died", actor="l") == 1
    kinds: list[Kind] = ["complete", "fail", "pause", "requeue", "cancel"]
    for taken_over in (False, True):
        if taken_over:
            await bench.runner("r2")
            assert len(await bench.claim("r2")) == 1
        before = await bench.store.executions.get(held.execution_id), await bench.types()
        for kind in kinds:
            answer = await bench.settle(held, kind, fault=FAULT, scores=RIGHT)
            assert isinstance(answer, errors.Fenced)
        with pytest.raises(errors.Fenced):
            await bench.store.executions.scoring(held.execution_id, held.epoch, "r1")
        after = await bench.store.executions.get(held.execution_id), await bench.types()
        assert after == before
    assert not await bench.store.leases.renew("r1", 1, 60.0)


async def test_scoring_is_seen_and_may_be_said_twice(bench: StoreBench) -> None:
    [held] = await bench.claimed()
    for _ in range(2):
        await bench.store.executions.scoring(held.execution_id, held.epoch, "r1")
    assert await bench.cells(held.batch_id) == [CellStatus.SCORING]
    assert await bench.settle(held, "complete", scores=RIGHT) is None
    assert await bench.cells(held.batch_id) == [CellStatus.DONE]


async def test_burying_is_idempotent_and_the_third_death_is_the_executions_fault(
    bench: StoreBench,
) -> None:
    [held] = await bench.claimed()
    leases = bench.store.leases
    for death in (1, 2, 3):
        solo = death == 3
        if death > 1:
            assert await bench.runner(solo=solo) == death
            assert await bench.claim(epoch=death, solo=not solo) == []
            assert len(await bench.claim(epoch=death, solo=solo)) == 1
        assert await leases.bury("r1", death, "died", actor="l") == 1
        before = await bench.types()
        assert await leases.bury("r1", death, "died", actor="l") == 0
        assert await leases.bury("r1", death - 1, "died", actor="l") == 0
        assert await bench.types() == before
    failed = await bench.store.executions.get(held.execution_id)
    assert failed.status == ExecutionStatus.FAILED
    assert failed.error is not None
    assert failed.error.code == "runner_died"
    assert await bench.cells(held.batch_id) == [CellStatus.FAILED]
    assert await leases.runners() == []


async def test_a_process_that_comes_back_under_its_id_gives_its_old_work_back(
    bench: StoreBench,
) -> None:
    [held] = await bench.claimed()
    assert await bench.runner() == 2
    [again] = await bench.claim(epoch=2)
    assert again.epoch > held.epoch
    assert isinstance(await bench.settle(held, "complete"), errors.Fenced)
    assert await bench.settle(again, "complete") is None


async def test_lost_starts_are_counted_drained_and_paused_ones_are_not(bench: StoreBench) -> None:
    [held] = await bench.claimed()
    settle = bench.store.executions.settle
    for _ in range(4):
        item = Settlement(held.execution_id, held.epoch, "r1", "requeue", reason="drained")
        assert await settle([item], max_attempts=2) == [None]
        [held] = await bench.claim()
    for attempt in (1, 2):
        item = Settlement(held.execution_id, held.epoch, "r1", "requeue", reason="database away")
        assert await settle([item], max_attempts=2) == [None]
        if attempt == 1:
            [held] = await bench.claim()
    failed = await bench.store.executions.get(held.execution_id)
    assert failed.status == ExecutionStatus.FAILED
    assert failed.error is not None
    assert failed.error.code == "infrastructure"
    assert "database away" in failed.error.message
    assert await bench.cells(held.batch_id) == [CellStatus.FAILED]


async def test_a_delayed_requeue_waits(bench: StoreBench) -> None:
    [held] = await bench.claimed()
    assert await bench.settle(held, "requeue", reason="busy", delay_s=3600.0) is None
    assert await bench.claim() == []
    assert await bench.store.executions.demand(100) == []


@pytest.mark.parametrize("how", ["pause", "requeue", "bury"])
async def test_a_stop_is_not_lost_when_the_owner_lets_go(bench: StoreBench, how: str) -> None:
    [held] = await bench.claimed()
    await bench.store.executions.request_stop(held.execution_id, actor="me", reason="enough")
    if how == "bury":
        await bench.store.leases.bury("r1", 1, "died", actor="l")
    else:
        assert await bench.settle(held, "pause" if how == "pause" else "requeue") is None
    stopped = await bench.store.executions.get(held.execution_id)
    assert (stopped.status, stopped.reason) == (ExecutionStatus.CANCELLED, "enough")
    assert await bench.cells(held.batch_id) == [CellStatus.CANCELLED]


async def test_stopping_a_batch_takes_all_of_it(bench: StoreBench) -> None:
    batch = await bench.batch(cases=4, variants=1)
    await bench.runner()
    await bench.store.executions.admit(batch.id, 3, actor="s")
    running, paused = await bench.claim(limit=2)
    assert await bench.settle(paused, "pause", reason="breakpoint") is None
    stopped = await bench.store.batches.stop(batch.id, "enough", actor="me")
    assert stopped.counts == {"RUNNING": 1, "CANCELLED": 3}
    assert stopped.reason == "enough"
    left = await bench.store.executions.get(running.execution_id)
    assert (left.status, left.wanted) == (ExecutionStatus.RUNNING, "stop")
    assert await bench.settle(running, "cancel") is None
    assert await bench.cells(batch.id) == [CellStatus.CANCELLED] * 4
    assert await bench.store.batches.close(actor="s") == []


async def test_work_of_a_version_that_cannot_run_is_abandoned(bench: StoreBench) -> None:
    batch = await bench.batch(cases=3, variants=1)
    alone = await bench.execution()
    await bench.store.executions.admit(batch.id, 2, actor="s")
    other = await StoreBench.make(bench.db, "other")
    kept = await other.execution()
    error = errors.EntryFailed("the entry raised ImportError")
    abandon = bench.store.executions.abandon
    assert await abandon(bench.version.version, error, actor="s") == 3
    assert await abandon(bench.version.version, error, actor="s") == 0
    failed = await bench.store.executions.get(alone.id)
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == ("entry_failed", error.message)
    ended = await bench.store.batches.get(batch.id)
    assert (ended.status, ended.reason) == ("FAILED", error.message)
    assert ended.counts == {"FAILED": 2, "CANCELLED": 1}
    assert (await bench.store.executions.get(kept.id)).status == ExecutionStatus.PENDING


async def test_what_runs_in_an_abandoned_batch_does_not_wait_for_ever(bench: StoreBench) -> None:
    batch = await bench.batch(cases=3, variants=1)
    await bench.store.executions.admit(batch.id, 3, actor="s")
    await bench.runner()
    drained, lost, finished = await bench.claim()
    error = errors.EntryFailed("the entry raised ImportError")
    assert await bench.store.executions.abandon(bench.version.version, error, actor="s") == 0
    assert await bench.settle(drained, "requeue", reason="drained") is None
    assert await bench.settle(finished, "complete", scores=RIGHT) is None
    await bench.store.leases.bury("r1", 1, "died", actor="l")
    ended = await bench.store.batches.get(batch.id)
    assert (ended.status, ended.counts) == ("FAILED", {"CANCELLED": 2, "DONE": 1})
    assert (await bench.store.executions.get(lost.execution_id)).status == ExecutionStatus.CANCELLED


async def test_a_deadlock_is_tried_again(bench: StoreBench, url: str) -> None:
    first, second = sorted(a.execution_id for a in await bench.claimed(2))
    lock = "SELECT FROM executions WHERE id = %s FOR NO KEY UPDATE"
    async with await psycopg.AsyncConnection.connect(url) as conn:
        await conn.execute("SET deadlock_timeout = '1h'")
        await conn.execute(lock, (second,))
        burying = asyncio.create_task(bench.store.leases.bury("r1", 1, "died", actor="l"))
        await waiting(bench.db, 1)
        # It holds the first and waits for the second; this closes the circle, and only its own
        # session looks for one.
        await conn.execute(lock, (first,))
        await conn.rollback()
    assert await burying == 2


async def waiting(db: Database, count: int) -> None:
    """Returns when this many backends wait for a lock."""
    while True:
        row = await db.row(
            "SELECT count(*) AS n FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        if row is not None and row["n"] >= count:
            return
        await asyncio.sleep(0.01)
