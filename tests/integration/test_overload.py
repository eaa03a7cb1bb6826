"""Limits, overload, timeouts and deadlines as executions and cells see them, in real runners."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration import test_apart
from tests.integration.test_apart import ApartBench
from tests.integration.test_scheduling import Bench, bench
from tests.integration.test_tracking import until
from tests.limited import RAN
from wtb_ray import errors, graphs, plan, results
from wtb_ray.environment import ExecutionConfig, NodeResourceConfig, RetryConfig
from wtb_ray.events import Cursor
from wtb_ray.model import Case, Execution, NodeRun, ProjectSpec, ScorerSpec, VariantSpec
from wtb_ray.objects import ObjectStore
from wtb_ray.rates import LimitSpec, Rate
from wtb_ray.states import ExecutionStatus as E

__all__ = ["bench"]

apart = test_apart.bench
"""Nodes in processes of their own."""

SAID = ScorerSpec(name="json_schema", args={"field": "said", "schema": {"type": "array"}})


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    RAN.clear()
    monkeypatch.setattr(plan, "FIRST_OVERLOAD_DELAY_S", 0.05)


def spec(entry: str = "graph", **execution: Any) -> ProjectSpec:
    config = ExecutionConfig(**execution) if execution else None
    return ProjectSpec(name="limited", entry=f"tests.limited:{entry}", execution=config)


async def ran(bench: Bench, wanted: ProjectSpec, **state: Any) -> Execution:
    version = await bench.register(wanted)
    made = await bench.store.executions.create(version, {}, state, recursion_limit=20, actor="test")
    return await until(bench, made.id)


async def limited(bench: Bench, concurrency: int | None = None, **rates: float) -> None:
    units = {
        unit: Rate.model_validate({"per_minute": rate, "burst": 10 if unit == "tokens" else 1})
        for unit, rate in rates.items()
    }
    await bench.store.limits.set(
        "api", LimitSpec(units=units, concurrency=concurrency), actor="test"
    )


async def nodes(bench: Bench, id: str) -> dict[str, NodeRun]:
    steps = await bench.store.executions.steps(id)
    return {run.name: run for step in steps for run in step.nodes}


async def requeues(bench: Bench, id: str) -> list[str]:
    rows = await bench.store.events.read(Cursor.START, 1000, execution_id=id)
    return [row.payload["reason"] for row in rows if row.type == "execution.requeued"]


# --- limits ---


@pytest.mark.parametrize("entry", ["waiting", "waiting_threads"])
async def test_waiting_for_a_limit_is_told_apart_from_latency(bench: Bench, entry: str) -> None:
    await limited(bench, tokens=1200)  # ten at once, twenty a second
    version = await bench.register(spec(entry))
    batch = await bench.batch(version, [{}], [Case(id=f"c{i}", input={}) for i in range(4)])
    ended = await bench.ended(batch)
    assert ended.counts == {"DONE": 4}
    found = await bench.store.executions.list(batch_id=batch.id)
    waited = []
    for execution in found.items:
        steps = await bench.store.executions.steps(execution.id)
        [run] = [run for step in steps for run in step.nodes]
        waited.append(run.waited_ms)
        assert execution.latency_ms == pytest.approx(sum(s.duration_ms for s in steps))
        assert (execution.latency_ms or 0) < 400
    assert max(waited) >= 1400, "the last of them waited for thirty tokens"


async def test_a_step_lasts_as_long_as_its_slowest_node_without_waiting(bench: Bench) -> None:
    await limited(bench, tokens=600)
    first = await ran(bench, spec("pair"), seconds=0.0)
    second = await ran(bench, spec("pair"), seconds=0.3)
    assert (await nodes(bench, first.id))["waits"].waited_ms < 500
    found = await nodes(bench, second.id)
    [step] = [s for s in await bench.store.executions.steps(second.id) if s.step == 1]
    assert found["waits"].waited_ms > found["works"].duration_ms >= 300
    assert found["waits"].duration_ms < 300
    assert found["works"].duration_ms <= step.duration_ms < found["waits"].waited_ms


async def test_what_is_asked_wrongly_of_a_limit_ends_typed(bench: Bench) -> None:
    unknown = await ran(bench, spec("waiting"))
    assert unknown.error is not None
    assert (unknown.error.code, unknown.error.node) == ("unknown_limit", "waits")
    assert "wtb limit set api" in unknown.error.message
    await limited(bench, tokens=600)
    never = await ran(bench, spec("greedy"))
    assert never.error is not None
    assert (never.error.code, never.error.type) == ("limit_unmeetable", "LimitUnmeetable")
    held_up = await ran(bench, spec("wrong"))
    assert held_up.error is not None
    assert "async with" in held_up.error.message


async def test_a_limit_is_let_go_when_its_execution_is_stopped(apart: ApartBench) -> None:
    await limited(apart, tokens=0.1)
    version = await apart.registered(spec("waiting_threads"))
    ids = []
    for _ in range(3):
        made = await apart.store.executions.create(
            version, {}, {}, recursion_limit=20, actor="test"
        )
        ids.append(made.id)
    async with asyncio.timeout(30):
        while (await apart.store.limits.get("api")).levels["tokens"] > -5:
            await asyncio.sleep(0.02)
    for id in ids:
        try:
            await apart.store.executions.request_stop(id, actor="test")
        except errors.InvalidTransition:
            continue
    ends = [(await until(apart, id)).status for id in ids]
    assert sorted(ends) == [E.CANCELLED, E.CANCELLED, E.COMPLETED]


async def test_nodes_in_processes_of_their_own_wait_too(apart: ApartBench) -> None:
    await limited(apart, concurrency=1, tokens=1200)
    alone = {"waits": NodeResourceConfig(num_cpus=1, concurrency=4)}
    version = await apart.registered(spec("waiting", node_resources=alone))
    made = [
        await apart.store.executions.create(version, {}, {}, recursion_limit=20, actor="test")
        for _ in range(3)
    ]
    ended = [await until(apart, one.id) for one in made]
    assert [one.status for one in ended] == [E.COMPLETED] * 3, ended
    waited = [(await nodes(apart, one.id))["waits"].waited_ms for one in ended]
    assert max(waited) >= 900
    async with asyncio.timeout(10):
        while (await apart.store.limits.get("api")).inside:
            await asyncio.sleep(0.02)
    await apart.store.limits.remove("api", actor="test")
    refused = await apart.run(version.spec, {})
    assert refused.error is not None
    assert refused.error.code == "unknown_limit"


# --- overload ---


async def test_an_overload_is_tried_again_later_and_what_had_ended_is_kept(bench: Bench) -> None:
    done = await ran(bench, spec(), key="k", how="busy_twice")
    assert (done.status, done.attempt) == (E.COMPLETED, 3)
    assert RAN == {"k:beside": 1, "k:call": 3}
    told = await requeues(bench, done.id)
    assert told == ["rate_limited: Overloaded: slow down"] * 2


async def test_an_overload_is_known_when_its_chain_stayed_in_another_process(
    apart: ApartBench,
) -> None:
    alone = {"call": NodeResourceConfig(num_cpus=1)}
    version = await apart.registered(spec(node_resources=alone))
    made = await apart.store.executions.create(
        version, {}, {"key": "a", "how": "odd_twice"}, recursion_limit=20, actor="test"
    )
    done = await until(apart, made.id)
    assert (done.status, done.attempt) == (E.COMPLETED, 3), done.error


async def test_cells_that_never_got_an_answer_are_missing_and_not_zero(
    bench: Bench, tmp_path: Path
) -> None:
    wanted = spec(node_timeouts={"call": 0.2})
    version = await bench.register(wanted)
    hows = ["fine", "busy", "timeout", "hang", "wrong"]
    batch = await bench.batch(
        version,
        [{}],
        [Case(id=how, input={"key": how, "how": how}) for how in hows],
        scorers=(SAID,),
    )
    ended = await bench.ended(batch)
    assert ended.counts == {"DONE": 1, "FAILED": 4}
    cells = (await bench.store.cells.list(batch.id, 10)).items
    assert {cell.case_id: cell.error and cell.error["code"] for cell in cells} == {
        "fine": None,
        "busy": "rate_limited",
        "timeout": "timed_out",
        "hang": "timed_out",
        "wrong": "node_failed",
    }
    async with ObjectStore(bench.settings.objects()) as objects:
        board = await results.compute_leaderboard(bench.store.db, objects, batch.id)
    metric = board.rows[0].metrics[0]
    assert (metric.n, metric.mean) == (2, 0.5), "what is fine and what is wrong"
    assert RAN["busy:call"] == RAN["hang:call"] == 1 + bench.settings.infrastructure_retries
    assert RAN["wrong:call"] == 1


# --- policies of nodes ---


async def test_a_sync_node_that_takes_too_long_is_left_behind_and_tried_again(
    bench: Bench,
) -> None:
    wanted = spec("sync_graph", default_timeout_s=0.3)
    done = await ran(bench, wanted, key="s", seconds=1.5)
    assert (done.status, done.attempt) == (E.COMPLETED, 2)
    assert (await requeues(bench, done.id))[0].startswith("timed_out: NodeTimeoutError")


async def test_a_node_is_tried_again_at_once_as_its_policy_says(bench: Bench) -> None:
    retry = RetryConfig(max_attempts=3, initial_interval_s=0.01, jitter=False)
    done = await ran(bench, spec(retries={"call": retry}), key="r", how="busy_twice")
    assert (done.status, done.attempt) == (E.COMPLETED, 1)
    assert RAN["r:call"] == 3
    inner = await ran(
        bench, spec("nested", retries={"inner/call": retry}), key="n", how="busy_twice"
    )
    assert (inner.status, inner.attempt, RAN["n:call"]) == (E.COMPLETED, 1, 3)


async def test_waiting_for_a_limit_uses_up_no_timeout_of_a_node(bench: Bench) -> None:
    await limited(bench, tokens=600)
    wanted = spec("waiting", default_timeout_s=0.5)
    first, second = await ran(bench, wanted), await ran(bench, wanted)
    assert (first.status, second.status, second.attempt) == (E.COMPLETED, E.COMPLETED, 1)
    assert (await nodes(bench, second.id))["waits"].waited_ms > 500


@pytest.mark.parametrize("field", ["node_timeouts", "retries"])
def test_policies_of_nodes_that_are_not_there_are_refused(field: str) -> None:
    said: dict[str, Any] = {"node_timeouts": 1.0, "retries": RetryConfig()}
    config = ExecutionConfig.model_validate({field: {"nobody": said[field]}})
    made = graphs.Graphs(spec().model_copy(update={"execution": config}))
    with pytest.raises(errors.UnknownNode, match="nobody") as refused:
        made.aparts()
    assert refused.value.details["field"] == f"execution.{field}.nobody"


# --- deadlines ---


async def test_a_cell_that_is_late_is_stopped_at_once_and_counts_as_failed(bench: Bench) -> None:
    version = await bench.register(spec())
    hang = [Case(id="late", input={"key": "l", "how": "hang"}), Case(id="fine", input={})]
    began = time.monotonic()
    batch = await bench.batch(version, [{}], hang, scorers=(SAID,), deadline_s=1.0)
    ended = await bench.ended(batch)
    assert ended.deadline_s == 1.0
    assert ended.counts == {"DONE": 1, "FAILED": 1}
    assert time.monotonic() - began < 25
    [late] = [c for c in (await bench.store.cells.list(batch.id, 10)).items if c.error]
    assert late.error is not None
    assert (late.case_id, late.error["code"]) == ("late", "deadline_exceeded")
    async with ObjectStore(bench.settings.objects()) as objects:
        board = await results.compute_leaderboard(bench.store.db, objects, batch.id)
    assert board.rows[0].metrics[0].mean == 0.5


async def test_a_deadline_outlives_the_death_of_a_runner(bench: Bench) -> None:
    version = await bench.register(spec())
    batch = await bench.batch(
        version, [{}], [Case(id="late", input={"key": "d", "how": "hang"})], deadline_s=2.0
    )
    async with asyncio.timeout(30):
        while RAN["d:call"] < 1:
            await asyncio.sleep(0.02)
    await bench.runners.kill(next(iter(bench.runners.runners)))
    ended = await bench.ended(batch)
    assert ended.counts == {"FAILED": 1}
    [one] = (await bench.store.executions.list(batch_id=batch.id)).items
    assert one.error is not None
    assert one.error.code == "deadline_exceeded"


async def test_a_cell_that_waits_for_an_answer_fails_with_its_deadline(bench: Bench) -> None:
    version = await bench.register(spec("asking"))
    nobody = [Case(id="nobody", input={})]
    batch = await bench.batch(version, [{}], nobody, interrupts="wait", deadline_s=1.0)
    ended = await bench.ended(batch)
    assert ended.counts == {"FAILED": 1}
    [one] = (await bench.store.executions.list(batch_id=batch.id)).items
    assert one.error is not None
    assert one.error.code == "deadline_exceeded"


async def test_variants_that_part_keep_the_deadline_of_their_beginning(bench: Bench) -> None:
    variants = {"call": {"sync": VariantSpec(implementation="tests.limited:sync_call")}}
    version = await bench.register(spec().model_copy(update={"variants": variants}))
    batch = await bench.batch(
        version,
        [{}, {"call": "sync"}],
        [Case(id="c", input={"key": "v", "how": "hang"})],
        deadline_s=3.0,
    )
    ended = await bench.ended(batch)
    assert ended.counts == {"DONE": 1, "FAILED": 1}
    rows = await bench.store.db.rows("SELECT deadline, started_at, error FROM executions")
    assert len(rows) == 2
    assert len({row["deadline"] for row in rows}) == 1, "that of the execution that they began in"


async def test_an_execution_of_no_batch_has_a_deadline_of_its_own(bench: Bench) -> None:
    version = await bench.register(spec())
    state = {"key": "o", "how": "hang"}
    made = await bench.store.executions.create(
        version, {}, state, recursion_limit=20, deadline_s=1.0, actor="test"
    )
    assert made.deadline_s == 1.0
    late = await until(bench, made.id)
    assert late.error is not None
    assert (late.status, late.error.code) == ("FAILED", "deadline_exceeded")
    await bench.store.control.retry(made.id, actor="test")
    again = await until(bench, made.id)
    assert again.error is not None
    assert again.error.code == "deadline_exceeded"
    assert RAN["o:call"] == 2, "the retry had its time anew"
    back = await bench.store.branches.reset(made.id, actor="test")
    [row] = await bench.store.db.rows("SELECT deadline FROM executions")
    assert (row["deadline"], back.deadline_s) == (None, 1.0)


async def test_an_execution_that_waits_for_an_answer_fails_with_its_deadline(bench: Bench) -> None:
    version = await bench.register(spec("asking"))
    made = await bench.store.executions.create(
        version, {}, {}, recursion_limit=20, deadline_s=1.0, actor="test"
    )
    async with asyncio.timeout(30):
        while (found := await bench.store.executions.get(made.id)).status != "FAILED":
            await asyncio.sleep(0.02)
    assert found.error is not None
    assert found.error.code == "deadline_exceeded"
