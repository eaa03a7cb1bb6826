"""Batches with real runners: what they cost, budgets, cells once more, and a full shutdown halfway."""

import asyncio
import sys
from collections import Counter
from pathlib import Path

from tests.integration import test_scheduling
from tests.integration.batch_worker import Runners, settings
from tests.integration.test_scheduling import SPEC, Bench, cases
from wtb_ray.actors import postgres
from wtb_ray.actors.lifecycle import ActorLifecycle
from wtb_ray.actors.postgres import EmbeddedPostgres
from wtb_ray.actors.scheduler import BatchScheduler
from wtb_ray.db import Database
from wtb_ray.events import Cursor
from wtb_ray.model import Batch, Budget, Case, ScorerSpec, VariantSpec
from wtb_ray.store import Store

bench = test_scheduling.bench
METERED = SPEC.model_copy(
    update={
        "variants": {
            "double": {"metered": VariantSpec(implementation="tests.toy:metered")},
            "finish": {"other": VariantSpec(params={"other": True})},
        }
    }
)
SLOW = SPEC.model_copy(
    update={
        "entry": "tests.toy:slow_graph",
        "variants": {"c": {"triple": VariantSpec(implementation="tests.toy:triple")}},
    }
)
EXACT = ScorerSpec(name="exact", args={"field": "y"})
HALF_S = 60
"""Longest time that half of the batch may take."""


async def test_a_batch_says_what_its_nodes_used_failed_ones_too(bench: Bench) -> None:
    version = await bench.register(METERED)
    both = [Case(id="bad", input={"x": -1}), Case(id="good", input={"x": 1}, expected=2)]
    batch = await bench.batch(version, [{"double": "metered"}, {}], both, scorers=(EXACT,))
    ended = await bench.ended(batch)
    assert ended.counts == {"DONE": 2, "FAILED": 2}
    used = {"input_tokens": 10, "output_tokens": 5, "cost": 0.5}
    found = {(c.variant, c.case_id): c for c in (await bench.store.cells.list(batch.id)).items}
    assert found["double=metered", "good"].usage == used
    assert found["double=metered", "good"].node_runs == 2
    assert found["double=metered", "bad"].usage == used, "it failed after it had used that"
    assert found["default", "good"].usage == {}
    for cost in (ended.cost, ended.cost_incurred):
        assert cost is not None
        assert cost.usage == {name: 2 * amount for name, amount in used.items()}
    again = await bench.store.batches.rerun(batch.id, ["FAILED"], actor="me")
    ended = await bench.ended(again)
    assert ended.counts == {"DONE": 2, "FAILED": 2}
    assert ended.cost is not None
    assert ended.cost_incurred is not None
    assert ended.cost.usage["cost"] == 1.0
    assert ended.cost_incurred.usage["cost"] == 1.5, "what was spent stays spent"


async def test_what_cells_share_is_spent_once_and_fails_together(bench: Bench) -> None:
    version = await bench.register(METERED)
    rows = [{"double": "metered"}, {"double": "metered", "finish": "other"}]
    both = [Case(id="bad", input={"x": -1}), Case(id="good", input={"x": 1}, expected=2)]
    ended = await bench.ended(await bench.batch(version, rows, both, scorers=(EXACT,)))
    cells = (await bench.store.cells.list(ended.id)).items
    assert {(c.status, c.shared_failure) for c in cells} == {("FAILED", True), ("DONE", False)}
    assert [c.usage["cost"] for c in cells] == [0.5] * 4
    assert ended.cost is not None
    assert ended.cost_incurred is not None
    assert (ended.cost.usage["cost"], ended.cost_incurred.usage["cost"]) == (2.0, 1.0)
    assert (ended.cost.node_runs, ended.cost_incurred.node_runs) == (4, 3)


async def test_a_batch_ends_when_its_budget_is_used_up(bench: Bench) -> None:
    version = await bench.register(METERED)
    batch = await bench.batch(
        version, [{"double": "metered"}], cases(300), budget=Budget(tokens=60, cells=250)
    )
    ended = await bench.ended(batch)
    assert ended.status == "COMPLETED"
    assert "60 tokens is used up" in (ended.reason or "")
    assert set(ended.counts) == {"DONE", "EXCLUDED"}
    assert 4 <= ended.counts["DONE"] < 250
    assert ended.cost_incurred is not None
    assert ended.cost_incurred.usage["input_tokens"] == 10 * ended.counts["DONE"]
    types = Counter(event.type for event in await bench.store.events.read(Cursor.START, 9000))
    assert types["batch.budget_exceeded"] == types["batch.completed"] == 1


async def test_a_batch_goes_on_after_a_full_shutdown(tmp_path: Path) -> None:
    database = EmbeddedPostgres(str(tmp_path / "pg"))
    url = await database.url()
    try:
        async with Database(url) as db:
            batch = await _half_done(bench_on(db, tmp_path), tmp_path)
        await database.stop()
        postgres.forget(tmp_path / "pg")
        database = EmbeddedPostgres(str(tmp_path / "pg"))
        url = await database.url()
        async with Database(url) as db:
            await _other_half(bench_on(db, tmp_path), batch)
    finally:
        await database.stop()


def bench_on(db: Database, folder: Path) -> Bench:
    return Bench(Store(db), settings(folder), Runners(settings(folder), db.url))


async def _half_done(bench: Bench, folder: Path) -> Batch:
    """A batch of which a process did about half before it was killed."""
    version = await bench.register(SLOW)
    batch = await bench.batch(version, [{}, {"c": "triple"}], cases(20), scorers=(EXACT,))
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.batch_worker"),
        *(bench.store.db.url, str(folder)),
    )
    try:
        async with asyncio.timeout(HALF_S):
            while (await bench.store.batches.progress(batch.id)).finished < 15:
                await asyncio.sleep(0.02)
    finally:
        worker.kill()
        await worker.wait()
    counts = (await bench.store.batches.get(batch.id)).counts
    assert counts["DONE"] < 40
    return batch


async def _other_half(bench: Bench, batch: Batch) -> None:
    before = {cell.id: cell for cell in (await bench.store.cells.list(batch.id)).items}
    url = bench.store.db.url
    scheduler = BatchScheduler(bench.settings, url, bench.runners)
    lifecycle = ActorLifecycle(bench.settings, url, bench.runners)
    ended = await bench.ended(batch, HALF_S)
    for actor in (scheduler, lifecycle):
        await actor.close()
    for id, runner in bench.runners.runners.items():
        await bench.runners.kill(id)
        await runner.close()
    assert (ended.status, ended.counts) == ("COMPLETED", {"DONE": 40})
    for cell in (await bench.store.cells.list(batch.id)).items:
        right = cell.variant == "default" or cell.case_id == "c0"
        assert cell.scores == {"exact": float(right)}
        assert cell.node_runs == 4
        if before[cell.id].status == "DONE":
            assert cell == before[cell.id], "what was done stays as it was"
    told = await bench.store.events.read(Cursor.START, 9000, types=["cell.scored"])
    assert Counter(event.payload["cell"] for event in told) == Counter(list(before))
    assert len((await bench.store.executions.list(500, batch_id=batch.id)).items) == 40
