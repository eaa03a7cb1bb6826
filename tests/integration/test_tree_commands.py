"""Commands on executions that several cells share, over HTTP: the one that is meant goes on alone."""

import asyncio
from typing import Any

from tests.forest import HELD, RAN, marked
from tests.integration.steering_bench import SteeringBench, bench
from wtb_ray.model import ProjectSpec, new_id

__all__ = ["bench"]

SPEC = ProjectSpec(name="forest", entry="tests.forest:asking", variants=marked("after"))
LINE = ProjectSpec(name="line", entry="tests.forest:line", variants=marked("four", "five"))
ROWS: list[dict[str, str]] = [{}, {"after": "a"}, {"after": "b"}]


async def shared(bench: SteeringBench) -> tuple[str, str, list[Any]]:
    """A batch whose three cells wait in one execution for an answer; its id, and the cells."""
    await bench.register(SPEC)
    body = {
        "variant_matrix": ROWS,
        "test_cases": [{"id": "c", "input": {"key": new_id("k"), "trail": []}}],
        "interrupts": "wait",
    }
    batch = await bench.http.post("/workflows/forest/batch-test", body, 202)
    cells = await at(bench, batch["id"], "PAUSED")
    (execution,) = {cell["execution_id"] for cell in cells}
    return batch["id"], execution, cells


async def at(bench: SteeringBench, batch: str, status: str) -> list[Any]:
    """The cells of a batch, once all of their executions are in this status."""
    async with asyncio.timeout(30):
        while True:
            cells: list[Any] = (await bench.http.get(f"/batch-tests/{batch}/cells"))["items"]
            ids = {cell["execution_id"] for cell in cells} - {None}
            found = [(await bench.http.get(f"/executions/{id}"))["status"] for id in ids]
            if found and set(found) == {status}:  # the cells were read before that
                now: list[Any] = (await bench.http.get(f"/batch-tests/{batch}/cells"))["items"]
                return now
            await asyncio.sleep(0.01)


async def answer(bench: SteeringBench, execution: str, cell: int | None, value: str) -> Any:
    (question,) = await bench.http.get(f"/executions/{execution}/interrupts")
    body = {"answers": {question["id"]: value}, "cell": cell}
    return await bench.post(f"/executions/{execution}/interrupts", body)


async def trail(bench: SteeringBench, execution: str) -> list[str]:
    found = await bench.http.get(f"/executions/{execution}/state")
    return list(found["values"]["trail"])


