"""Pause, resume, step, retry, breakpoints and answers, with crashes where they hurt most."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.integration.graph_bench import GraphBench, Ran
from tests.integration.travel_bench import TravelBench, eventually, travel
from tests.travels import HELD, RAN
from wtb_ray import errors, states
from wtb_ray.db import Database
from wtb_ray.model import FileTrackingConfig
from wtb_ray.states import ExecutionStatus as E

__all__ = ["travel"]

TRACKED = {"file_tracking": FileTrackingConfig()}
BOTH = pytest.mark.parametrize("spec", [TRACKED, {}], ids=["tracked", "untracked"])
K: dict[str, Any] = {"key": "k", "trail": [], "count": 0}


async def test_a_waiting_execution_pauses_at_once_and_goes_on(travel: TravelBench) -> None:
    version = await travel.register("tests.travels:line")
    id = await travel.create(version, K)
    paused = await travel.control.pause(id, actor="me")
    assert (paused.status, paused.reason) == (E.PAUSED, "requested")
    done = await travel.resume(id)
    assert (done.status, await travel.state(id)) == (E.COMPLETED, K | {"trail": ["a", "b", "c"]})


async def test_a_running_execution_pauses_after_the_step_that_runs(travel: TravelBench) -> None:
    version = await travel.register("tests.travels:line")
    id = await travel.create(version, K)
    HELD.add(("k", "b"))
    await travel.begin(id)
    await eventually(lambda: RAN["k"] == ["a", "b"])
    asked = await travel.control.pause(id, actor="me", reason="lunch")
    assert (asked.status, asked.wanted) == (E.RUNNING, "pause")
    await travel.control.pause(id, actor="me")
    HELD.clear()
    paused = await travel.rest(id)
    assert (paused.status, paused.reason, paused.wanted) == (E.PAUSED, "requested", "run")
    assert RAN["k"] == ["a", "b"]
    assert len(await travel.told(id, "execution.pause_requested")) == 1
    assert (await travel.resume(id)).status == E.COMPLETED
    assert RAN["k"] == ["a", "b", "c"]


@BOTH
async def test_no_recovery_runs_on_past_a_pause_that_was_asked_for(
    travel: TravelBench, spec: dict[str, Any]
) -> None:
    version = await travel.register("tests.travels:line", **spec)
    id = await travel.create(version, K)
    HELD.add(("k", "b"))
    await travel.begin(id)
    await eventually(lambda: RAN["k"] == ["a", "b"])
    await travel.control.pause(id, actor="me")
    await travel.crash(version.version)
    paused = await travel.get(id)
    assert (paused.status, paused.reason, paused.wanted) == (E.PAUSED, "requested", "run")
    HELD.clear()
    assert (await travel.resume(id)).status == E.COMPLETED
    assert RAN["k"] == ["a", "b", "b", "c"]


async def test_step_by_step_from_the_very_beginning(travel: TravelBench) -> None:
    version = await travel.register("tests.travels:line")
    id = await travel.create(version, K)
    await travel.control.pause(id, actor="me")
    for nodes in (["a"], ["a", "b"]):
        stepped = await travel.step(id)
        assert (stepped.status, stepped.reason) == (E.PAUSED, "requested")
        assert RAN["k"] == nodes
        assert (await travel.state(id))["trail"] == nodes
    assert (await travel.step(id)).status == E.COMPLETED
    assert [s.step for s in await travel.steps(id)] == [-1, 0, 1, 2, 3]


async def crashed_after(travel: TravelBench, id: str, **how: Any) -> None:
    """A runner takes the execution, and dies when its last checkpoint is stored, before it says so."""
    found = await travel.get(id)
    version = travel.versions[found.version]
    doomed = await GraphBench.make(
        travel.db, version.spec.entry, **version.spec.model_dump(exclude={"name", "entry"})
    )
    (one,) = await travel.store.executions.claim(doomed.runner, doomed.epoch, version.version, 10)
    await Ran(doomed, one).go(
        ran=one.ran, passed=one.passed, one_step=one.wanted == "step", answers=one.answers
    )
    await travel.store.leases.bury(doomed.runner, doomed.epoch, "test", actor="lifecycle")


async def test_a_crash_after_the_step_makes_no_second_one(travel: TravelBench) -> None:
    version = await travel.register("tests.travels:line")
    id = await travel.create(version, K)
    await travel.control.pause(id, actor="me")
    for nodes in (["a"], ["a", "b"]):
        await travel.control.step(id, actor="me")
        await crashed_after(travel, id)
        assert RAN["k"] == nodes
        assert (await travel.get(id)).status == E.PENDING
        assert (await travel.go(id)).status == E.PAUSED
        assert RAN["k"] == nodes
    assert (await travel.step(id)).status == E.COMPLETED
    assert RAN["k"] == ["a", "b", "c"]


async def test_a_drain_within_the_step_makes_no_second_one(travel: TravelBench) -> None:
    version = await travel.register("tests.travels:line")
    id = await travel.create(version, K)
    await travel.control.pause(id, actor="me")
    HELD.add(("k", "a"))
    await travel.control.step(id, actor="me")
    runner = await travel.begin(id)
    await eventually(lambda: RAN["k"] == ["a"])
    draining = asyncio.create_task(runner.drain())
    await travel.heard(id, "drained")
    HELD.clear()
    await draining
    await travel.presume_dead(version.version)
    found = await travel.get(id)
    if found.status == E.PENDING:
        found = await travel.go(id)
    assert (found.status, RAN["k"]) == (E.PAUSED, ["a"])


@pytest.mark.parametrize("own", [True, False], ids=["compiled", "given"])
async def test_no_recovery_passes_a_breakpoint(travel: TravelBench, own: bool) -> None:
    """The runner dies between the checkpoint and the pause that the breakpoint means."""
    entry, given = ("stopping", ()) if own else ("line", ("before:b", "after:c"))
    version = await travel.register(f"tests.travels:{entry}")
    id = await travel.create(version, K, breakpoints=given)
    await crashed_after(travel, id)
    found = await travel.go(id)
    assert (found.status, found.reason, RAN["k"]) == (E.PAUSED, "breakpoint", ["a"])
    await travel.control.resume(id, actor="me")
    await crashed_after(travel, id)
    assert RAN["k"] == ["a", "b", "c"]
    found = await travel.get(id)
    if own:
        found = await travel.go(id)
        assert (found.status, found.reason) == (E.PAUSED, "breakpoint")
        found = await travel.resume(id)
        assert RAN["k"] == ["a", "b", "c", "d"]
    else:
        found = await travel.go(id)
    assert found.status == E.COMPLETED


async def test_a_crash_after_a_breakpoint_was_passed_does_not_stop_there_again(
    travel: TravelBench,
) -> None:
    version = await travel.register("tests.travels:line")
    id = await travel.create(version, K, breakpoints=("before:b",))
    assert (await travel.go(id)).reason == "breakpoint"
    HELD.add(("k", "b"))
    await travel.control.resume(id, actor="me")
    await travel.begin(id)
    await eventually(lambda: RAN["k"] == ["a", "b"])
    await travel.crash(version.version)
    HELD.clear()
    assert (await travel.go(id)).status == E.COMPLETED
    assert RAN["k"] == ["a", "b", "b", "c"]


async def test_breakpoints_set_and_taken_away_while_it_runs(travel: TravelBench) -> None:
    version = await travel.register("tests.travels:line")
    id = await travel.create(version, K, breakpoints=("before:b",))
    HELD.add(("k", "a"))
    await travel.begin(id)
    await eventually(lambda: RAN["k"] == ["a"])
    await travel.control.set_breakpoints(id, ["after:b"], actor="me")
    HELD.clear()
    paused = await travel.rest(id)
    assert (paused.reason, RAN["k"], paused.breakpoints) == (
        "breakpoint",
        ["a", "b"],
        ("after:b",),
    )
    assert (await travel.resume(id)).status == E.COMPLETED
    with pytest.raises(errors.InvalidTransition):
        await travel.control.set_breakpoints(id, [], actor="me")


async def test_a_breakpoint_set_during_the_first_step_after_a_resume_holds(
    travel: TravelBench,
) -> None:
    version = await travel.register("tests.travels:line")
    id = await travel.create(version, K)
    await travel.control.pause(id, actor="me")
    await travel.step(id)
    HELD.add(("k", "b"))
    await travel.control.resume(id, actor="me")
    await travel.begin(id)
    await eventually(lambda: RAN["k"] == ["a", "b"])
    await travel.control.set_breakpoints(id, ["after:b"], actor="me")
    HELD.clear()
    assert ((await travel.rest(id)).reason, RAN["k"]) == ("breakpoint", ["a", "b"])


async def test_a_breakpoint_set_during_the_step_before_it_holds(travel: TravelBench) -> None:
    version = await travel.register("tests.travels:line")
    id = await travel.create(version, K)
    HELD.add(("k", "a"))
    await travel.begin(id)
    await eventually(lambda: RAN["k"] == ["a"])
    await travel.control.set_breakpoints(id, ["before:b"], actor="me")
    HELD.clear()
    assert ((await travel.rest(id)).reason, RAN["k"]) == ("breakpoint", ["a"])
    assert (await travel.resume(id)).status == E.COMPLETED


@BOTH
async def test_nobody_is_asked_twice_although_the_answered_node_crashes(
    travel: TravelBench, spec: dict[str, Any]
) -> None:
    version = await travel.register("tests.travels:asks", **spec)
    asked = await travel.run(version, K)
    assert (asked.status, asked.reason) == (E.PAUSED, "interrupt")
    [question] = await travel.control.asked(asked.id)
    HELD.add(("k", "ask answered"))
    await travel.control.answer(asked.id, {question["id"]: "yes"}, actor="me")
    await travel.begin(asked.id)
    await eventually(lambda: RAN["k"].count("ask") == 2)
    await travel.crash(version.version)
    HELD.clear()
    done = await travel.go(asked.id)
    assert (done.status, done.reason) == (E.COMPLETED, None)
    assert sorted((await travel.state(done.id))["trail"]) == ["a", "ask:yes", "quickquick", "z"]
    assert RAN["k"].count("quick") == 1, "it had finished at the restore point of the question"
    assert len(await travel.told(done.id, "execution.paused")) == 1
    if spec:
        assert await travel.files(done.id) == {
            "all.txt": "quick",
            "quick.txt": "quick",
            "asked.txt": "asked",
            "answer.txt": "yes",
        }


async def test_several_questions_answered_at_once(travel: TravelBench) -> None:
    version = await travel.register("tests.travels:three_ask")
    asked = await travel.run(version, K)
    questions = await travel.control.asked(asked.id)
    assert [q["value"] for q in questions] == ["p0?", "q0?", "r0?"]
    with pytest.raises(errors.Conflict) as refused:
        await travel.control.resume(asked.id, actor="me")
    assert sorted(refused.value.details["asked"]) == sorted(q["id"] for q in questions)
    done = await travel.answer(asked.id, {q["id"]: q["value"][0] for q in questions})
    assert done.status == E.COMPLETED
    assert (await travel.state(done.id))["trail"] == ["a", "p:p", "q:q", "r:r", "z"]


@BOTH
async def test_several_questions_answered_one_by_one(
    travel: TravelBench, spec: dict[str, Any]
) -> None:
    version = await travel.register("tests.travels:three_ask", **spec)
    asked = await travel.run(version, K)
    ids = {q["value"]: q["id"] for q in await travel.control.asked(asked.id)}
    for left, name in ((2, "q"), (1, "r")):
        found = await travel.answer(asked.id, {ids[f"{name}0?"]: name})
        assert (found.status, found.reason) == (E.PAUSED, "interrupt")
        assert len(await travel.control.asked(asked.id)) == left
    with pytest.raises(errors.Conflict) as refused:
        await travel.control.answer(asked.id, {ids["q0?"]: "again"}, actor="me")
    assert refused.value.details["field"] == f"answers.{ids['q0?']}"
    assert (await travel.answer(asked.id, {ids["p0?"]: "p"})).status == E.COMPLETED
    assert (await travel.state(asked.id))["trail"] == ["a", "p:p", "q:q", "r:r", "z"]
    assert RAN["k"].count("q answered") == 1


async def test_answers_kept_until_all_are_there(travel: TravelBench) -> None:
    version = await travel.register("tests.travels:three_ask")
    asked = await travel.run(version, K)
    for question in await travel.control.asked(asked.id):
        given = {question["id"]: question["value"]}
        assert (
            await travel.control.answer(asked.id, given, resume=False, actor="me")
        ).status == E.PAUSED
        with pytest.raises(errors.Conflict, match="answered"):
            await travel.control.answer(asked.id, given, resume=False, actor="me")
    assert (await travel.resume(asked.id)).status == E.COMPLETED
    assert (await travel.state(asked.id))["trail"] == ["a", "p:p0?", "q:q0?", "r:r0?", "z"]


@BOTH
async def test_a_node_that_asks_twice(travel: TravelBench, spec: dict[str, Any]) -> None:
    version = await travel.register("tests.travels:asks_twice", **spec)
    asked = await travel.run(version, K)
    [first] = await travel.control.asked(asked.id)
    await travel.control.answer(asked.id, {first["id"]: "1"}, actor="me")
    found = await travel.go(asked.id)
    assert (found.status, found.reason) == (E.PAUSED, "interrupt")
    [second] = await travel.control.asked(asked.id)
    assert (second["value"], second["answered"]) == ("ask1?", False)
    assert second["id"] != first["id"]
    HELD.add(("k", "ask answered"))
    await travel.control.answer(asked.id, {second["id"]: "2"}, actor="me")
    await travel.begin(asked.id)
    await eventually(lambda: "ask answered" in RAN["k"])
    await travel.crash(version.version)
    HELD.clear()
    assert (await travel.go(asked.id)).status == E.COMPLETED
    assert (await travel.state(asked.id))["trail"] == ["a", "ask:1,2", "quick", "z"]
    assert RAN["k"].count("quick") == 1


@BOTH
async def test_a_question_in_a_subgraph(travel: TravelBench, spec: dict[str, Any]) -> None:
    version = await travel.register("tests.travels:inner_asks", **spec)
    asked = await travel.run(version, K)
    [question] = await travel.control.asked(asked.id)
    HELD.add(("k", "ask answered"))
    await travel.control.answer(asked.id, {question["id"]: "yes"}, actor="me")
    await travel.begin(asked.id)
    await eventually(lambda: "ask answered" in RAN["k"])
    await travel.crash(version.version)
    HELD.clear()
    assert (await travel.go(asked.id)).status == E.COMPLETED
    assert (await travel.state(asked.id))["trail"][-4:] == ["x", "ask:yes", "w", "quick", "z"][-4:]
    assert (RAN["k"].count("x"), RAN["k"].count("quick")) == (1, 1)
    assert len(await travel.told(asked.id, "execution.paused")) == 1


async def test_answers_to_what_nobody_asked(travel: TravelBench) -> None:
    version = await travel.register("tests.travels:line")
    id = await travel.create(version, K, breakpoints=("before:b",))
    await travel.go(id)
    with pytest.raises(errors.Conflict, match="not asked"):
        await travel.control.answer(id, {"x": 1}, actor="me")
    assert await travel.control.asked(id) == []


@BOTH
async def test_retry_goes_on_where_it_failed(travel: TravelBench, spec: dict[str, Any]) -> None:
    version = await travel.register("tests.travels:failing", **spec)
    failed = await travel.run(version, K)
    assert failed.status == E.FAILED
    assert failed.error is not None
    assert failed.error.node == "fail"
    await travel.control.retry(failed.id, actor="me")
    done = await travel.go(failed.id)
    assert (done.status, done.error) == (E.COMPLETED, None)
    assert sorted((await travel.state(done.id))["trail"]) == ["a", "fail", "quickquick", "z"]
    assert RAN["k"].count("a") == 1
    assert RAN["k"].count("quick") == (2 if spec else 1), "its files went with the failed step"
    with pytest.raises(errors.InvalidTransition):
        await travel.control.retry(done.id, actor="me")


@BOTH
async def test_retry_with_a_higher_limit(travel: TravelBench, spec: dict[str, Any]) -> None:
    version = await travel.register("tests.travels:line", **spec)
    id = await travel.create(version, K, recursion_limit=2)
    failed = await travel.go(id)
    assert failed.error is not None
    assert (failed.status, failed.error.type) == (E.FAILED, "GraphRecursionError")
    await travel.control.retry(id, actor="me", recursion_limit=10)
    assert (await travel.go(id)).status == E.COMPLETED
    assert RAN["k"] == ["a", "b", "c"]


Command = Callable[[TravelBench, str], Awaitable[Any]]

COMMANDS: dict[str, tuple[str, Command]] = {
    "pause": ("pause", lambda t, id: t.control.pause(id, actor="me")),
    "resume": ("resume", lambda t, id: t.control.resume(id, actor="me")),
    "step": ("resume", lambda t, id: t.control.step(id, actor="me")),
    "retry": ("retry", lambda t, id: t.control.retry(id, actor="me")),
    "answer": ("resume", lambda t, id: t.control.answer(id, {}, actor="me")),
    "hold": ("resume", lambda t, id: t.control.hold(id)),
    "stop": ("stop", lambda t, id: t.store.executions.request_stop(id, actor="me")),
}


@pytest.mark.parametrize("command", [*COMMANDS, "swap", "rollback", "fork", "breakpoints"])
async def test_every_command_in_every_status(travel: TravelBench, command: str) -> None:
    """It does what the tables say, or refuses naming what it found, and changes nothing."""
    version = await travel.register("tests.travels:line")
    given = COMMANDS | {
        "swap": (
            "resume",
            lambda t, id: t.control.swap(id, version, {}, fingerprints={}, actor="me"),
        ),
    }
    for found in E:
        done = await travel.run(version, K)
        await put(travel.db, done.id, found)
        head = str(done.head)
        name, run = given.get(command, (command, None))
        if command == "rollback":
            run = lambda t, id, head=head: t.branches.roll_back(id, head, actor="me")  # noqa: E731
        elif command == "fork":
            run = lambda t, id, head=head: t.branches.fork(  # noqa: E731
                id, head, version=version, binding={}, actor="me"
            )
        elif command == "breakpoints":
            run = lambda t, id: t.control.set_breakpoints(id, ["before:a"], actor="me")  # noqa: E731
        assert run is not None
        before = await everything(travel, done.id)
        if command == "fork":
            allowed, to = frozenset(E), found
        elif command == "breakpoints":
            allowed, to = frozenset(E) - states.TERMINAL_EXECUTION, found
        else:
            allowed, to = states.EXECUTION[name]
        if found not in allowed:
            with pytest.raises(errors.InvalidTransition) as refused:
                await run(travel, done.id)
            assert refused.value.details["state"] == found
            assert await everything(travel, done.id) == before
            continue
        await run(travel, done.id)
        after = (await travel.get(done.id)).status
        if found == E.RUNNING or command in ("hold", "swap"):
            assert after == found
        else:
            assert after == to


async def put(db: Database, id: str, status: E) -> None:
    """Puts an execution into a status without a command."""
    async with db.connection() as conn:
        await conn.execute(
            "UPDATE executions SET status = %s, owner = %s, ended_at = NULL WHERE id = %s",
            (status, "r" if status == E.RUNNING else None, id),
        )


async def everything(travel: TravelBench, id: str) -> Any:
    row = await travel.db.row("SELECT * FROM executions WHERE id = %s", (id,))
    return row, len(await travel.events(id)), await travel.branches.list(id)


async def test_unknown_ids_are_told(travel: TravelBench) -> None:
    version = await travel.register("tests.travels:line")
    done = await travel.run(version, K)
    for _, run in COMMANDS.values():
        with pytest.raises(errors.UnknownExecution):
            await run(travel, "e-nobody")
    with pytest.raises(errors.UnknownExecution):
        await travel.branches.roll_back("e-nobody", "x", actor="me")
    with pytest.raises(errors.UnknownCheckpoint):
        await travel.branches.roll_back(done.id, "x", actor="me")
    with pytest.raises(errors.UnknownCheckpoint):
        await travel.branches.fork(done.id, "x", version=version, binding={}, actor="me")
    with pytest.raises(errors.UnknownNode):
        await travel.branches.place_of_node(done.id, "nobody")
