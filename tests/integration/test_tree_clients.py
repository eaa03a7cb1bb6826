"""The execution tree as the command line, Python and gRPC have it, with runners behind the service."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio
from typer.testing import CliRunner, Result

from tests.forest import RAN
from tests.integration.steering_bench import SteeringBench, address, bench
from tests.integration.test_tree_commands import at, shared, trail
from wtb_ray import errors
from wtb_ray.cli import app
from wtb_ray.rpc import execution_pb2 as pb
from wtb_ray.rpc import session_pb2
from wtb_ray.sdk import AsyncTestBench, WTBTestBench
from wtb_ray.serve.grpc_commands import Caller

__all__ = ["address", "bench"]

Wtb = Callable[..., Awaitable[Result]]


@pytest_asyncio.fixture
async def wtb(bench: SteeringBench, address: str) -> Wtb:
    async def invoke(*words: Any) -> Result:
        environment = {"WTB_URL": address, "COLUMNS": "160"}
        arguments = [str(word) for word in words]
        return await asyncio.to_thread(CliRunner().invoke, app, arguments, env=environment)

    return invoke


def put(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


async def test_a_cell_is_found_answered_and_seen_in_the_tree(
    bench: SteeringBench, wtb: Wtb
) -> None:
    batch, execution, cells = await shared(bench)
    ids = [str(cell["id"]) for cell in cells]
    rows = (await wtb("batch", "results", batch)).stdout.splitlines()[2:5]
    assert [row.split()[0] for row in rows] == ids
    assert all(execution in row for row in rows)

    refused = await wtb("exec", "answer", execution, "--value", '"red"')
    assert (refused.exit_code, refused.stdout) == (1, "")
    error, cure = refused.stderr.splitlines()
    assert "(shared_execution)" in error
    assert f"the cells {', '.join(ids)}: name one with --cell" in cure
    assert "wtb batch results BATCH" in cure
    waiting = (await wtb("batch", "tree", batch)).stdout.splitlines()
    assert waiting[0].startswith("1 node run, 3 without sharing: 66.7 % saved")
    assert waiting[-1].startswith("└── one  1 run for 3 cells  x3.0")
    assert waiting[-1].endswith("3 running")

    for id, value in zip(ids, ("red", "green", "blue"), strict=True):
        done = await wtb("exec", "answer", execution, "--value", f'"{value}"', "--cell", id)
        assert f"ask heard {value}" in done.stdout, done.stderr
    await at(bench, batch, "COMPLETED")
    drawn = (await wtb("batch", "tree", batch)).stdout.splitlines()
    assert drawn[0].startswith("7 node runs, 9 without sharing: 22.2 % saved")
    assert drawn[2] == f"{batch}  3 cells in 3 executions"
    assert [line.split("  ")[0] for line in drawn[3:]] == ["└── one → ask", "", "", ""]
    assert [" ".join(line.split()[:5]) for line in drawn[4:]] == [
        "├── after 1 run for",
        "├── after=a 1 run for",
        "└── after=b 1 run for",
    ]
    found = put(await wtb("batch", "tree", batch, "--case", "c", "--repetition", 0, "--json"))
    assert (found["cells"], found["reuse"]["node_runs"], len(found["nodes"])) == (3, 7, 6)
    other = await wtb("batch", "tree", batch, "--case", "nobody")
    assert "no cells that have begun" in other.stdout
    unknown = await wtb("batch", "tree", "b0")
    assert (unknown.exit_code, "(unknown_batch)" in unknown.stderr) == (1, True)


async def test_every_command_takes_the_cell_that_is_meant(bench: SteeringBench, wtb: Wtb) -> None:
    batch, execution, cells = await shared(bench)
    first, second, third = (cell["id"] for cell in cells)

    async def alone(cell: int, *words: str) -> Any:
        return put(await wtb("exec", words[0], execution, *words[1:], "--cell", cell, "--json"))

    changed = await alone(first, "state", "--set", '{"trail": ["me"]}', "--replace")
    assert (changed["execution"]["id"] != execution, changed["state"]["values"]["trail"]) == (
        True,
        ["me"],
    )
    swapped = await alone(second, "swap", "after=a")
    assert swapped["execution"]["binding"] == {"after": "a"}
    assert swapped["execution"]["id"] not in (execution, changed["execution"]["id"])
    back = await alone(third, "rollback", "--node", "one", "--where", "entry")
    assert (back["execution"]["id"], back["execution"]["reason"]) == (execution, "rollback")
    assert (await alone(third, "reset"))["execution"]["reason"] == "reset"
    stopped = await alone(first, "stop")
    assert stopped["execution"]["id"] == changed["execution"]["id"]
    resumed = await wtb("exec", "resume", execution, "--cell", third, "--no-wait", "--json")
    assert put(resumed)["execution"]["id"] == execution
    await bench.rest(execution, "PAUSED")
    found = (await bench.http.get(f"/batch-tests/{batch}/cells"))["items"]
    assert [cell["status"] for cell in found] == ["CANCELLED", "RUNNING", "RUNNING"]


async def test_python_takes_the_cell_and_reads_the_tree(bench: SteeringBench, address: str) -> None:
    batch, execution, cells = await shared(bench)
    first, second, third = (cell["id"] for cell in cells)
    async with AsyncTestBench(address) as sdk:
        (question,) = await sdk.interrupts(execution)
        with pytest.raises(errors.SharedExecution) as e:
            await sdk.answer(execution, {question.id: "red"})
        assert e.value.details["cells"] == [first, second, third]
        outcomes = await sdk.rollback_many([{"execution_id": execution, "node": "one"}])
        assert outcomes[0].error is not None
        assert outcomes[0].error["code"] == "shared_execution"
        own = await sdk.update_state(execution, {"trail": ["me"]}, cell=first)
        assert (own.id != execution, own.state["trail"]) == (True, ["one", "me"])
        item = {"execution_id": execution, "node": "one", "cell": second}
        (outcome,) = await sdk.rollback_many([item])
        (back,) = outcome.executions
        assert (back.id not in (execution, own.id), back.reason) == (True, "rollback")
        done = await sdk.answer(execution, {question.id: "blue"}, cell=third)
        assert done.state["trail"] == ["one", "ask heard blue", "after!b"]
        made = await (await sdk.get_batch(batch)).tree(case="c")
        assert made == await sdk.batch_tree(batch)
        assert (made.cells, made.reuse.node_runs, made.reuse.served) == (3, 3, 5)

    def by_hand() -> None:
        with WTBTestBench(address) as sdk:
            for cell, id in ((first, own.id), (second, back.id)):
                assert sdk.stop(execution, "enough", cell=cell).id == id
            batch_ = sdk.get_batch(batch)
            assert batch_.tree() == sdk.batch_tree(batch_, "c", 0)
            assert sum(batch_.tree().nodes[-1].ended.values()) == 1

    await asyncio.to_thread(by_hand)


async def test_grpc_takes_the_cell_that_is_meant(bench: SteeringBench) -> None:
    _, execution, cells = await shared(bench)
    first, second, third = (cell["id"] for cell in cells)
    caller = Caller(bench.http.context, "me")
    modify = session_pb2.ModifyRequest(execution_id=execution, values='{"trail": ["me"]}')
    with pytest.raises(errors.SharedExecution) as e:
        await caller.change_state(modify)
    assert e.value.grpc_status == grpc.StatusCode.FAILED_PRECONDITION.name
    modify.cell = first
    assert await trail(bench, (await caller.change_state(modify)).id) == ["one", "me"]
    rollback = pb.RollbackExecutionRequest(execution_id=execution, node="one", cell=second)
    back = await caller.rollback(rollback)
    assert (back.id != execution, back.reason) == (True, "rollback")
    stopped = await caller.stop(pb.StopExecutionRequest(execution_id=execution, cell=second))
    assert (stopped.id, stopped.status) == (back.id, "CANCELLED")
    (question,) = await bench.http.get(f"/executions/{execution}/interrupts")
    resume = pb.ResumeExecutionRequest(execution_id=execution, cell=third)
    resume.answers[question["id"]] = '"blue"'
    assert (await caller.resume(resume)).id == execution
    await bench.rest(execution, "COMPLETED")
    key = (await bench.http.get(f"/executions/{execution}/state"))["values"]["key"]
    assert RAN.pop(key)["one"] == 1
