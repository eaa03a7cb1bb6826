"""Answers that cases bring along: given in order, once each, on whatever way an execution takes."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests import forest, machines
from tests.forest import marked
from tests.integration.travel_bench import TravelBench, back, eventually, fork, travel
from tests.integration.tree_bench import TreeBench
from tests.travels import HELD, RAN
from wtb_ray import errors
from wtb_ray.model import Batch, Case, FileTrackingConfig, new_id
from wtb_ray.states import ExecutionStatus as E

__all__ = ["travel"]

TRACKED = pytest.mark.parametrize(
    "spec", [{}, {"file_tracking": FileTrackingConfig()}], ids=["untracked", "tracked"]
)
K = {"key": "k", "trail": []}


async def asked(
    travel: TravelBench,
    entry: str,
    answers: Sequence[Any],
    *,
    bindings: Sequence[Mapping[str, str]] = ({},),
    given: Mapping[str, Any] = K,
    spec: Mapping[str, Any] | None = None,
    **more: Any,
) -> tuple[TreeBench, Batch]:
    """A batch of one case with these answers, that has begun."""
    bench = TreeBench(travel, await travel.register(entry, **(spec or {})))
    return bench, await bench.batch(bindings, [given], answers=answers, **more)


async def only(bench: TreeBench, batch: Batch) -> str:
    (id,) = {cell.execution_id for cell in await bench.cells(batch)}
    assert id is not None
    return id


async def rounds(bench: TreeBench, batch: Batch, most: int = 9) -> None:
    """Runs what waits until nothing does."""
    for _ in range(most):
        await bench.round(batch)
        found = (await bench.travel.store.executions.list(100, batch_id=batch.id)).items
        if all(one.status not in (E.PENDING, E.RUNNING) for one in found):
            return


@pytest.mark.parametrize("policy", ["fail", "wait"])
async def test_cells_that_share_an_execution_share_its_answer(
    travel: TravelBench, policy: str
) -> None:
    key = new_id("k")
    bench, batch = await asked(
        travel,
        "tests.forest:asking",
        ["red"],
        bindings=[{}, {"after": "a"}, {"after": "b"}, {"one": "a"}],
        given={"key": key, "trail": []},
        spec={"variants": marked("after", "one")},
        interrupts=policy,
    )
    ended = await bench.run(batch)
    assert (ended.counts, bench.asked) == ({"DONE": 4}, 0)
    assert [state["trail"][1:] for state in (await bench.states(batch)).values()] == [
        ["ask heard red", after] for after in ("after", "after!a", "after!b", "after")
    ]
    assert forest.RAN.pop(key)["ask"] == 2, "once for each of the two ways that led there"
    told = [
        event
        for id in sorted({str(cell.execution_id) for cell in await bench.cells(batch)})
        for event in await travel.events(id)
    ]
    answered = [event.payload for event in told if event.type == "interrupt.answered"]
    assert [payload["prepared"] for payload in answered] == [True, True]
    assert not [event for event in told if event.type == "execution.paused"], "nobody waited"


@TRACKED
async def test_a_crash_neither_asks_again_nor_answers_twice(
    travel: TravelBench, spec: dict[str, Any]
) -> None:
    bench, batch = await asked(travel, "tests.travels:asks_twice", ["1", "2", "3"], spec=spec)
    await bench.round(batch)
    await bench.round(batch)
    id = await only(bench, batch)
    assert (RAN["k"].count("ask"), (await travel.get(id)).status) == (2, E.PENDING)
    HELD.add(("k", "ask answered"))
    await travel.begin(id)
    await eventually(lambda: "ask answered" in RAN["k"])
    await travel.crash(bench.version.version)
    HELD.clear()
    assert (await bench.run(batch)).counts == {"DONE": 1}
    assert (await travel.state(id))["trail"] == ["a", "ask:1,2", "quick", "z"]
    assert len(await travel.told(id, "interrupt.answered")) == 2
    assert (RAN["k"].count("quick"), bench.asked) == (1, 0)


async def test_questions_asked_at_once_are_answered_in_the_order_of_their_nodes(
    travel: TravelBench,
) -> None:
    bench, batch = await asked(travel, "tests.travels:three_ask", [1, None, {"r": 3}])
    assert (await bench.run(batch)).counts == {"DONE": 1}
    trail = (await travel.state(await only(bench, batch)))["trail"]
    assert trail == ["a", "p:1", "q:None", "r:{'r': 3}", "z"]


async def test_a_question_in_a_subgraph_is_answered(travel: TravelBench) -> None:
    bench, batch = await asked(travel, "tests.travels:inner_asks", ["yes"])
    assert (await bench.run(batch)).counts == {"DONE": 1}
    assert "ask:yes" in (await travel.state(await only(bench, batch)))["trail"]
    assert (RAN["k"].count("x"), bench.asked) == (1, 0)


async def test_when_they_are_used_up_the_batch_may_fail_the_cell(travel: TravelBench) -> None:
    bench, batch = await asked(travel, "tests.travels:asks_twice", ["1"], interrupts="fail")
    assert (await bench.run(batch)).counts == {"FAILED": 1}
    (cell,) = await bench.cells(batch)
    assert cell.error is not None
    assert (cell.error["code"], cell.error["message"]) == (
        "interrupt_in_batch",
        "a node asked for an answer, and its case had 1",
    )
    assert RAN["k"].count("ask") == 2


async def test_when_they_are_used_up_the_batch_may_wait_for_somebody(travel: TravelBench) -> None:
    bench, batch = await asked(travel, "tests.travels:three_ask", ["p"], interrupts="wait")
    await rounds(bench, batch)
    id = await only(bench, batch)
    found = await travel.get(id)
    assert (found.status, found.reason) == (E.PAUSED, "interrupt")
    questions = {q["value"]: q["id"] for q in await travel.control.asked(id)}
    assert sorted(questions) == ["q0?", "r0?"]
    answers = {questions["q0?"]: "q", questions["r0?"]: "r"}
    await travel.control.answer(id, answers, actor="me")
    assert (await bench.run(batch)).counts == {"DONE": 1}
    assert (await travel.state(id))["trail"] == ["a", "p:p", "q:q", "r:r", "z"]
    told = await travel.told(id, "interrupt.answered")
    assert [payload["prepared"] for payload in told] == [True, False]


async def test_what_is_gone_back_to_is_answered_as_the_first_time(travel: TravelBench) -> None:
    bench, batch = await asked(travel, "tests.travels:asks_in_a_row", ["1", "2"])
    await rounds(bench, batch)
    id = await only(bench, batch)
    assert (await travel.state(id))["trail"] == ["a", "p:1", "q:2"]
    given = 2
    for step, again in ((2, 1), (1, 2), (1, 2), (3, 0), (0, 2)):
        await back(travel, id, step)
        await travel.control.resume(id, actor="me")
        await rounds(bench, batch)
        found = await travel.get(id)
        assert (found.status, found.reason) == (E.PAUSED, "interrupt")
        assert (await travel.state(id))["trail"] == ["a", "p:1", "q:2"]
        given += again
        assert len(await travel.told(id, "interrupt.answered")) == given, step
    [question] = await travel.control.asked(id)
    await travel.answer(id, {question["id"]: "3"})
    assert (await travel.state(id))["trail"] == ["a", "p:1", "q:2", "r:3"]


async def test_a_fork_asks_somebody(travel: TravelBench) -> None:
    bench, batch = await asked(travel, "tests.travels:asks_in_a_row", ["1", "2", "3"])
    await bench.run(batch)
    id = await only(bench, batch)
    forked = await fork(travel, id, await travel.at(id, 1))
    found = await travel.resume(forked.id)
    assert (found.status, found.reason) == (E.PAUSED, "interrupt")


async def test_cells_that_run_again_are_answered_again(travel: TravelBench) -> None:
    bench, batch = await asked(travel, "tests.travels:asks_twice", ["1"], interrupts="fail")
    await bench.run(batch)
    first = await only(bench, batch)
    await travel.store.batches.rerun(batch.id, ["FAILED"], actor="me")
    assert (await bench.run(batch)).counts == {"FAILED": 1}
    again = await only(bench, batch)
    assert again != first
    assert len(await travel.told(again, "interrupt.answered")) == 1


async def test_an_answer_that_does_not_fit_its_question_fails_the_cell(
    travel: TravelBench,
) -> None:
    bench, batch = await asked(
        travel,
        "tests.steered:asking",
        [{"items": ["no number"]}],
        given={"key": "k", "done": []},
    )
    assert (await bench.run(batch)).counts == {"FAILED": 1}
    (cell,) = await bench.cells(batch)
    assert cell.error is not None
    assert cell.error["code"] == "invalid_answer"


async def test_a_pause_that_comes_with_the_question_keeps_the_answer(travel: TravelBench) -> None:
    bench, batch = await asked(travel, "tests.travels:asks", ["yes"])
    await travel.store.executions.admit(batch.id, 1, actor="scheduler")
    id = await only(bench, batch)
    HELD.add(("k", "quick"))
    await travel.begin(id)
    await eventually(lambda: "ask" in RAN["k"])
    await travel.control.pause(id, actor="me")
    await travel.heard(id, "pause")
    HELD.clear()
    found = await travel.rest(id)
    assert (found.status, found.reason) == (E.PAUSED, "requested")
    assert [q["answered"] for q in await travel.control.asked(id)] == [True]
    assert (await travel.resume(id)).status == E.COMPLETED
    assert len(await travel.told(id, "interrupt.answered")) == 1


async def test_a_runner_that_drains_leaves_an_answered_question_to_the_next(
    travel: TravelBench,
) -> None:
    bench, batch = await asked(travel, "tests.travels:asks", ["yes"], interrupts="fail")
    await bench.round(batch)
    id = await only(bench, batch)
    (await travel.runner(bench.version.version))._performing.drain()
    found = await travel.go(id)
    assert (found.status, found.reason, found.attempt) == (E.PENDING, "drained", 0)
    await travel.crash(bench.version.version)
    assert (await bench.run(batch)).counts == {"DONE": 1}
    assert len(await travel.told(id, "interrupt.answered")) == 1


async def test_a_case_with_other_answers_is_another_case(travel: TravelBench) -> None:
    _, batch = await asked(travel, "tests.travels:asks", ["yes"])
    extend = travel.store.batches.extend
    same = Case(id="c0", input=K, answers=("yes",))
    other = same.model_copy(update={"answers": ("no",)})
    await extend(batch.id, [same], [], None, max_cells=9, actor="me")
    with pytest.raises(errors.Conflict, match="answers"):
        await extend(batch.id, [other], [], None, max_cells=9, actor="me")


@pytest.mark.parametrize("seed", [3, 5, 6, 9, 11])  # graphs that ask, in one node or several
async def test_sharing_and_crashes_change_no_answer(travel: TravelBench, seed: int) -> None:
    chance = random.Random(seed)
    tracked = chance.random() < 0.4
    spec: dict[str, Any] = {"variants": machines.variants(seed)}
    if tracked:
        spec["file_tracking"] = FileTrackingConfig()
    nodes = chance.sample(sorted(machines.variants(seed)), 3)
    rows = [{}, *({node: chance.choice(["two", "five"])} for node in nodes)]
    found = []
    for share_prefix in (True, False):
        given = {"key": new_id("k"), "files": tracked, "trail": [], "sums": {}}
        bench, batch = await asked(
            travel,
            f"tests.machines:g{seed}",
            [f"answer {i}" for i in range(99)],
            bindings=rows,
            given=given,
            spec=spec,
            share_prefix=share_prefix,
            interrupts="fail",
        )
        bench.crash_at = sorted(chance.sample(range(1, 8), 2))
        assert (await bench.run(batch)).counts == {"DONE": len(rows)}
        states = await bench.states(batch)
        found.append([{**state, "key": None} for state in states.values()])
    assert found[0] == found[1]
    heard = [entry for state in found[0] for entry in state["trail"] if "answer " in entry]
    assert "answer 0" in heard[0]
