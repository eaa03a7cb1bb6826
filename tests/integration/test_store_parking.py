"""Reservations, reports and ends of runners as rows: who may claim what, and what is held against whom."""

import asyncio

import pytest

from tests.integration.store_bench import StoreBench
from wtb_ray import cluster, errors
from wtb_ray.db import Database
from wtb_ray.model import Assignment, Parking
from wtb_ray.states import ExecutionStatus as E
from wtb_ray.states import PauseStrategy as P
from wtb_ray.store.parking import Due
from wtb_ray.store.sql import SQL


async def reserved(bench: StoreBench, *, paused: bool = True) -> Assignment:
    """An execution that the runner `r1` is kept for."""
    await bench.runner("r1")
    await bench.runner("r2")
    await bench.execution()
    [held] = await bench.claim("r1")
    assert await bench.store.parking.reserve("r1", held.execution_id, 4)
    if paused:
        kept = Parking(strategy=P.HOT, kept=("process",), runner="r1")
        assert await bench.settle(held, "pause", reason="breakpoint", parking=kept) is None
    return held


async def kept_for(bench: StoreBench) -> dict[str, str | None]:
    return {r.id: r.reserved_for for r in await bench.store.leases.runners()}


async def test_a_kept_process_and_its_execution_belong_to_each_other(bench: StoreBench) -> None:
    held = await reserved(bench)
    other = await bench.execution()
    assert await bench.claim("r1") == [], "r1 is kept"
    assert not await bench.store.leases.retire("r1")
    await bench.store.control.resume(held.execution_id, actor="me")
    [demand] = await bench.store.executions.demand(100)
    assert (demand.pending, demand.reserved) == (2, 1)
    assert [a.execution_id for a in await bench.claim("r2")] == [other.id]
    [again] = await bench.claim("r1")
    assert again.execution_id == held.execution_id
    assert await kept_for(bench) == {"r1": None, "r2": None}, "a claim ends the reservation"


@pytest.mark.parametrize("how", ["buried", "draining", "expired", "swapped"])
async def test_an_execution_goes_on_elsewhere_when_its_process_does_not_wait(
    bench: StoreBench, how: str
) -> None:
    held = await reserved(bench)
    match how:
        case "buried":
            await bench.store.leases.bury("r1", 1, "died", actor="l")
        case "draining":
            await bench.store.leases.drain("r1")
        case "expired":
            assert await bench.store.leases.renew("r1", 1, -1.0)
        case "swapped":
            other = await StoreBench.make(bench.db, "other")
            await bench.store.control.swap(
                held.execution_id, other.version, {}, fingerprints={}, actor="me"
            )
            bench = other
            await bench.runner("r2")
    await bench.store.control.resume(held.execution_id, actor="me")
    epoch = 2 if how == "swapped" else 1
    assert [a.execution_id for a in await bench.claim("r2", epoch)] == [held.execution_id]


@pytest.mark.parametrize("how", ["stopped", "killed", "taken over"])
async def test_a_process_that_waits_in_vain_is_given_back(bench: StoreBench, how: str) -> None:
    held = await reserved(bench)
    assert await bench.store.parking.free() == []
    if how == "stopped":
        await bench.store.executions.request_stop(held.execution_id, actor="me")
    elif how == "killed":
        await bench.store.control.kill(held.execution_id, actor="me")
    else:
        await bench.put(held.execution_id, "RUNNING")
        async with bench.db.connection() as conn:
            await conn.execute("UPDATE executions SET owner = 'r2'")
    assert await bench.store.parking.free() == ["r1"]
    assert (await kept_for(bench))["r1"] is None


async def test_a_process_is_kept_while_its_execution_still_runs_in_it(bench: StoreBench) -> None:
    """Between the reservation and the pause."""
    await reserved(bench, paused=False)
    assert await bench.store.parking.free() == []


async def test_no_more_are_kept_than_may_be_and_none_that_ends_or_is_for_suspects(
    bench: StoreBench,
) -> None:
    for name in ("r1", "r2", "r3"):
        await bench.runner(name, solo=name == "r3")
    await bench.store.leases.drain("r2")
    reserve = bench.store.parking.reserve
    assert not await reserve("r1", "e1", 0)
    assert await reserve("r1", "e1", 1)
    assert not await reserve("r2", "e2", 9)
    assert not await reserve("r3", "e2", 9)
    await bench.runner("r4")
    assert not await reserve("r4", "e2", 1)


