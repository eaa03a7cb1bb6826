"""What executions, cells and batches cost and really spent, and what ends when a budget is used up."""

import pytest
import pytest_asyncio

from tests.integration.store_bench import RIGHT, StoreBench
from wtb_ray import errors
from wtb_ray.db import Database
from wtb_ray.model import Assignment, Batch, Budget, Cost, Fault, thread_id
from wtb_ray.spending import BudgetName
from wtb_ray.states import CellStatus

FAULT = Fault(code="node_failed", type="ValueError", message="no")


@pytest_asyncio.fixture
async def bench(db: Database) -> StoreBench:
    bench = await StoreBench.make(db)
    await bench.runner()
    return bench


async def begun(bench: StoreBench, batch: Batch, limit: int = 100) -> list[Assignment]:
    await bench.store.executions.admit(batch.id, limit, actor="scheduler")
    return await bench.claim()


async def forked(bench: StoreBench, trunk: Assignment, checkpoint: str, child: Assignment) -> None:
    """Has an execution go on from a checkpoint of another, as a split does."""
    async with bench.db.connection() as conn:
        await conn.execute(
            "UPDATE branches SET parent_thread = %s, parent_checkpoint = %s WHERE thread_id = %s",
            (trunk.thread_id, checkpoint, child.thread_id),
        )


async def test_a_shared_prefix_costs_every_cell_and_is_spent_once(bench: StoreBench) -> None:
    batch = await bench.batch(cases=1, variants=2)
    trunk, child = await begun(bench, batch)
    shared = await bench.ran(trunk, {"tokens": 100, "cost": 0.5}, {})
    await forked(bench, trunk, shared, child)
    await bench.ran(trunk, {"tokens": 10})
    await bench.ran(child, {"tokens": 20, "hits": 1})
    for held in (trunk, child):
        assert await bench.settle(held, "complete", scores=RIGHT) is None

    first, second = (await bench.store.cells.list(batch.id)).items
    assert (first.node_runs, first.usage) == (3, {"tokens": 110, "cost": 0.5})
    assert (second.node_runs, second.usage) == (3, {"tokens": 120, "cost": 0.5, "hits": 1})
    assert (first.latency_ms, second.latency_ms) == (20, 20)
    execution = await bench.store.executions.get(child.execution_id)
    assert (execution.node_runs, execution.usage) == (second.node_runs, second.usage)
    assert execution.spent == Cost(node_runs=1, duration_ms=10, usage={"tokens": 20, "hits": 1})
    found = await bench.store.batches.get(batch.id)
    assert found.cost == Cost(
        node_runs=6, duration_ms=40, usage={"tokens": 230, "cost": 1.0, "hits": 1}
    )
    assert found.cost_incurred == Cost(
        node_runs=4, duration_ms=30, usage={"tokens": 130, "cost": 0.5, "hits": 1}
    )
    progress = await bench.store.batches.progress(batch.id)
    assert (progress.cost, progress.cost_incurred) == (found.cost, found.cost_incurred)


async def test_what_was_given_back_or_cut_off_is_spent_once_and_not_forgotten(
    bench: StoreBench,
) -> None:
    batch = await bench.batch(cases=1, variants=1)
    [held] = await begun(bench, batch)
    await bench.ran(held, {"cost": 1.0})
    cut_off = {"cost": 0.25}
    assert await bench.settle(held, "requeue", reason="drained", usage=cut_off) is None
    assert await bench.settle(held, "requeue", reason="drained", usage=cut_off) is None
    spent = (await bench.store.batches.get(batch.id)).cost_incurred
    assert spent == Cost(node_runs=1, duration_ms=10, usage={"cost": 1.25})
    [held] = await bench.claim()
    await bench.ran(held, {"cost": 2.0})
    assert await bench.settle(held, "fail", fault=FAULT, usage={"cost": 0.5}) is None

    found = await bench.store.batches.get(batch.id)
    assert found.cost_incurred == Cost(node_runs=2, duration_ms=20, usage={"cost": 3.75})
    assert found.cost == Cost(node_runs=2, duration_ms=20, usage={"cost": 3.5})


