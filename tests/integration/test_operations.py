"""Changing the state of a paused execution, and trying a node out, in a runner."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.filework import names
from tests.integration.test_scheduling import Bench, bench
from tests.integration.test_tracking import TRACKED, start, until
from wtb_ray import errors
from wtb_ray.actors.runner import VariantRunner
from wtb_ray.model import Execution
from wtb_ray.states import ExecutionStatus as E
from wtb_ray.views import read_state

__all__ = ["bench"]


async def paused(
    bench: Bench, tmp_path: Path, at: str = "before:third", **more: Any
) -> tuple[Execution, VariantRunner]:
    """An execution of first, second, third that stands at a breakpoint, and its runner."""
    _, made = await start(bench, "line", {"log": str(tmp_path / "log")}, breakpoints=(at,), **more)
    found = await until(bench, made.id)
    assert (found.status, found.reason) == (E.PAUSED, "breakpoint")
    runner = next(iter(bench.runners.runners.values()))
    return found, runner


async def state(bench: Bench, id: str) -> dict[str, Any]:
    execution = await bench.store.executions.get(id)
    assert execution.head is not None
    return await read_state(bench.store.db, execution.thread_id, execution.head)


async def test_a_changed_state_is_what_the_next_node_sees(bench: Bench, tmp_path: Path) -> None:
    held, runner = await paused(bench, tmp_path, file_tracking=TRACKED)
    changed = await runner.change_state(held.id, {"done": ["mine"]}, None, False, "me")
    assert changed.status == E.PAUSED
    assert (await state(bench, held.id))["done"] == ["first", "second", "mine"]
    await runner.change_state(held.id, {"done": ["only"], "how": "x"}, None, True, "me")
    assert (await state(bench, held.id))["done"] == ["only"], "replaced, not reduced"
    await bench.store.control.resume(held.id, actor="me")
    done = await until(bench, held.id, E.COMPLETED, E.FAILED)
    assert done.status == E.COMPLETED, done.error
    assert (await state(bench, held.id))["done"] == ["only", "third", "first\nsecond\n"]
    told = await bench.store.events.read(_start(), 100, execution_id=held.id)
    changes = [(e.actor, e.payload) for e in told if e.type == "state.changed"]
    assert [(actor, p["channels"], p["replaced"]) for actor, p in changes] == [
        ("me", ["done"], False),
        ("me", ["done", "how"], True),
    ]


def _start() -> Any:
    from wtb_ray.events import Cursor

    return Cursor.START


async def test_a_change_may_say_whose_write_it_is(bench: Bench, tmp_path: Path) -> None:
    held, runner = await paused(bench, tmp_path, at="before:second")
    await runner.change_state(held.id, {"done": ["skipped"], "path": "x"}, "second", False, "me")
    await bench.store.control.resume(held.id, actor="me")
    done = await until(bench, held.id, E.COMPLETED, E.FAILED)
    assert names(tmp_path / "log") == ["first", "third"]
    assert done.status == E.COMPLETED


async def test_a_change_after_parallel_nodes_keeps_the_position(
    bench: Bench, tmp_path: Path
) -> None:
    state_ = {"log": str(tmp_path / "log"), "gate": str(tmp_path)}
    _, made = await start(bench, "parallel", state_, breakpoints=("before:last",))
    await until(bench, made.id)
    runner = next(iter(bench.runners.runners.values()))
    for name in ("mine", "again"):
        await runner.change_state(made.id, {"done": [name]}, None, False, "me")
    [newest, *_] = await bench.store.executions.steps(made.id)
    assert newest.next_nodes == ("last",)
    await bench.store.control.resume(made.id, actor="me")
    done = await until(bench, made.id, E.COMPLETED, E.FAILED)
    assert done.status == E.COMPLETED, done.error
    assert (await state(bench, made.id))["done"][2:4] == ["mine", "again"]
    assert names(tmp_path / "log").count("last") == 1


@pytest.mark.parametrize(
    ("values", "as_node", "field"),
    [
        ({"nothing": 1}, None, "state.nothing"),
        ({"done": "text"}, None, "state.done"),
        ({"done": ["x"]}, "nobody", "as_node"),
    ],
)
async def test_what_does_not_fit_is_refused_by_name(
    bench: Bench, tmp_path: Path, values: dict[str, Any], as_node: str | None, field: str
) -> None:
    held, runner = await paused(bench, tmp_path)
    before = await state(bench, held.id)
    with pytest.raises(errors.InvalidState) as refused:
        await runner.change_state(held.id, values, as_node, False, "me")
    assert refused.value.details["field"] == field
    assert await state(bench, held.id) == before
    assert (await bench.store.executions.get(held.id)).head == held.head


async def test_who_does_not_rest_is_not_changed(bench: Bench, tmp_path: Path) -> None:
    held, runner = await paused(bench, tmp_path)
    await bench.store.control.resume(held.id, actor="me")
    await until(bench, held.id, E.COMPLETED)
    with pytest.raises(errors.InvalidTransition) as refused:
        await runner.change_state(held.id, {"done": []}, None, False, "me")
    assert refused.value.details["state"] == E.COMPLETED
    with pytest.raises(errors.UnknownExecution):
        await runner.change_state("none", {"done": []}, None, False, "me")


async def test_of_two_changes_and_a_resume_nothing_is_lost(bench: Bench, tmp_path: Path) -> None:
    held, runner = await paused(bench, tmp_path)
    tries = [runner.change_state(held.id, {"done": [str(n)]}, None, False, "me") for n in range(4)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    stored = [n for n, a in enumerate(answers) if not isinstance(a, BaseException)]
    assert all(isinstance(a, (Execution, errors.Fenced)) for a in answers)
    assert stored
    done = (await state(bench, held.id))["done"]
    assert sorted(done[2:]) == [str(n) for n in stored]


async def test_a_node_is_tried_and_nothing_moves(bench: Bench, tmp_path: Path) -> None:
    held, runner = await paused(bench, tmp_path, file_tracking=TRACKED)
    before = await state(bench, held.id)
    outcome = await runner.execute_node(held.id, "third", None, "me")
    assert outcome.error is None
    assert outcome.update == {"done": ["third", "first\nsecond\n"]}, "it sees the files"
    given = {**before, "how": "fail"}
    failed = await runner.execute_node(held.id, "second", given, "me")
    assert failed.error is not None
    assert (failed.error.type, failed.error.message) == ("ValueError", "no")
    with pytest.raises(errors.UnknownNode):
        await runner.execute_node(held.id, "nobody", None, "me")
    assert await state(bench, held.id) == before
    assert (await bench.store.executions.get(held.id)).epoch == held.epoch
    found = await bench.store.files.manifest_at(held.id)
    assert found == (await bench.store.executions.steps(held.id))[0].manifest


async def test_a_node_that_asks_is_tried(bench: Bench, tmp_path: Path) -> None:
    _, made = await start(bench, "question", {"log": str(tmp_path / "log")})
    await until(bench, made.id)
    runner = next(iter(bench.runners.runners.values()))
    outcome = await runner.execute_node(made.id, "asking", None, "me")
    assert outcome.interrupts == [{"question": "go on?"}]


async def test_a_paused_batch_starts_nothing_and_goes_on_later(bench: Bench) -> None:
    from tests.integration.test_scheduling import SPEC, cases

    version = await bench.register(SPEC)
    batch = await bench.batch(version, [{"double": "triple"}], cases(40))
    async with asyncio.timeout(30):
        while (await bench.store.batches.get(batch.id)).status != "RUNNING":
            await asyncio.sleep(0.01)
    await bench.store.batches.pause(batch.id, actor="me")
    async with asyncio.timeout(30):
        while (await bench.store.executions.list(200, batch_id=batch.id, status=E.RUNNING)).items:
            await asyncio.sleep(0.02)
    before = (await bench.store.batches.progress(batch.id)).counts
    await asyncio.sleep(0.5)
    assert (await bench.store.batches.progress(batch.id)).counts == before
    await bench.store.batches.resume(batch.id, actor="me")
    assert (await bench.ended(batch)).counts == {"DONE": 40}