async def patched(bench: SteeringBench, execution: str, body: Any) -> Any:
    response = await bench.http.client.patch(f"/api/v1/executions/{execution}/state", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_what_changes_the_future_of_all_is_refused(bench: SteeringBench) -> None:
    _, execution, cells = await shared(bench)
    ids = [cell["id"] for cell in cells]
    checkpoint = (await bench.http.get(f"/executions/{execution}"))["head"]
    for path, body in (
        ("interrupts", {"answers": {"any": 1}}),
        ("resume", {"state": {"way": "x"}}),
        ("rollback", {"checkpoint_id": checkpoint}),
        ("swap", {"node": "after", "variant": "b"}),
        ("reset", None),
    ):
        error = await bench.refused("POST", f"/executions/{execution}/{path}", body, 409)
        assert (error["code"], error["details"]["cells"]) == ("shared_execution", ids), path
    error = await bench.refused(
        "PATCH", f"/executions/{execution}/state", {"values": {"way": "x"}}, 409
    )
    assert error["code"] == "shared_execution"


async def test_each_cell_is_answered_alone(bench: SteeringBench) -> None:
    batch, execution, cells = await shared(bench)
    for cell, value in zip(cells, ("red", "green", "blue"), strict=True):
        await answer(bench, execution, cell["id"], value)
    ended = await at(bench, batch, "COMPLETED")
    assert [await trail(bench, cell["execution_id"]) for cell in ended] == [
        ["one", "ask heard red", "after"],
        ["one", "ask heard green", "after!a"],
        ["one", "ask heard blue", "after!b"],
    ]
    assert {cell["status"] for cell in ended} == {"DONE"}
    key = (await bench.http.get(f"/executions/{execution}/state"))["values"]["key"]
    assert RAN.pop(key)["one"] == 1  # what all share ran once


async def test_a_case_that_brings_answers_along_needs_nobody(bench: SteeringBench) -> None:
    await bench.register(SPEC)
    case = {"id": "c", "key": new_id("k"), "trail": [], "answers": ["red"]}
    body: dict[str, Any] = {"variant_matrix": ROWS, "test_cases": [case]}
    for answers, reason in (("red", "a list is needed, not str"), ([1] * 1001, "1001 are more")):
        bad = {**body, "test_cases": [{**case, "answers": answers}]}
        error = await bench.refused("POST", "/workflows/forest/batch-test", bad, 422)
        assert error["code"] == "invalid_cases"
        assert error["details"]["field"].endswith("answers")
        assert reason in error["message"]
    batch = await bench.http.post("/workflows/forest/batch-test", body, 202)
    ended = await at(bench, batch["id"], "COMPLETED")
    assert [await trail(bench, cell["execution_id"]) for cell in ended] == [
        ["one", "ask heard red", after] for after in ("after", "after!a", "after!b")
    ]


async def test_a_patched_cell_goes_its_own_way(bench: SteeringBench) -> None:
    batch, execution, cells = await shared(bench)
    body = {"values": {"trail": ["patched"]}, "cell": cells[1]["id"]}
    changed = await patched(bench, execution, body)
    again = await patched(bench, execution, body)
    assert changed["id"] == again["id"] != execution  # it is alone from the first time on
    assert await trail(bench, execution) == ["one"]
    assert await trail(bench, changed["id"]) == ["one", "patched", "patched"]
    now = (await bench.http.get(f"/batch-tests/{batch}/cells"))["items"]
    assert [cell["execution_id"] for cell in now] == [execution, changed["id"], execution]


async def test_a_stopped_cell_leaves_the_others_alone(bench: SteeringBench) -> None:
    batch, execution, cells = await shared(bench)
    stopped = await bench.http.post(f"/executions/{execution}/stop", {"cell": cells[0]["id"]}, 202)
    assert (stopped["status"], stopped["id"] != execution) == ("CANCELLED", True)
    found = await bench.http.get(f"/executions/{execution}")
    assert (found["status"], found["binding"]) == ("PAUSED", {"after": "a"})
    now = (await bench.http.get(f"/batch-tests/{batch}/cells"))["items"]
    assert [cell["status"] for cell in now] == ["CANCELLED", "RUNNING", "RUNNING"]


async def test_without_a_cell_a_stop_takes_all(bench: SteeringBench) -> None:
    batch, execution, _ = await shared(bench)
    await bench.http.post(f"/executions/{execution}/stop", None, 202)
    now = (await bench.http.get(f"/batch-tests/{batch}/cells"))["items"]
    assert {cell["status"] for cell in now} == {"CANCELLED"}


async def test_stopping_a_variant_prunes_its_part_of_the_tree(bench: SteeringBench) -> None:
    batch, execution, cells = await shared(bench)
    await answer(bench, execution, cells[2]["id"], "blue")
    path = f"/batch-tests/{batch}/stop"
    error = await bench.refused("POST", path, {"variant": "nobody"}, 422)
    assert error["code"] == "unknown_variant"
    await bench.http.post(path, {"variant": "default"}, 202)
    await bench.http.post(path, {"variant": "default"}, 202)  # twice does nothing more
    now = (await bench.http.get(f"/batch-tests/{batch}/cells"))["items"]
    assert [cell["status"] for cell in now][:2] == ["CANCELLED", "RUNNING"]
    await answer(bench, execution, None, "green")  # it is alone there now
    async with asyncio.timeout(30):
        while (await bench.http.get(f"/batch-tests/{batch}"))["status"] != "COMPLETED":
            await asyncio.sleep(0.01)
    ended = (await bench.http.get(f"/batch-tests/{batch}/cells"))["items"]
    assert [cell["status"] for cell in ended] == ["CANCELLED", "DONE", "DONE"]
    assert await trail(bench, ended[1]["execution_id"]) == ["one", "ask heard green", "after!a"]


async def test_a_cell_of_another_execution_is_refused(bench: SteeringBench) -> None:
    _, execution, _ = await shared(bench)
    body = {"values": {"way": "x"}, "cell": 10**9}
    error = await bench.refused("PATCH", f"/executions/{execution}/state", body, 409)
    assert (error["code"], error["details"]["field"]) == ("conflict", "cell")


async def test_a_cell_is_taken_out_of_what_runs_without_holding_it_up(
    bench: SteeringBench,
) -> None:
    await bench.register(LINE)
    key = new_id("k")
    HELD.add((key, "two"))
    body = {
        "variant_matrix": [{}, {"five": "a"}, {"five": "b"}],
        "test_cases": [{"id": "c", "input": {"key": key, "trail": []}}],
    }
    batch = (await bench.http.post("/workflows/line/batch-test", body, 202))["id"]
    async with asyncio.timeout(30):
        while not RAN[key]["two"]:
            await asyncio.sleep(0.01)
    cells = (await bench.http.get(f"/batch-tests/{batch}/cells"))["items"]
    (execution,) = {cell["execution_id"] for cell in cells}
    stopped = await bench.http.post(
        f"/executions/{execution}/stop", {"cell": cells[0]["id"], "kill": True}, 202
    )
    assert (stopped["status"], stopped["id"] != execution) == ("CANCELLED", True)
    swapped = await bench.post(
        f"/executions/{execution}/swap",
        {"node": "four", "variant": "a", "cell": cells[1]["id"]},
    )
    assert swapped["binding"] == {"five": "a", "four": "a"}
    assert (await bench.http.get(f"/executions/{execution}"))["status"] == "RUNNING"
    HELD.discard((key, "two"))
    async with asyncio.timeout(30):
        while (await bench.http.get(f"/batch-tests/{batch}"))["status"] != "COMPLETED":
            await asyncio.sleep(0.01)
    ended = (await bench.http.get(f"/batch-tests/{batch}/cells"))["items"]
    assert [cell["status"] for cell in ended] == ["CANCELLED", "DONE", "DONE"]
    assert await trail(bench, ended[1]["execution_id"]) == [
        "one",
        "two",
        "three",
        "four!a",
        "five!a",
    ]
    assert await trail(bench, execution) == ["one", "two", "three", "four", "five!b"]
    assert RAN.pop(key)["one"] == 1