async def test_steps_that_were_gone_back_from_are_spent_but_not_of_the_path(
    bench: StoreBench,
) -> None:
    [held] = await bench.claimed()
    start = await bench.ran(held, {"tokens": 1})
    await bench.ran(held, {"tokens": 50})
    again = held.model_copy(update={"thread_id": thread_id(held.execution_id, 1)})
    async with bench.db.connection() as conn:
        await conn.execute(
            "INSERT INTO branches (thread_id, execution_id, number, parent_thread,"
            " parent_checkpoint, reason) VALUES (%s, %s, 1, %s, %s, 'rollback')",
            (again.thread_id, held.execution_id, held.thread_id, start),
        )
        await conn.execute(
            "UPDATE executions SET thread_id = %s WHERE id = %s",
            (again.thread_id, held.execution_id),
        )
    await bench.ran(again, {"tokens": 3})
    assert await bench.settle(held, "complete") is None
    found = await bench.store.executions.get(held.execution_id)
    assert (found.node_runs, found.usage) == (2, {"tokens": 4})
    assert found.spent is not None
    assert (found.spent.node_runs, found.spent.usage) == (3, {"tokens": 54})


async def test_cells_that_fail_together_say_so(bench: StoreBench) -> None:
    batch = await bench.batch(cases=1, variants=3)
    trunk, other, alone = await begun(bench, batch)
    await bench.share(trunk, other)
    await bench.put(other.execution_id, "CANCELLED")
    for held in (trunk, alone):
        assert await bench.settle(held, "fail", fault=FAULT) is None
    cells = (await bench.store.cells.list(batch.id)).items
    assert [(cell.status, cell.shared_failure) for cell in cells] == [
        (CellStatus.FAILED, True),
        (CellStatus.FAILED, True),
        (CellStatus.FAILED, False),
    ]
    told = await bench.events(types=["cell.failed"])
    assert [event.payload["shared_failure"] for event in told] == [True, True, False]


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(cells=2), "2 cells is used up: 2"),
        (Budget(node_runs=3), "3 node_runs is used up: 4"),
        (Budget(tokens=500), "500 tokens is used up: 510"),
        (Budget(cost=0.5, tokens=1e6), "0.5 cost is used up: 0.6"),
    ],
)
async def test_a_budget_that_is_used_up_lets_nothing_more_begin(
    bench: StoreBench, budget: Budget, said: str
) -> None:
    batch = await bench.batch(cases=3, variants=1, budget=budget)
    assert batch.budget == budget
    first, second = await begun(bench, batch, 2)
    if budget.cells is None:
        assert await bench.store.batches.enforce_budgets(actor="scheduler") == []
    await bench.ran(first, {"cost": 0.6, "tokens": 200, "input_tokens": 9}, {"input_tokens": 300})
    await bench.ran(first, {"output_tokens": 10}, {})
    assert await bench.settle(first, "complete", scores=RIGHT) is None
    assert await bench.store.batches.enforce_budgets(actor="scheduler") == [batch.id]
    assert await bench.store.batches.enforce_budgets(actor="scheduler") == []
    assert await begun(bench, batch) == []
    assert await bench.store.batches.close(actor="scheduler") == []
    assert await bench.settle(second, "complete", scores=RIGHT) is None, "what runs goes on"
    assert await bench.store.batches.close(actor="scheduler") == [batch.id]

    found = await bench.store.batches.get(batch.id)
    assert found.status == "COMPLETED"
    assert found.reason is not None
    assert found.reason.startswith("budget_exceeded: ")
    assert said in found.reason
    assert found.counts == {"DONE": 2, "EXCLUDED": 1}
    [left] = (await bench.store.cells.list(batch.id, status=CellStatus.EXCLUDED)).items
    assert left.error is not None
    assert (left.error["code"], said in left.error["message"]) == ("budget_exceeded", True)
    [event] = await bench.events(types=["batch.budget_exceeded"])
    assert (event.batch_id, event.payload["excluded"]) == (batch.id, 1)
    assert event.payload["budget"] in said


