"""Every command in every status: it does what the tables say, or refuses naming what it found."""

import pytest

from tests.integration.store_bench import StoreBench
from wtb_ray import errors, states
from wtb_ray.states import BatchStatus, CellStatus, ExecutionStatus
from wtb_ray.store.settlements import COMMANDS, Kind

RUNNING, PENDING = ExecutionStatus.RUNNING, ExecutionStatus.PENDING
CELL_AFTER = {
    "complete": CellStatus.DONE,
    "fail": CellStatus.FAILED,
    "cancel": CellStatus.CANCELLED,
    "pause": CellStatus.RUNNING,
    "requeue": CellStatus.RUNNING,
    "split": CellStatus.RUNNING,
}


def assert_names(error: errors.InvalidTransition, found: str, command: str) -> None:
    assert found in error.message
    assert command in error.message
    assert error.details["field"] == "status"
    assert error.details["state"] == found
    assert error.details["command"] == command
    assert error.details["reason"]


async def test_stopping_an_execution(bench: StoreBench) -> None:
    stop = bench.store.executions.request_stop
    for found in ExecutionStatus:
        [held] = await bench.claimed()
        await bench.put(held.execution_id, found)
        before = await bench.types()
        if found not in states.EXECUTION["stop"][0]:
            with pytest.raises(errors.InvalidTransition) as refused:
                await stop(held.execution_id, actor="me")
            assert_names(refused.value, found, "stop")
            assert await bench.types() == before
            continue
        stopped = await stop(held.execution_id, actor="me", reason="enough")
        if found == RUNNING:
            assert (stopped.status, stopped.wanted, stopped.reason) == (found, "stop", "enough")
            assert (await bench.types())[len(before) :] == ["execution.stop_requested"]
            continue
        assert stopped.status == ExecutionStatus.CANCELLED
        assert stopped.ended_at is not None
        assert await bench.cells(held.batch_id) == [CellStatus.CANCELLED]
        assert (await bench.types())[len(before) :] == ["execution.cancelled"]


@pytest.mark.parametrize("kind", COMMANDS)
async def test_settling(bench: StoreBench, kind: Kind) -> None:
    to = states.EXECUTION[COMMANDS[kind]][1]
    for found in ExecutionStatus:
        [held] = await bench.claimed()
        await bench.put(held.execution_id, found)
        before = await bench.types()
        answer = await bench.settle(held, kind, reason="because")
        after = await bench.store.executions.get(held.execution_id)
        if found == RUNNING:
            assert answer is None
            assert (after.status, after.owner) == (to, None)
            assert (after.ended_at is not None) == (to in states.TERMINAL_EXECUTION)
            assert await bench.cells(held.batch_id) == [CELL_AFTER[kind]]
        else:
            assert after.status == found
            assert await bench.types() == before
            if found != to:
                assert isinstance(answer, errors.Fenced)
                assert answer.details["state"] == found
        await bench.put(held.execution_id, "COMPLETED")


async def test_only_pending_executions_are_claimed(bench: StoreBench) -> None:
    await bench.runner()
    for found in ExecutionStatus:
        execution = await bench.execution()
        await bench.put(execution.id, found)
        claimed = [a.execution_id for a in await bench.claim()]
        assert claimed == ([execution.id] if found == PENDING else [])


@pytest.mark.parametrize("command", ["start", "stop"])
async def test_starting_and_stopping_a_batch(bench: StoreBench, command: str) -> None:
    batches = bench.store.batches
    sources, to = states.BATCH[command]
    told = {"start": "batch.started", "stop": "batch.cancelled"}[command]

    async def act(id: str) -> BatchStatus:
        if command == "start":
            return (await batches.start(id, actor="me")).status
        return (await batches.stop(id, "enough", actor="me")).status

    for found in BatchStatus:
        batch = await bench.batch()
        await bench.put_batch(batch.id, found)
        before = await bench.types()
        if found in sources:
            assert await act(batch.id) == to
            assert (await bench.types())[len(before) :] == [told]
        else:
            with pytest.raises(errors.InvalidTransition) as refused:
                await act(batch.id)
            assert_names(refused.value, found, command)
            assert await bench.types() == before


async def test_only_running_batches_are_closed(bench: StoreBench) -> None:
    for found in BatchStatus:
        batch = await bench.batch()
        async with bench.db.connection() as conn:
            await conn.execute("UPDATE cells SET status = 'DONE'")
        await bench.put_batch(batch.id, found)
        closed = await bench.store.batches.close(actor="me")
        assert closed == ([batch.id] if found == BatchStatus.RUNNING else [])
        assert await bench.store.batches.close(actor="me") == []


async def test_a_batch_is_closed_when_its_last_cell_has_ended(bench: StoreBench) -> None:
    for cell in CellStatus:
        batch = await bench.batch(cases=2, variants=1)
        async with bench.db.connection() as conn:
            sql = "UPDATE cells SET status = %s WHERE batch_id = %s AND ordinal = %s"
            await conn.execute(sql, ("DONE", batch.id, 0))
            await conn.execute(sql, (str(cell), batch.id, 1))
        closed = await bench.store.batches.close(actor="me")
        assert closed == ([batch.id] if cell in states.TERMINAL_CELL else [])
        if closed:
            [event] = await bench.events(types=["batch.completed"], batch_id=batch.id)
            assert sum(event.payload["counts"].values()) == 2


@pytest.mark.parametrize("command", ["ready", "drain"])
async def test_a_runners_statuses(bench: StoreBench, command: str) -> None:
    epoch = await bench.runner()
    leases = bench.store.leases
    sources, to = states.RUNNER[command]
    for found in states.RunnerStatus:
        async with bench.db.connection() as conn:
            await conn.execute("UPDATE leases SET status = %s", (str(found),))
        act = leases.ready("r1", epoch) if command == "ready" else leases.drain("r1")
        if found in sources or found == to:
            await act
            assert [r.status for r in await leases.runners()] == [to]
        else:
            with pytest.raises(errors.InvalidTransition) as refused:
                await act
            assert_names(refused.value, found, command)


async def test_unknown_things_are_named(bench: StoreBench) -> None:
    store = bench.store
    for error, call in [
        (errors.UnknownExecution, store.executions.get("none")),
        (errors.UnknownExecution, store.executions.request_stop("none", actor="me")),
        (errors.UnknownExecution, store.executions.steps("none")),
        (errors.UnknownExecution, store.executions.step("none", "cp")),
        (errors.UnknownExecution, store.branches.list("none")),
        (errors.Fenced, store.executions.scoring("none", 1, "r1")),
        (errors.UnknownBatch, store.batches.get("none")),
        (errors.UnknownBatch, store.batches.progress("none")),
        (errors.UnknownBatch, store.batches.start("none", actor="me")),
        (errors.UnknownBatch, store.batches.stop("none", None, actor="me")),
        (errors.UnknownBatch, store.cells.list("none")),
        (errors.UnknownProject, store.projects.get("none")),
        (errors.UnknownProject, store.projects.versions("none")),
        (errors.UnknownVersion, store.projects.get("p", "none")),
        (errors.UnknownVersion, store.projects.by_version("none")),
        (errors.NotFound, store.leases.ready("none", 1)),
        (errors.NotFound, store.leases.drain("none")),
    ]:
        with pytest.raises(error, match="none") as raised:
            await call
        assert raised.value.details["field"]
        assert raised.value.details["reason"]
