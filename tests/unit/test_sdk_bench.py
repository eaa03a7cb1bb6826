"""What the benches send, and what becomes of the answers; sync and async alike."""

import hashlib
import inspect
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.unit.sdk_server import (
    BATCH,
    BOARD,
    EXECUTION,
    NOW,
    STATE,
    Both,
    Server,
    cell,
    done,
    progress,
)
from wtb_ray import api, errors, model, scorer
from wtb_ray.scoring import CellOutcome
from wtb_ray.scoring.text import exact
from wtb_ray.sdk import AsyncTestBench, Batch, Execution, WorkflowProject, WTBTestBench, identity


def test_both_benches_and_batches_have_the_same_methods() -> None:
    def shape(cls: type, renamed: dict[str, str]) -> dict[str, list[str]]:
        members = inspect.getmembers(cls, inspect.isfunction)
        public = [(n, f) for n, f in members if not n.startswith("_")]
        return {renamed.get(n, n): list(inspect.signature(f).parameters) for n, f in public}

    sync = shape(WTBTestBench, {"close": "aclose"})
    asynchronous = shape(AsyncTestBench, {})
    assert set(sync) == set(asynchronous)
    del sync["run_batch_test_async"], asynchronous["run_batch_test_async"]
    assert sync == asynchronous


async def test_a_run_waits_and_gives_the_state(server: Server, bench: Both) -> None:
    server.on("POST /workflows/rag/execute", {**EXECUTION, "status": "PENDING"})
    server.on("GET /executions/e1", {**EXECUTION, "status": "RUNNING"}, EXECUTION)
    server.on("GET /executions/e1/state", STATE)
    execution: Execution = await bench.run(
        project="rag",
        initial_state={"query": "q"},
        variant_config={"search": "fast"},
        breakpoints=["rank"],
        recursion_limit=7,
        deadline_s=9.5,
    )
    assert (execution.id, execution.status, execution.state) == ("e1", "COMPLETED", STATE["values"])
    assert execution.error is None
    assert server.body() == {
        "initial_state": {"query": "q"},
        "variant_config": {"search": "fast"},
        "breakpoints": ["rank"],
        "recursion_limit": 7,
        "version": None,
        "priority": 0,
        "deadline_s": 9.5,
    }
    first = server.requests[0]
    assert first.headers["idempotency-key"]
    assert first.headers["authorization"] == "Bearer secret"
    assert first.headers["x-actor"] == identity.caller("sdk")


async def test_a_failed_run_is_a_result_not_an_exception(server: Server, bench: Both) -> None:
    fault = {"code": "node_failed", "type": "KeyError", "message": "'x'", "node": "search"}
    server.on("POST /workflows/rag/execute", {**EXECUTION, "status": "FAILED", "error": fault})
    server.on("GET /executions/e1/state", {**STATE, "status": "FAILED"})
    execution: Execution = await bench.run(project="rag", initial_state={})
    assert execution.status == "FAILED"
    assert execution.error == model.Fault(**fault)


async def test_a_paused_run_is_not_waited_for(server: Server, bench: Both) -> None:
    server.on("POST /workflows/rag/execute", {**EXECUTION, "status": "PENDING"})
    server.on("GET /executions/e1", {**EXECUTION, "status": "PAUSED", "reason": "breakpoint"})
    server.on("GET /executions/e1/state", {**STATE, "status": "PAUSED", "next_nodes": ["rank"]})
    execution: Execution = await bench.run(project="rag", initial_state={}, breakpoints=["rank"])
    assert (execution.status, execution.next_nodes) == ("PAUSED", ["rank"])


async def test_without_wait_a_run_is_returned_as_it_was_accepted(
    server: Server, bench: Both
) -> None:
    server.on("POST /workflows/rag/execute", {**EXECUTION, "status": "PENDING"})
    server.on("GET /executions/e1/state", {**STATE, "status": "PENDING", "values": {}})
    assert (await bench.run(project="rag", initial_state={}, wait=False)).status == "PENDING"