async def test_the_budget_of_cells_is_exact(bench: StoreBench) -> None:
    batch = await bench.batch(cases=9, variants=1, budget=Budget(cells=4))
    assert len(await begun(bench, batch, 3)) == 3
    assert len(await begun(bench, batch, 100)) == 1
    assert await begun(bench, batch, 100) == []


async def test_the_budget_of_cells_is_exact_where_they_share(bench: StoreBench) -> None:
    batch = await bench.batch(cases=9, variants=2, share_prefix=True, budget=Budget(cells=5))
    assert len(await begun(bench, batch, 1)) == 1
    assert len(await begun(bench, batch)) == 2
    assert (await bench.store.batches.get(batch.id)).counts == {"RUNNING": 5, "PENDING": 13}
    assert await bench.store.batches.enforce_budgets(actor="scheduler") == [batch.id]


async def test_pauses_are_not_of_the_wall_time(bench: StoreBench) -> None:
    batch = await bench.batch(budget=Budget(wall_time_s=100))

    async def age(column: str) -> None:
        async with bench.db.connection() as conn:
            await conn.execute(
                f"UPDATE batches SET {column} = {column} - interval '99 s' WHERE id = %s",
                (batch.id,),
            )

    await age("running_since")
    assert await bench.store.batches.enforce_budgets(actor="scheduler") == []
    await bench.store.batches.pause(batch.id, actor="me")
    await age("started_at")
    await bench.store.batches.resume(batch.id, actor="me")
    assert await bench.store.batches.enforce_budgets(actor="scheduler") == []
    await age("running_since")
    assert await bench.store.batches.enforce_budgets(actor="scheduler") == [batch.id]


async def test_a_used_up_budget_with_nothing_waiting_ends_nothing(bench: StoreBench) -> None:
    batch = await bench.batch(cases=1, variants=1, budget=Budget(cells=1))
    [held] = await begun(bench, batch)
    assert await bench.store.batches.enforce_budgets(actor="scheduler") == []
    assert await bench.settle(held, "complete", scores=RIGHT) is None
    await bench.store.batches.close(actor="scheduler")
    found = await bench.store.batches.get(batch.id)
    assert (found.status, found.reason, found.counts) == ("COMPLETED", None, {"DONE": 1})


async def test_the_remaining_time_is_that_of_the_recent_past(bench: StoreBench) -> None:
    batch = await bench.batch(cases=100, variants=2)
    held = await begun(bench, batch, 26)

    async def shift(table: str, column: str, seconds: float, key: str = "batch_id") -> None:
        async with bench.db.connection() as conn:
            await conn.execute(
                f"UPDATE {table} SET {column} = {column} - make_interval(secs => %s)"
                f" WHERE {key} = %s",
                (seconds, batch.id),
            )

    for item in held[:2]:
        await bench.settle(item, "complete", scores=RIGHT)
    assert (await bench.store.batches.progress(batch.id)).remaining_s is None, "two say nothing"
    await shift("cells", "ended_at", 3600)
    await shift("batches", "running_since", 4000, "id")
    for item in held[2:]:
        await bench.settle(item, "complete", scores=RIGHT)
    found = await bench.store.batches.progress(batch.id)
    assert found.rate == pytest.approx(24 / 60, rel=0.05), "not the mean since the start"
    assert found.remaining_s == pytest.approx(174 * 60 / 24, rel=0.05)
    low, high = found.remaining_low_s, found.remaining_high_s
    assert low is not None
    assert high is not None
    assert found.remaining_s is not None
    assert low < found.remaining_s < high

    await bench.store.batches.pause(batch.id, actor="me")
    paused = await bench.store.batches.progress(batch.id)
    assert (paused.rate, paused.remaining_s) == (None, None)
    await bench.store.batches.resume(batch.id, actor="me")
    assert (await bench.store.batches.progress(batch.id)).remaining_s is None
    await bench.store.batches.stop(batch.id, None, actor="me")
    assert (await bench.store.batches.progress(batch.id)).remaining_s == 0


