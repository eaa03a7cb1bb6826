"""Pause, resume, step, retry, answers, breakpoints, changed states and tried nodes over HTTP."""

import asyncio
from typing import Any

from tests import steered
from tests.integration.steering_bench import ASKING, SteeringBench, bench
from wtb_ray import errors

__all__ = ["bench"]


async def test_an_execution_is_stepped_and_resumed(bench: SteeringBench) -> None:
    id = await bench.paused("before:first")
    assert await bench.done(id) == []
    stepped = await bench.post(f"/executions/{id}/step")
    assert stepped["status"] == "PENDING"
    assert (await bench.rest(id))["reason"] == "requested"
    assert await bench.done(id) == ["first"]
    await bench.post(f"/executions/{id}/resume")
    assert (await bench.rest(id))["status"] == "COMPLETED"
    assert await bench.done(id) == ["first", "second", "third"]


async def test_the_same_key_does_a_command_once(bench: SteeringBench) -> None:
    id = await bench.paused("before:first")
    path, key = f"/api/v1/executions/{id}/step", {"Idempotency-Key": "k1"}
    first = await bench.http.client.post(path, json={}, headers=key)
    await bench.rest(id)
    again = await bench.http.client.post(path, json={}, headers=key)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["Idempotent-Replayed"] == "true"
    assert await bench.done(id) == ["first"]
    other = await bench.http.client.post(path, json={"x": 1}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")


async def test_a_running_execution_pauses_after_its_step(bench: SteeringBench) -> None:
    gate = steered.GATES["pauses"] = asyncio.Event()
    id = await bench.start(initial_state={"gate": "pauses"})
    await bench.at(id, "second")
    asked = await bench.post(f"/executions/{id}/pause", {"reason": "lunch"}, 202)
    assert (asked["status"], asked["wanted"]) == ("RUNNING", "pause")
    gate.set()
    found = await bench.rest(id)
    assert (found["status"], found["reason"]) == ("PAUSED", "requested")
    assert await bench.done(id) == ["first", "second"]


async def test_a_pause_says_what_is_kept_meanwhile(bench: SteeringBench) -> None:
    gate = steered.GATES["keeps"] = asyncio.Event()
    id = await bench.start(initial_state={"gate": "keeps"})
    await bench.at(id, "second")
    path = f"/executions/{id}/pause"
    for body in ({"strategy": "tepid"}, {"expected_s": -1}):
        error = await bench.refused("POST", path, body, 422)
        assert error["code"] == "invalid_request"
    await bench.post(path, {"strategy": "cold"}, 202)
    gate.set()
    found = await bench.rest(id)
    async with asyncio.timeout(10):
        while (parking := found["parking"]) is None or parking["strategy"] != "cold":
            found = await bench.http.get(f"/executions/{id}")


async def test_breakpoints_are_set_while_it_runs(bench: SteeringBench) -> None:
    gate = steered.GATES["breaks"] = asyncio.Event()
    id = await bench.start(initial_state={"gate": "breaks"})
    await bench.at(id, "second")
    response = await bench.http.client.put(
        f"/api/v1/executions/{id}/breakpoints", json={"breakpoints": ["third"]}
    )
    assert (response.status_code, response.json()["breakpoints"]) == (200, ["before:third"])
    assert await bench.http.get(f"/executions/{id}/breakpoints") == {
        "breakpoints": ["before:third"]
    }
    gate.set()
    assert (await bench.rest(id))["reason"] == "breakpoint"
    assert await bench.done(id) == ["first", "second"]


async def test_it_goes_on_with_another_state(bench: SteeringBench) -> None:
    id = await bench.paused()
    changed = await bench.post(f"/executions/{id}/resume", {"state": {"x": 40, "done": ["me"]}})
    assert changed["status"] == "PENDING"
    await bench.rest(id)
    state = (await bench.http.get(f"/executions/{id}/state"))["values"]
    assert (state["x"], state["done"]) == (41, ["first", "me", "second", "third"])


async def test_a_state_is_changed_and_shown_as_a_diff(bench: SteeringBench) -> None:
    id = await bench.paused()
    response = await bench.http.client.patch(
        f"/api/v1/executions/{id}/state", json={"values": {"done": ["only"]}, "replace": True}
    )
    assert (response.status_code, response.json()["status"]) == (200, "PAUSED")
    assert await bench.done(id) == ["only"]
    diff = await bench.http.get(f"/executions/{id}/diff")
    assert diff["state"] == {"done": {"change": "changed", "before": ["first"], "after": ["only"]}}
    assert diff["items"] == []


async def test_a_failed_execution_is_retried_with_another_limit(bench: SteeringBench) -> None:
    id = await bench.start(initial_state={"fails": True})
    assert (await bench.rest(id))["error"]["node"] == "third"
    nodes = {n["name"]: n for n in await bench.http.get(f"/executions/{id}/nodes")}
    assert [nodes[name]["status"] for name in ("first", "second", "third")] == [
        "completed",
        "completed",
        "failed",
    ]
    retried = await bench.post(f"/executions/{id}/retry", {"recursion_limit": 50})
    assert (retried["status"], retried["recursion_limit"]) == ("PENDING", 50)
    assert (await bench.rest(id))["status"] == "FAILED"
    assert await bench.done(id) == ["first", "second"]


async def test_questions_are_answered_as_their_schema_says(bench: SteeringBench) -> None:
    await bench.register(ASKING)
    id = await bench.start(ASKING)
    assert (await bench.rest(id))["reason"] == "interrupt"
    [question] = await bench.http.get(f"/executions/{id}/interrupts")
    assert question["answer_schema"] == steered.SCHEMA
    assert (question["value"]["question"], question["answered"]) == ("go on?", False)
    state = await bench.http.get(f"/executions/{id}/state")
    assert [asked["id"] for asked in state["interrupts"]] == [question["id"]]

    path = f"/executions/{id}/interrupts"
    wrong = {"answers": {question["id"]: {"approved": True, "note": 7}}}
    error = await bench.refused("POST", path, wrong, 422)
    assert error["code"] == "invalid_answer"
    assert error["details"]["field"] == f"answers.{question['id']}.note"
    error = await bench.refused("POST", path, {"answers": {"nobody": 1}}, 409)
    assert error["details"]["reason"] == "not asked"
    error = await bench.refused("POST", f"/executions/{id}/resume", {}, 409)
    assert error["details"]["asked"] == [question["id"]]
    assert (await bench.http.get(f"/executions/{id}"))["status"] == "PAUSED"

    right = {"answers": {question["id"]: {"approved": True}}}
    kept = await bench.post(path, {**right, "resume": False})
    assert kept["status"] == "PAUSED"
    error = await bench.refused("POST", path, right, 409)
    assert error["details"]["reason"] == "answered"
    await bench.post(f"/executions/{id}/resume")
    assert (await bench.rest(id))["status"] == "COMPLETED"
    assert (await bench.http.get(f"/executions/{id}/state"))["values"]["said"] == {"approved": True}
    error = await bench.refused("POST", path, right, 409)
    assert error["details"]["state"] == "COMPLETED"


async def test_answers_may_come_with_resume(bench: SteeringBench) -> None:
    await bench.register(ASKING)
    id = await bench.start(ASKING)
    await bench.rest(id)
    [question] = await bench.http.get(f"/executions/{id}/interrupts")
    answers = {question["id"]: {"approved": False}}
    error = await bench.refused(
        "POST", f"/executions/{id}/resume", {"answers": answers, "state": {"x": 1}}, 422
    )
    assert "change it first" in error["message"]
    await bench.post(f"/executions/{id}/resume", {"answers": answers, "recursion_limit": 77})
    assert (await bench.rest(id))["recursion_limit"] == 77
    assert await bench.done(id) == ["first", "ask", "third"]


async def test_a_node_is_tried_out(bench: SteeringBench) -> None:
    id = await bench.paused()
    before = await bench.everything(id)
    path = f"/executions/{id}/nodes/second/execute"
    outcome = await bench.post(path)
    assert (outcome["update"], outcome["error"]) == ({"done": ["second"], "x": 2}, None)
    outcome = await bench.post(path, {"state": {"x": 9}})
    assert outcome["update"]["x"] == 10
    failed = await bench.post(f"/executions/{id}/nodes/third/execute", {"state": {"fails": True}})
    assert (failed["error"]["type"], failed["error"]["node"]) == ("ValueError", "third")
    assert await bench.everything(id) == before


async def test_what_takes_longer_goes_on_as_an_operation(bench: SteeringBench) -> None:
    gate = steered.GATES["slow"] = asyncio.Event()
    id = await bench.paused()
    bench.commands._operating.wait_s = 0.05
    path = f"/api/v1/executions/{id}/nodes/second/execute"
    key = {"Idempotency-Key": "k1"}
    body = {"state": {"gate": "slow"}}
    response = await bench.http.client.post(path, json=body, headers=key)
    operation = response.json()
    assert (response.status_code, operation["status"]) == (202, "RUNNING")
    assert (operation["kind"], operation["execution_id"]) == ("execute_node", id)
    again = await bench.http.client.post(path, json=body, headers=key)
    assert (again.status_code, again.json()) == (202, operation)
    gate.set()
    found = await ended(bench, operation["id"])
    assert (found["status"], found["result"]["update"]["done"]) == ("DONE", ["second"])


async def test_an_operation_that_is_refused_says_so(bench: SteeringBench) -> None:
    id = await bench.paused()
    held = asyncio.Event()

    async def late(*_: Any) -> Any:
        await held.wait()
        raise errors.InvalidState("no", field="state.x", reason="because")

    bench.http.controller.runner = late
    bench.commands._operating.wait_s = 0.01
    response = await bench.http.client.patch(
        f"/api/v1/executions/{id}/state", json={"values": {"x": 1}}
    )
    assert response.status_code == 202
    held.set()
    found = await ended(bench, response.json()["id"])
    assert (found["status"], found["error"]["code"]) == ("FAILED", "invalid_state")
    error = await bench.refused("GET", "/operations/o0", None, 404)
    assert error["code"] == "unknown_operation"


async def ended(bench: SteeringBench, operation: str) -> Any:
    async with asyncio.timeout(10):
        while True:
            found = await bench.http.get(f"/operations/{operation}")
            if found["status"] != "RUNNING":
                return found
            await asyncio.sleep(0.01)


async def test_unknown_executions_are_404(bench: SteeringBench) -> None:
    for method, command, body in [
        ("POST", "pause", {}),
        ("POST", "resume", {}),
        ("POST", "resume", {"state": {"x": 1}}),
        ("POST", "step", {}),
        ("POST", "retry", {}),
        ("POST", "stop", {}),
        ("PUT", "breakpoints", {"breakpoints": []}),
        ("POST", "interrupts", {"answers": {"i": 1}}),
        ("PATCH", "state", {"values": {}}),
        ("POST", "rollback", {"node": "second"}),
        ("POST", "fork", {}),
        ("POST", "swap", {"node": "second", "variant": "loud"}),
        ("POST", "nodes/second/execute", {}),
        ("GET", "breakpoints", None),
        ("GET", "interrupts", None),
        ("GET", "nodes", None),
        ("GET", "branches", None),
        ("GET", "diff", None),
    ]:
        error = await bench.refused(method, f"/executions/e0/{command}", body, 404)
        assert error["code"] == "unknown_execution", command


async def test_what_is_refused_changes_nothing(bench: SteeringBench) -> None:
    id = await bench.paused()
    before = await bench.everything(id)
    for method, command, body, status, code, field in [
        ("POST", "retry", {}, 409, "invalid_transition", "status"),
        ("POST", "resume", {"state": {"nobody": 1}}, 422, "invalid_state", "state.nobody"),
        ("POST", "resume", {"state": {"x": "?"}}, 422, "invalid_state", "state.x"),
        ("POST", "resume", {"recursion_limit": 0}, 422, "invalid_request", "recursion_limit"),
        ("PATCH", "state", {"values": {"nobody": 1}}, 422, "invalid_state", "state.nobody"),
        ("PATCH", "state", {"as_node": "nobody"}, 422, "invalid_state", "as_node"),
        ("PUT", "breakpoints", {"breakpoints": ["nobody"]}, 422, "unknown_node", "breakpoints.0"),
        ("PUT", "breakpoints", {}, 422, "invalid_request", "breakpoints"),
        ("POST", "interrupts", {"answers": {}}, 422, "invalid_request", "answers"),
        ("POST", "nodes/nobody/execute", {}, 422, "unknown_node", "node"),
        ("POST", "nodes/second/execute", {"state": {"y": 1}}, 422, "invalid_state", "state.y"),
    ]:
        error = await bench.refused(method, f"/executions/{id}/{command}", body, status)
        assert (error["code"], error["details"]["field"]) == (code, field), command
    assert await bench.everything(id) == before


async def test_a_running_execution_takes_no_state(bench: SteeringBench) -> None:
    steered.GATES["runs"] = asyncio.Event()
    id = await bench.start(initial_state={"gate": "runs"})
    await bench.at(id, "second")
    for method, command, body in [
        ("POST", "resume", {}),
        ("POST", "resume", {"state": {"x": 1}}),
        ("POST", "step", {}),
        ("POST", "retry", {}),
        ("PATCH", "state", {"values": {"x": 1}}),
        ("POST", "interrupts", {"answers": {"i": 1}}),
        ("POST", "rollback", {"node": "first"}),
    ]:
        error = await bench.refused(method, f"/executions/{id}/{command}", body, 409)
        assert (error["code"], error["details"]["state"]) == ("invalid_transition", "RUNNING")


async def test_batches_are_paused_and_resumed(bench: SteeringBench) -> None:
    gate = steered.GATES["batch"] = asyncio.Event()
    request = {
        "variant_matrix": [{}],
        "test_cases": [{"id": "c", "input": {"gate": "batch"}}],
    }
    batch = await bench.http.post("/workflows/line/batch-test", request)
    path = f"/batch-tests/{batch['id']}"
    assert (await bench.post(f"{path}/pause", {}, 202))["status"] == "PAUSED"
    error = await bench.refused("POST", f"{path}/pause", {}, 409)
    assert (error["code"], error["details"]["state"]) == ("invalid_transition", "PAUSED")
    assert (await bench.post(f"{path}/resume", {}, 202))["status"] == "RUNNING"
    gate.set()
    async with asyncio.timeout(20):
        while (await bench.http.get(path))["status"] != "COMPLETED":
            await asyncio.sleep(0.02)
    error = await bench.refused("POST", "/batch-tests/b0/pause", {}, 404)
    assert error["code"] == "unknown_batch"