async def test_a_timeout_names_what_goes_on(server: Server, bench: Both) -> None:
    server.on("POST /workflows/rag/execute", {**EXECUTION, "status": "PENDING"})
    server.on("GET /executions/e1", {**EXECUTION, "status": "RUNNING"})
    with pytest.raises(TimeoutError, match=r"execution e1 is still RUNNING after 0\.05 s"):
        await bench.run(project="rag", initial_state={}, timeout=0.05)


async def test_a_state_that_is_no_json_is_refused_before_it_is_sent(
    server: Server, bench: Both
) -> None:
    with pytest.raises(errors.InvalidRequest, match="JSON"):
        await bench.run(project="rag", initial_state={"x": object()})
    with pytest.raises(errors.InvalidRequest, match="recursion_limit"):
        await bench.run(project="rag", initial_state={}, recursion_limit=0)
    assert server.requests == []


async def test_lists_are_read_to_their_end(server: Server, bench: Both) -> None:
    point = {
        "thread_id": "e1.0",
        "source": "loop",
        "nodes": [{"name": "search", "task_id": "t", "duration_ms": 1.0}],
        "next_nodes": ["rank"],
        "duration_ms": 1.0,
        "created_at": NOW,
    }
    server.on(
        "GET /executions/e1/checkpoints",
        {"items": [{**point, "id": "c2", "step": 2}], "next": "c2"},
        {"items": [{**point, "id": "c1", "step": 1}], "next": None},
    )
    found: list[api.Checkpoint] = await bench.get_checkpoints("e1")
    assert [(c.id, c.step, c.nodes[0].name, c.next_nodes) for c in found] == [
        ("c2", 2, "search", ["rank"]),
        ("c1", 1, "search", ["rank"]),
    ]
    assert server.requests[1].url.params["after"] == "c2"


async def test_a_history_asks_for_no_more_than_its_limit(server: Server, bench: Both) -> None:
    server.on("GET /executions", {"items": [EXECUTION, EXECUTION], "next": "more"})
    found = await bench.get_execution_history("rag", limit=2)
    assert [e.id for e in found] == ["e1", "e1"]
    assert dict(server.requests[0].url.params) == {"limit": "2", "project": "rag"}
    assert len(server.requests) == 1


CASES: list[dict[str, Any]] = [
    {"query": "a"},
    {"id": "x", "input": {"query": "b"}, "expected": "c"},
]


@scorer(metrics=["length"])
async def length(result: CellOutcome) -> float:
    return float(len(result.state))


async def test_a_batch_is_run_to_its_end(server: Server, bench: Both) -> None:
    server.on("POST /batch-tests", BATCH)
    server.on("GET /batch-tests/b1/progress", progress("RUNNING", 1), progress("COMPLETED", 3))
    server.on("GET /batch-tests/b1", {**BATCH, "status": "COMPLETED", "counts": {"DONE": 3}})
    server.on(
        "GET /batch-tests/b1/results",
        {"items": [cell(1), cell(2)], "next": "2"},
        {"items": [cell(3)], "next": None},
    )
    server.on(
        "GET /batch-tests/b1/leaderboard", httpx.Response(202, json={"status": "computing"}), BOARD
    )
    seen: list[api.Progress] = []
    batch = await bench.run_batch_test(
        project="rag",
        variant_matrix=[{}, {"search": "fast", "_name": "f"}],
        test_cases=[{"id": "w", "input": {"query": "a"}}, CASES[1]],
        scorers=["token_f1", exact, model.ScorerSpec(name="numeric", args={"tolerance": 1})],
        repetitions=2,
        progress=seen.append,
        node_errors="exclude",
    )
    assert (batch.id, batch.status) == ("b1", "COMPLETED")
    assert [p.finished for p in seen] == [1, 3]
    results = batch.results if isinstance(batch, Batch) else await batch.results()
    assert [r.id for r in results] == [1, 2, 3]
    assert (await done(batch.leaderboard())).rows[0].variant == "<base>"
    body = server.body()
    assert body["variant_matrix"] == [{}, {"search": "fast", "_name": "f"}]
    assert [c["id"] for c in body["test_cases"]] == ["w", "x"]
    assert [s["name"] for s in body["scorers"]] == ["token_f1", "exact", "numeric"]
    assert (body["repetitions"], body["node_errors"]) == (2, "exclude")