@pytest.mark.parametrize("name", list(Budget.model_fields))
def test_a_budget_of_nothing_is_refused_by_name(name: str) -> None:
    for amount in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=name):
            Budget(**{name: amount})
    assert issubclass(errors.BudgetExceeded, errors.ExecutionFault)


async def used_up(bench: StoreBench, budget: Budget) -> Batch:
    """A batch that has completed with one cell done and two excluded, for 0.6 of cost and 200 tokens."""
    batch = await bench.batch(cases=3, variants=1, budget=budget)
    [held] = await begun(bench, batch, 1)
    await bench.ran(held, {"cost": 0.6, "tokens": 200})
    assert await bench.settle(held, "complete", scores=RIGHT) is None
    assert await bench.store.batches.enforce_budgets(actor="scheduler") == [batch.id]
    await bench.store.batches.close(actor="scheduler")
    found = await bench.store.batches.get(batch.id)
    assert (found.status, found.counts) == ("COMPLETED", {"DONE": 1, "EXCLUDED": 2})
    return found


@pytest.mark.parametrize(
    ("budget", "name", "enough"),
    [(Budget(cells=1, cost=9), "cells", 3), (Budget(cost=0.5, tokens=900), "cost", None)],
)
async def test_what_a_budget_excluded_runs_when_it_is_raised(
    bench: StoreBench, budget: Budget, name: BudgetName, enough: float | None
) -> None:
    batch = await used_up(bench, budget)
    rerun, set_budget = bench.store.batches.rerun, bench.store.batches.set_budget
    with pytest.raises(errors.Conflict, match="raise it first") as refused:
        await rerun(batch.id, ["EXCLUDED"], actor="me")
    assert refused.value.details["budget"] == name
    assert await bench.store.batches.get(batch.id) == batch, "nothing half made"
    raised = await set_budget(batch.id, {name: enough}, actor="me")
    assert raised.budget is not None
    assert getattr(raised.budget, name) == enough
    assert raised.budget.tokens == budget.tokens, "what is not named stays"
    assert (raised.status, raised.counts) == (batch.status, batch.counts), (
        "nothing begins by itself"
    )
    await set_budget(batch.id, {name: enough}, actor="me")
    [told] = await bench.events(types=["batch.budget_changed"])
    assert told.payload["before"][name] == getattr(budget, name)
    assert told.payload["after"][name] == enough

    again = await rerun(batch.id, ["EXCLUDED"], actor="me")
    assert (again.status, again.reason, again.counts) == (
        "RUNNING",
        None,
        {"DONE": 1, "PENDING": 2},
    )
    assert await bench.store.batches.enforce_budgets(actor="scheduler") == []
    for held in await begun(bench, batch):
        assert await bench.settle(held, "complete", scores=RIGHT) is None
    await bench.store.batches.close(actor="scheduler")
    found = await bench.store.batches.get(batch.id)
    assert (found.status, found.reason, found.counts) == ("COMPLETED", None, {"DONE": 3})
    assert not [cell for cell in (await bench.store.cells.list(batch.id)).items if cell.error]


async def test_a_batch_that_still_runs_forgets_that_its_budget_was_used_up(
    bench: StoreBench,
) -> None:
    batch = await bench.batch(cases=3, variants=1, budget=Budget(cells=1))
    assert len(await begun(bench, batch)) == 1
    await bench.store.batches.enforce_budgets(actor="scheduler")
    assert (await bench.store.batches.get(batch.id)).reason is not None
    await bench.store.batches.set_budget(batch.id, {"cells": 2}, actor="me")
    assert len(await begun(bench, batch)) == 0
    found = await bench.store.batches.rerun(batch.id, ["EXCLUDED"], actor="me")
    assert (found.status, found.reason) == ("RUNNING", None)
    assert len(await begun(bench, batch)) == 1
    assert await bench.store.batches.enforce_budgets(actor="scheduler") == [batch.id]
    assert (await bench.store.batches.get(batch.id)).counts == {"RUNNING": 2, "EXCLUDED": 1}


