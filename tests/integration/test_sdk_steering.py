"""Control and time travel with the SDK, over a socket, with runners behind it."""

import asyncio
from typing import Any

import pytest

from tests import steered
from tests.integration.steering_bench import ASKING, SteeringBench, address, bench
from wtb_ray import errors
from wtb_ray.sdk import AsyncTestBench, WorkflowProject, WTBTestBench

__all__ = ["address", "bench"]

STOP = ["second"]


async def test_pause_look_inside_change_and_go_on(bench: SteeringBench, address: str) -> None:
    async with AsyncTestBench(address) as sdk:
        held = await sdk.run("line", {"x": 1}, breakpoints=STOP)
        assert (held.status, held.next_nodes) == ("PAUSED", ["second"])
        assert await sdk.breakpoints(held.id) == ["before:second"]
        await sdk.set_breakpoints(held.id, ["third"])
        outcome = await sdk.execute_node(held.id, "second", {"x": 5})
        assert outcome.update == {"done": ["second"], "x": 6}
        changed = await sdk.update_state(held.id, {"done": ["mine"]}, replace=True)
        assert changed.state["done"] == ["mine"]
        assert (await sdk.diff_state(held.id))["done"].before == ["first"]
        stepped = await sdk.step(held.id)
        assert (stepped.status, stepped.state["done"]) == ("PAUSED", ["mine", "second"])
        done = await sdk.resume(held.id, {"x": 7})
        assert (done.status, done.state["x"]) == ("COMPLETED", 7)
        assert [n.status for n in await sdk.nodes(held.id)] == ["completed"] * 3
        with pytest.raises(errors.InvalidTransition) as e:
            await sdk.pause(held.id)
        assert e.value.details["state"] == "COMPLETED"


async def test_time_travel(bench: SteeringBench, address: str) -> None:
    async with AsyncTestBench(address) as sdk:
        done = await sdk.run("line", {"x": 1})
        newest, *_, after_first, _, _ = await sdk.get_checkpoints(done.id)
        back = await sdk.rollback_to_node(done.id, "first")
        assert (back.status, back.state["done"]) == ("PAUSED", ["first"])
        assert back.info.head == after_first.id
        forward = await sdk.rollback(done.id, newest.id)
        assert forward.state == done.state
        fork = await sdk.fork(done.id, after_first.id, variant_config={"second": "loud"}, run=True)
        assert (fork.status, fork.state["done"]) == ("COMPLETED", ["first", "SECOND", "third"])
        still = await sdk.fork(done.id, after_first.id, {"x": 9}, breakpoints=["third"])
        assert (still.status, still.state["x"]) == ("PAUSED", 9)
        await sdk.swap(still.id, "second", "marked")
        assert (await sdk.resume(still.id)).state["done"] == ["first", "second!"]
        tree = await sdk.branches(done.id)
        assert {f.id for f in tree.forks} == {fork.id, still.id}

        outcomes = await sdk.rollback_many({done.id: after_first.id, "e0": "c"})
        assert [o.ok for o in outcomes] == [True, False]
        outcomes = await sdk.fork_many([{"execution_id": done.id, "count": 3}])
        assert len(outcomes[0].executions) == 3
        with pytest.raises(errors.Incompatible) as e:
            await sdk.fork(done.id, variant_config={"_workflow": "short"})
        assert e.value.details["nodes"] == ["second"]
        with pytest.raises(errors.InvalidRequest, match="count"):
            await sdk.fork_many([{"execution_id": done.id, "count": 1000}])


async def test_questions_are_answered(bench: SteeringBench, address: str) -> None:
    await bench.register(ASKING)
    async with AsyncTestBench(address) as sdk:
        held = await sdk.run("asking", {})
        [question] = await sdk.interrupts(held.id)
        assert held.interrupts == [{"id": question.id, "value": question.value}]
        with pytest.raises(errors.InvalidAnswer) as e:
            await sdk.answer(held.id, {question.id: {}})
        assert e.value.details["field"] == f"answers.{question.id}"
        done = await sdk.answer(held.id, {question.id: {"approved": True}})
        assert (done.status, done.state["said"]) == ("COMPLETED", {"approved": True})


