"""Batches that are run again in part, that grow, and that go on after everything was shut down."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.store_bench import RIGHT, StoreBench
from wtb_ray import errors, results
from wtb_ray.db import Database
from wtb_ray.model import Batch, Case, Fault
from wtb_ray.objects import ObjectStore
from wtb_ray.settings import Settings
from wtb_ray.states import CellStatus

FAULT = Fault(code="node_failed", type="ValueError", message="no")
BOTH = ("FAILED", "CANCELLED")


@pytest_asyncio.fixture
async def bench(db: Database) -> StoreBench:
    bench = await StoreBench.make(db)
    await bench.runner()
    return bench


async def run(bench: StoreBench, batch: Batch, *fails: str) -> None:
    """Ends all waiting cells of a batch; those of these variants fail."""
    await bench.store.executions.admit(batch.id, 1000, actor="scheduler")
    for held in await bench.claim(limit=1000):
        failed = held.binding["node"] in fails
        more: dict[str, Any] = {"fault": FAULT} if failed else {"scores": RIGHT}
        assert await bench.settle(held, "fail" if failed else "complete", **more) is None
    await bench.store.batches.close(actor="scheduler")


async def grown(bench: StoreBench, batch: Batch, **more: Any) -> Batch:
    wanted = {"cases": (), "bindings": (), "repetitions": None, "max_cells": 100, **more}
    return await bench.store.batches.extend(batch.id, **wanted, actor="me")


def case(n: int, **more: Any) -> Case:
    return Case(**{"id": f"c{n}", "input": {"x": n}, "expected": n, **more})


async def test_failed_cells_run_again_and_nothing_else(bench: StoreBench, tmp_path: Path) -> None:
    batch = await bench.batch(cases=3, variants=2)
    await run(bench, batch, "v1")
    before = {cell.id: cell for cell in (await bench.store.cells.list(batch.id)).items}
    async with ObjectStore(Settings(data_dir=tmp_path).objects()) as objects:
        await results.export(bench.db, objects, batch.id)
        board = await results.compute_leaderboard(bench.db, objects, batch.id)
        again = await bench.store.batches.rerun(batch.id, BOTH, actor="me")
        assert (again.status, again.counts) == ("RUNNING", {"DONE": 3, "PENDING": 3})
        assert again.ended_at is None
        frame = await results.frame(bench.db, objects, batch.id)
        assert frame.cells["cell"].is_unique().all()
        assert frame.cells["status"].value_counts(sort=True, name="n")["n"].to_list() == [3, 3]
        await run(bench, batch)
        whole = await results.frame(bench.db, objects, batch.id)
        assert whole.cells["status"].unique().to_list() == ["DONE"]
        assert whole.scores.height == 6
        better = await results.compute_leaderboard(bench.db, objects, batch.id)
    assert [row.errors for row in board.rows] == [0, 3]
    assert [row.errors for row in better.rows] == [0, 0]
    for cell in (await bench.store.cells.list(batch.id)).items:
        was = before[cell.id]
        assert cell.status == CellStatus.DONE
        assert (cell == was) == (was.status == CellStatus.DONE), "what was done is as it was"
        assert (cell.execution_id == was.execution_id) == (was.status == CellStatus.DONE)
        assert (await bench.store.executions.get(was.execution_id or "")).status in (
            "COMPLETED",
            "FAILED",
        )
    types = [t for t in await bench.types(batch_id=batch.id) if t.startswith("batch.")]
    assert types == [
        *("batch.created", "batch.started", "batch.completed"),
        *("batch.rerun", "batch.completed"),
    ]
    [told] = await bench.events(types=["batch.rerun"])
    assert told.payload == {"cells": 3, "reopened": True}


async def test_cells_are_chosen_by_status_variant_and_case(bench: StoreBench) -> None:
    batch = await bench.batch(cases=3, variants=3)
    await bench.store.executions.admit(batch.id, 6, actor="scheduler")
    for held in await bench.claim(limit=6):
        assert await bench.settle(held, "fail", fault=FAULT) is None
    running = await bench.store.batches.rerun(batch.id, BOTH, variant="v1", case="c0", actor="me")
    assert (running.status, running.counts) == ("RUNNING", {"FAILED": 5, "PENDING": 4})
    await bench.store.batches.stop(batch.id, "enough", actor="me")
    found = await bench.store.batches.rerun(batch.id, ["CANCELLED"], actor="me")
    assert (found.status, found.reason) == ("RUNNING", None)
    assert found.counts == {"FAILED": 5, "PENDING": 4}
    found = await bench.store.batches.rerun(batch.id, ["FAILED"], variant="v0", actor="me")
    assert found.counts == {"FAILED": 3, "PENDING": 6}


async def test_what_cannot_run_again_is_refused(bench: StoreBench) -> None:
    batch = await bench.batch(cases=1, variants=2)
    rerun = bench.store.batches.rerun
    with pytest.raises(errors.UnknownBatch):
        await rerun("none", BOTH, actor="me")
    with pytest.raises(errors.Conflict, match="no cell"):
        await rerun(batch.id, BOTH, actor="me")
    for wanted, field in (({"variant": "v9"}, "variant"), ({"case": "c9"}, "case")):
        with pytest.raises(errors.InvalidRequest) as refused:
            await rerun(batch.id, BOTH, **wanted, actor="me")
        assert refused.value.details["field"] == field
    await run(bench, batch, "v1")
    await bench.store.projects.set_active("p", False, actor="me")
    with pytest.raises(errors.ProjectInactive):
        await rerun(batch.id, BOTH, actor="me")
    assert (await bench.store.batches.get(batch.id)).counts == {"DONE": 1, "FAILED": 1}


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "PAUSED", "COMPLETED", "CANCELLED"])
async def test_only_what_a_batch_lacks_is_made(bench: StoreBench, status: str) -> None:
    batch = await bench.batch(cases=2, variants=2, started=status != "PENDING")
    if status == "COMPLETED":
        await run(bench, batch)
    if status == "CANCELLED":
        await bench.store.batches.stop(batch.id, "enough", actor="me")
    if status == "PAUSED":
        await bench.store.batches.pause(batch.id, actor="me")
    before = (await bench.store.cells.list(batch.id)).items
    bindings = [{"node": "v1"}, {"node": "v2", "_name": "new"}]
    known = {"variants": [{"node": "v0"}]}
    assert known["variants"][0] == dict(batch.bindings[0])
    async with bench.db.connection() as conn:
        await conn.execute(
            "UPDATE batches SET variants = ARRAY['node=v0', 'node=v1'] WHERE id = %s", (batch.id,)
        )
    wanted: dict[str, Any] = {
        "cases": [case(1), case(7)],
        "bindings": bindings,
        "repetitions": 2,
    }
    found = await grown(bench, batch, **wanted)
    assert (found.cases, found.cells, found.repetitions) == (3, 18, 2)
    assert found.variants == ("node=v0", "node=v1", "new")
    assert found.status == ("RUNNING" if status in ("COMPLETED", "CANCELLED") else status)
    assert found.counts["PENDING"] == 18 - (4 if status in ("COMPLETED", "CANCELLED") else 0)
    cells = (await bench.store.cells.list(batch.id)).items
    places = {(cell.variant, cell.case_id, cell.repetition) for cell in cells}
    assert len(places) == len(cells) == 18
    after = {cell.id: (cell.status, cell.execution_id, cell.scores) for cell in cells}
    for cell in before:
        assert after[cell.id] == (cell.status, cell.execution_id, cell.scores)
    async with bench.db.connection() as conn:
        row = await (
            await conn.execute("SELECT count(DISTINCT ordinal) AS n, max(ordinal) AS m FROM cells")
        ).fetchone()
    assert row == {"n": 18, "m": 17}

    assert await grown(bench, batch, **wanted) == found, "the same once more does nothing"
    [told] = await bench.events(types=["batch.extended"])
    assert told.payload == {
        "variants": ["new"],
        "cases": 1,
        "repetitions": 2,
        "cells": 14,
        "reopened": status in ("COMPLETED", "CANCELLED"),
    }


async def test_the_leaderboard_of_a_batch_that_grew_is_another_one(
    bench: StoreBench, tmp_path: Path
) -> None:
    batch = await bench.batch(cases=2, variants=1)
    async with ObjectStore(Settings(data_dir=tmp_path).objects()) as objects:
        before = await results.compute_leaderboard(bench.db, objects, batch.id)
        await grown(bench, batch, bindings=[{"node": "v5"}])
        digest = await results.digest_of(bench.db, batch.id)
        assert await results.stored(bench.db, batch.id, digest) is None
        after = await results.compute_leaderboard(bench.db, objects, batch.id)
    assert [row.variant for row in before.rows] == ["v0"]
    assert {row.variant for row in after.rows} == {"v0", "node=v5"}


async def test_what_a_batch_has_otherwise_is_a_conflict_and_nothing_is_made(
    bench: StoreBench,
) -> None:
    batch = await bench.batch(cases=2, variants=2)
    changes: list[tuple[dict[str, Any], type[errors.WTBError], str]] = [
        ({"cases": [case(5), case(1, expected=9)]}, errors.Conflict, "cases.1"),
        ({"cases": [case(1, input={"x": 3})]}, errors.Conflict, "cases.0"),
        ({"bindings": [{"node": "v7", "_name": "v1"}]}, errors.Conflict, "variants.0"),
        ({"bindings": [{"node": "a"}, {"node": "a"}]}, errors.InvalidRequest, "variants.1"),
        ({"repetitions": 500_000_000}, errors.TooManyCells, "repetitions"),
        ({"cases": [case(i) for i in range(60)]}, errors.TooManyCells, "cases"),
        ({"cases": [case(8), case(8)]}, errors.InvalidCases, "cases"),
    ]
    for wanted, kind, field in changes:
        with pytest.raises(kind) as refused:
            await grown(bench, batch, **wanted)
        assert refused.value.details["field"] == field
    with pytest.raises(errors.TooManyCells) as huge:
        await grown(bench, batch, repetitions=250_000_000)
    assert huge.value.details["count"] == 1_000_000_000
    assert await bench.store.batches.get(batch.id) == batch
    await grown(bench, batch, repetitions=2)
    with pytest.raises(errors.Conflict) as fewer:
        await grown(bench, batch, repetitions=1)
    assert fewer.value.details["field"] == "repetitions"
    await bench.put_batch(batch.id, "FAILED")
    with pytest.raises(errors.InvalidTransition):
        await grown(bench, batch, repetitions=3)
    with pytest.raises(errors.UnknownBatch):
        await bench.store.batches.extend("none", (), (), 2, max_cells=9, actor="me")


async def test_a_batch_grows_once_however_many_ask(bench: StoreBench) -> None:
    batch = await bench.batch(cases=2, variants=2)
    wanted = {"cases": [case(9)], "repetitions": 3}
    found = await asyncio.gather(*(grown(bench, batch, **wanted) for _ in range(8)))
    assert {(one.cells, one.cases) for one in found} == {(18, 3)}
    assert len((await bench.store.cells.list(batch.id)).items) == 18
    await run(bench, batch)
    assert (await bench.store.batches.get(batch.id)).counts == {"DONE": 18}