async def test_what_a_budget_excluded_waits_for_more_of_it_in_a_paused_batch_too(
    bench: StoreBench,
) -> None:
    batch = await bench.batch(cases=3, variants=1, budget=Budget(cells=1))
    assert len(await begun(bench, batch)) == 1
    await bench.store.batches.enforce_budgets(actor="scheduler")
    paused = await bench.store.batches.pause(batch.id, actor="me")
    with pytest.raises(errors.Conflict, match="raise it first"):
        await bench.store.batches.rerun(batch.id, ["EXCLUDED"], actor="me")
    assert await bench.store.batches.get(batch.id) == paused
    await bench.store.batches.set_budget(batch.id, {"cells": 2}, actor="me")
    found = await bench.store.batches.rerun(batch.id, ["EXCLUDED"], actor="me")
    assert (found.status, found.reason, found.counts["PENDING"]) == ("PAUSED", None, 2)


async def test_failed_cells_run_again_only_with_something_left_of_the_budget(
    bench: StoreBench,
) -> None:
    batch = await bench.batch(cases=1, variants=1, budget=Budget(cost=0.5))
    [held] = await begun(bench, batch)
    await bench.ran(held, {"cost": 0.6})
    assert await bench.settle(held, "fail", fault=FAULT) is None
    await bench.store.batches.close(actor="scheduler")
    failed = await bench.store.batches.get(batch.id)
    with pytest.raises(errors.Conflict, match="raise it first"):
        await bench.store.batches.rerun(batch.id, ["FAILED"], actor="me")
    assert await bench.store.batches.get(batch.id) == failed, "the failure and its score stand"
    await bench.store.batches.set_budget(batch.id, {"cost": 2}, actor="me")
    again = await bench.store.batches.rerun(batch.id, ["FAILED"], actor="me")
    assert (again.status, again.counts) == ("RUNNING", {"PENDING": 1})


async def test_a_batch_says_that_its_budget_was_used_up_as_long_as_cells_are_excluded(
    bench: StoreBench,
) -> None:
    batch = await used_up(bench, Budget(cells=1))
    await bench.store.batches.set_budget(batch.id, {"cells": None}, actor="me")
    for case, left in (("c1", batch.reason), ("c2", None)):
        await bench.store.batches.rerun(batch.id, ["EXCLUDED"], case=case, actor="me")
        [held] = await begun(bench, batch)
        assert await bench.settle(held, "complete", scores=RIGHT) is None
        await bench.store.batches.close(actor="scheduler")
        found = await bench.store.batches.get(batch.id)
        assert (found.status, found.reason) == ("COMPLETED", left)


async def test_budgets_that_make_no_sense_are_refused(bench: StoreBench) -> None:
    batch = await used_up(bench, Budget(cost=0.5))
    set_budget = bench.store.batches.set_budget
    bad: list[tuple[dict[BudgetName, float | None], type[errors.WTBError], str]] = [
        ({"cost": 0.55}, errors.Conflict, "budget.cost"),
        ({"tokens": 199}, errors.Conflict, "budget.tokens"),
        ({"cost": -1}, errors.InvalidRequest, "budget.cost"),
        ({"cells": 2.5}, errors.InvalidRequest, "budget.cells"),
    ]
    for changes, kind, field in bad:
        with pytest.raises(kind) as refused:
            await set_budget(batch.id, changes, actor="me")
        assert refused.value.details["field"] == field
    with pytest.raises(errors.UnknownBatch):
        await set_budget("none", {"cost": 1}, actor="me")
    assert await bench.events(types=["batch.budget_changed"]) == []
    stopped = await bench.batch(budget=Budget(cost=0.5))
    await bench.store.batches.stop(stopped.id, "enough", actor="me")
    with pytest.raises(errors.InvalidTransition) as ended:
        await set_budget(stopped.id, {"cost": 9}, actor="me")
    assert ended.value.details["state"] == "CANCELLED"