async def test_an_operation_is_waited_for(bench: SteeringBench, address: str) -> None:
    bench.commands._operating.wait_s = 0.01
    gate = steered.GATES["sdk"] = asyncio.Event()
    async with AsyncTestBench(address) as sdk:
        held = await sdk.run("line", {"x": 1}, breakpoints=STOP)
        trying = asyncio.create_task(sdk.execute_node(held.id, "second", {"gate": "sdk"}))
        await asyncio.sleep(0.1)
        assert not trying.done()
        gate.set()
        assert (await trying).update["done"] == ["second"]

        async def broken(*_: Any) -> Any:
            await asyncio.sleep(0.05)
            raise errors.InvalidState("no", field="state.x", reason="because")

        bench.http.controller.runner = broken
        with pytest.raises(errors.InvalidState) as e:
            await sdk.update_state(held.id, {"x": 1})
        assert e.value.details["field"] == "state.x"


async def test_a_project_is_renewed_and_what_is_paused_goes_over(
    bench: SteeringBench, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = WorkflowProject("line", "tests.steered:line")
    monkeypatch.setattr(project.code, "pack", lambda: None)  # the tests are no package to send
    project.register_variant("second", "loud", params={"mark": "?"})
    async with AsyncTestBench(address) as sdk:
        await bench.register(project.spec(None))
        held = await sdk.run(project, {"x": 1}, {"second": "loud"}, breakpoints=STOP)
        other = await sdk.run(project, {"x": 1}, breakpoints=["after:third"])
        renewed = await sdk.update_node(
            project, "second", "loud", "tests.steered:loud", swap_paused=True
        )
        assert {o.execution_id: o.ok for o in renewed.swapped} == {held.id: True}
        assert other.status == "COMPLETED"
        done = await sdk.resume(held.id)
        assert done.state["done"] == ["first", "SECOND", "third"]
        assert done.info.version == renewed.version.version
        before = await sdk.run(project, {"x": 1}, breakpoints=STOP)
        project.remove_variant("second", "loud")
        short = await sdk.update_workflow(project, "tests.steered:short", swap_paused=True)
        assert short.version.spec.entry == "tests.steered:short"
        [refused] = short.swapped
        assert refused.error is not None
        assert (refused.execution_id, refused.error["code"]) == (before.id, "incompatible")
        assert (await sdk.resume(before.id)).state["done"] == ["first", "second", "third"]


async def test_variants_come_and_go(bench: SteeringBench, address: str) -> None:
    async with AsyncTestBench(address) as sdk:
        await sdk.add_variant("line", "second", "soft", params={"mark": "~"})
        done = await sdk.run("line", {"x": 1}, {"second": "soft"})
        assert done.state["done"] == ["first", "second~", "third"]
        await sdk.deactivate_variant("line", "second", "soft")
        with pytest.raises(errors.UnknownVariant, match="deactivated"):
            await sdk.run("line", {"x": 1}, {"second": "soft"})
        await sdk.activate_variant("line", "second", "soft")
        removed = await sdk.remove_variant("line", "second", "soft")
        assert "soft" not in removed.spec.variants["second"]


async def test_the_sync_bench_has_the_same_names(bench: SteeringBench, address: str) -> None:
    steered.GATES["sync"] = asyncio.Event()
    id = await bench.start(initial_state={"gate": "sync"})
    await bench.at(id, "second")

    def work() -> None:
        with WTBTestBench(address) as sdk:
            assert sdk.pause(id, "lunch", wait=False).info.wanted == "pause"
            held = sdk.run("line", {"x": 1}, breakpoints=STOP)
            with pytest.raises(errors.InvalidTransition):
                sdk.retry(held.id)
            assert sdk.step(held.id).state["done"] == ["first", "second"]
            assert sdk.rollback_to_node(held.id, "second", "entry").state["done"] == ["first"]
            assert sdk.swap(held.id, "second", "loud").info.binding == {"second": "loud"}
            assert sdk.fork(held.id).info.forked_from == held.id
            assert sdk.resume(held.id).state["done"] == ["first", "SECOND", "third"]
            batch = sdk.run_batch_test(
                "line", [{}], [{"id": "c", "input": {"gate": "sync"}}], wait=False
            )
            assert batch.pause().status == "PAUSED"
            assert batch.resume().status == "RUNNING"
            assert batch.stop().status == "CANCELLED"

    await asyncio.to_thread(work)


def test_both_benches_have_the_same_methods() -> None:
    def names(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert names(WTBTestBench) - {"close"} == names(AsyncTestBench) - {"aclose"}