async def test_cases_come_from_a_file(server: Server, bench: Both, tmp_path: Path) -> None:
    file = tmp_path / "cases.jsonl"
    file.write_text('{"id": "a", "input": {"q": 1}}\n{"id": "b", "input": {"q": 2}}\n')
    server.on("POST /batch-tests", BATCH)
    await bench.run_batch_test("rag", [{}], file, wait=False)
    await bench.run_batch_test("rag", [{}], str(file), wait=False)
    assert [c["input"] for c in server.body(0)["test_cases"]] == [{"q": 1}, {"q": 2}]
    assert server.body(0) == server.body(1)


async def test_bad_cases_are_refused_before_they_are_sent(server: Server, bench: Both) -> None:
    with pytest.raises(errors.InvalidCases):
        await bench.run_batch_test("rag", [{}], [])
    assert server.requests == []


async def test_scorers_of_a_project_go_by_their_path_in_its_bundle(
    server: Server, bench: Both
) -> None:
    version = {"project": "rag", "version": "v", "created_at": NOW, "graph": GRAPH}
    project = WorkflowProject("rag", make, root=Path(__file__).parent)
    bundle = project.code.pack()
    assert bundle is not None
    sha = hashlib.sha256(bundle).hexdigest()
    version["spec"] = project.spec(sha).model_dump(mode="json")
    server.on(f"HEAD /bundles/{sha}", httpx.Response(404))
    server.on(f"PUT /bundles/{sha}", {"digest": sha, "bytes": len(bundle)})
    server.on("POST /workflows", version)
    server.on("POST /batch-tests", BATCH)
    assert (await bench.register_project(project)).spec.bundle == sha
    await bench.run_batch_test("rag", [{}], CASES[1:], [length], wait=False)
    assert server.sent == [
        f"HEAD /bundles/{sha}",
        f"PUT /bundles/{sha}",
        "POST /workflows",
        "POST /batch-tests",
    ]
    assert server.requests[1].content == bundle
    assert server.body(3)["scorers"] == [{"name": "test_sdk_bench:length", "args": {}}]


async def test_a_bundle_that_is_there_is_not_sent_again(server: Server, bench: Both) -> None:
    project = WorkflowProject("rag", make, root=Path(__file__).parent)
    sha = hashlib.sha256(project.code.pack() or b"").hexdigest()
    spec = project.spec(sha).model_dump(mode="json")
    version = {"project": "rag", "version": "v", "created_at": NOW, "graph": GRAPH, "spec": spec}
    server.on(f"HEAD /bundles/{sha}", httpx.Response(200))
    server.on("POST /workflows", version)
    await bench.register_project(project)
    assert server.sent == [f"HEAD /bundles/{sha}", "POST /workflows"]


async def test_scorers_of_unknown_code_and_other_things_are_refused(
    server: Server, bench: Both
) -> None:
    with pytest.raises(errors.NotImportable, match="outside of the bundle"):
        await bench.run_batch_test("rag", [{}], CASES[1:], [length])
    with pytest.raises(errors.InvalidRequest, match=r"async function"):
        await bench.run_batch_test("rag", [{}], CASES[1:], [len])
    assert server.requests == []


def make() -> None: ...


GRAPH: dict[str, list[str]] = {"nodes": [], "edges": [], "channels": [], "input_channels": []}