async def test_a_strategy_is_remembered_until_the_pause_and_no_longer(bench: StoreBench) -> None:
    await bench.runner()
    made = await bench.execution()
    [held] = await bench.claim()
    asked, control = bench.store.parking.asked, bench.store.control
    await control.pause(made.id, expected_s=600, actor="me")
    assert await asked(made.id) is P.WARM
    await control.pause(made.id, strategy="cold", expected_s=600, actor="me")
    assert await asked(made.id) is P.COLD, "the last word counts"
    await control.withdraw_pause(made.id, actor="me")
    assert await asked(made.id) is None
    await control.pause(made.id, strategy="cold", actor="me")
    await bench.store.leases.bury("r1", 1, "died", actor="l")
    assert (await bench.store.executions.get(made.id)).status == E.PAUSED
    assert await asked(made.id) is P.COLD
    await control.resume(made.id, actor="me")
    assert await asked(made.id) is None
    assert held.execution_id == made.id


async def test_wrong_words_pause_nothing(bench: StoreBench) -> None:
    made = await bench.execution()
    with pytest.raises(errors.InvalidRequest):
        await bench.store.control.pause(made.id, strategy="tepid", actor="me")
    with pytest.raises(errors.InvalidRequest):
        await bench.store.control.pause(made.id, expected_s=-1, actor="me")
    assert (await bench.store.executions.get(made.id)).status == E.PENDING


async def test_what_lasts_is_due_and_what_moves_on_is_not_parked(bench: StoreBench) -> None:
    held = await reserved(bench)

    async def due(warm: float, cold: float) -> list[Due]:
        return await bench.store.parking.due(warm_after_s=warm, cold_after_s=cold, limit=9)

    assert await due(3600, 3600) == []
    [one] = await due(1e-6, 3600)
    assert (one.strategy, one.runner, one.host, one.alive) == (P.WARM, "r1", "host", True)
    warm = Parking(strategy=P.WARM, kept=("process",), runner="r1")
    assert not await bench.store.parking.park(one.execution_id, one.epoch - 1, warm, actor="l")
    assert await bench.store.parking.park(one.execution_id, one.epoch, warm, actor="l")
    assert await due(1e-6, 3600) == []
    [one] = await due(1e-6, 1e-6)
    assert one.strategy is P.COLD
    cold = Parking(strategy=P.COLD, released=("process",), runner="r1")
    assert await bench.store.parking.park(one.execution_id, one.epoch, cold, actor="l")
    assert await due(1e-6, 1e-6) == []
    [lease] = [r for r in await bench.store.leases.runners() if r.id == "r1"]
    assert lease.status == "DRAINING", "the process ends"
    await bench.store.control.resume(held.execution_id, actor="me")
    assert not await bench.store.parking.park(one.execution_id, one.epoch, cold, actor="l")


@pytest.mark.parametrize("wanted", ["run", "pause", "stop"])
async def test_shutting_down_is_held_against_nobody(bench: StoreBench, wanted: str) -> None:
    """What `wtb down` does to the leases when a runner does not drain in time."""
    [held] = await bench.claimed()
    if wanted == "pause":
        await bench.store.control.pause(held.execution_id, actor="me")
    if wanted == "stop":
        await bench.store.executions.request_stop(held.execution_id, actor="me")
    url = bench.db.url
    await asyncio.to_thread(cluster._with_leases, url, cluster._end_leases)
    assert await bench.claim() == [], "no new work"
    await asyncio.to_thread(cluster._with_leases, url, cluster._bury_leases)
    assert await bench.store.leases.runners() == []
    left = await bench.store.executions.get(held.execution_id)
    rest = {"run": E.PENDING, "pause": E.PAUSED, "stop": E.CANCELLED}[wanted]
    assert (left.status, left.suspect) == (rest, 0)
    assert left.attempt == (1 if wanted == "stop" else 0)
    assert isinstance(await bench.settle(held, "complete"), errors.Fenced)


async def test_looking_for_the_late_reads_none_that_wait_without_a_deadline(db: Database) -> None:
    one = await (await StoreBench.make(db)).execution()
    async with db.connection() as conn:
        await conn.execute(
            "INSERT INTO executions (id, project, version, binding, input, status, recursion_limit,"
            " breakpoints, priority, thread_id, tracking, parked_at)"
            " SELECT 'e' || g, project, version, binding, input, 'PAUSED', recursion_limit,"
            " breakpoints, priority, 'e' || g || '.0', tracking, now()"
            " FROM executions, generate_series(1, 5000) g WHERE id = %s",
            (one.id,),
        )
        await conn.execute("ANALYZE executions")
        plan = await conn.execute("EXPLAIN " + SQL["lock_late"], {"limit": 100})
        lines = [row["QUERY PLAN"] for row in await plan.fetchall()]
    assert any("executions_late" in line for line in lines), lines
