"""The bench over server-sent events, gRPC and the command line, with real work behind them."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import polars as pl
import pytest
import pytest_asyncio

from tests.cluster.pipeline import CASES, NAME, QUESTIONS, ROOT, described, imported
from tests.stack import Stack
from wtb_ray.rpc import batch_pb2 as batches
from wtb_ray.rpc import execution_pb2 as executions
from wtb_ray.rpc.batch_pb2_grpc import BatchTestStub
from wtb_ray.rpc.execution_pb2_grpc import ExecutionControlStub
from wtb_ray.sdk import AsyncTestBench, WTBTestBench

ROUTES = """
GET /health
GET /ready
GET /workflows
POST /workflows
GET /workflows/{name}
GET /workflows/{name}/versions
GET /workflows/{name}/nodes
GET /workflows/{name}/nodes/{node}/variants
POST /workflows/{name}/execute
POST /workflows/{name}/batch-test
GET /executions
GET /executions/{execution_id}
POST /executions/{execution_id}/stop
GET /executions/{execution_id}/checkpoints
GET /executions/{execution_id}/checkpoints/{checkpoint_id}
GET /executions/{execution_id}/state
GET /batch-tests
POST /batch-tests
GET /batch-tests/{batch_id}
POST /batch-tests/{batch_id}/stop
GET /batch-tests/{batch_id}/progress
GET /batch-tests/{batch_id}/results
GET /batch-tests/{batch_id}/cells
GET /batch-tests/{batch_id}/leaderboard
GET /events
GET /audit/events
GET /audit/summary
GET /audit/verify
GET /audit/timeline/{execution_id}
GET /audit/timeline/batch/{batch_id}
GET /executions/{execution_id}/audit
GET /integrity
POST /integrity
GET /files/stats
POST /files/collect
POST /files/rehash
GET /executions/{execution_id}/commits
GET /environments
POST /environments
GET /environments/stats
POST /environments/prune
GET /environments/{digest}
DELETE /environments/{digest}
PUT /bundles/{sha256}
HEAD /bundles/{sha256}
PUT /workflows/{name}
PATCH /workflows/{name}
DELETE /workflows/{name}
POST /workflows/{name}/nodes
PUT /workflows/{name}/nodes/{node}
DELETE /workflows/{name}/nodes/{node}
POST /workflows/{name}/nodes/{node}/variants
PATCH /workflows/{name}/nodes/{node}/variants/{variant}
DELETE /workflows/{name}/nodes/{node}/variants/{variant}
PATCH /executions/{execution_id}/state
POST /executions/{execution_id}/pause
POST /executions/{execution_id}/resume
POST /executions/{execution_id}/step
POST /executions/{execution_id}/retry
PUT /executions/{execution_id}/breakpoints
GET /executions/{execution_id}/breakpoints
POST /executions/{execution_id}/interrupts
GET /executions/{execution_id}/interrupts
POST /executions/{execution_id}/nodes/{node}/execute
GET /operations/{operation_id}
POST /executions/batch
POST /executions/{execution_id}/reset
POST /executions/{execution_id}/rollback
POST /executions/{execution_id}/fork
POST /executions/{execution_id}/swap
GET /executions/{execution_id}/nodes
GET /executions/{execution_id}/branches
POST /executions/{execution_id}/trash/restore
GET /executions/{execution_id}/files
GET /executions/{execution_id}/files/{path}
GET /executions/{execution_id}/trash
GET /executions/{execution_id}/diff
POST /batch-tests/{batch_id}/pause
POST /batch-tests/{batch_id}/resume
GET /batch-tests/{batch_id}/tree
PATCH /batch-tests/{batch_id}
POST /batch-tests/{batch_id}/rerun
POST /batch-tests/{batch_id}/extend
GET /limits
PUT /limits/{name}
DELETE /limits/{name}
"""


@pytest.fixture(scope="module")
def version(stack: Stack) -> Iterator[str]:
    """The pipeline, registered through the SDK."""
    with imported() as module, WTBTestBench(stack.url) as bench:
        yield bench.register_project(described(module)).version


@pytest_asyncio.fixture
async def http(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"{stack.url}/api/v1", timeout=60) as client:
        yield client


@pytest_asyncio.fixture
async def channel(stack: Stack) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(stack.grpc) as channel:
        yield channel


async def test_openapi_lists_every_route(http: httpx.AsyncClient, stack: Stack) -> None:
    document = (await http.get(f"{stack.url}/openapi.json")).json()
    listed = {
        f"{method.upper()} {path.removeprefix('/api/v1')}"
        for path, methods in document["paths"].items()
        for method in methods
    }
    assert listed == set(ROUTES.split("\n")) - {""}


class Events:
    """Server-sent events as they arrive, read line by line without the SDK."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines

    async def take(self, count: int = sys.maxsize, until: str | None = None) -> list[Any]:
        """The next events, up to and with one of the type `until`."""
        found: list[Any] = []
        async for line in self._lines:
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
                if len(found) == count or found[-1]["type"] == until:
                    break
        return found


@pytest.mark.usefixtures("version")
async def test_events_are_resumed_without_gap_or_double(http: httpx.AsyncClient) -> None:
    """A reader that is cut off again and again while a batch runs sees the log as it is."""
    body = {
        "variant_matrix": [{"_name": "base"}, {"retriever": "bm25_retriever"}],
        "test_cases": [{"id": f"c{i}", "input": {"query": f"river {i}"}} for i in range(30)],
    }
    batch = (await http.post(f"/workflows/{NAME}/batch-test", json=body)).json()
    path = f"/events?batch={batch['id']}"
    seen: list[Any] = []
    cut = 1
    while not seen or seen[-1]["type"] != "batch.completed":
        after = {"after": seen[-1]["cursor"]} if seen and cut % 2 else {}
        last = {"Last-Event-ID": seen[-1]["cursor"]} if seen and not cut % 2 else {}
        async with http.stream(
            "GET", path, params={"batch": batch["id"], **after}, headers=last
        ) as r:
            seen += await Events(r.aiter_lines()).take(cut, until="batch.completed")
        cut = cut * 3 // 2 + 1
    async with http.stream("GET", f"{path}&follow=false") as response:
        stored = await Events(response.aiter_lines()).take()
    assert [e["cursor"] for e in seen] == [e["cursor"] for e in stored][: len(seen)]
    assert seen == stored[: len(seen)]
    assert {e["type"] for e in stored[len(seen) :]} <= {"leaderboard.computed"}
    types = [e["type"] for e in seen]
    assert types[0] == "batch.created"
    assert types.count("execution.completed") == 60
    assert types.count("cell.scored") == 60
    async with http.stream("GET", f"{path}&type=cell.scored,batch.completed") as response:
        some = await Events(response.aiter_lines()).take(until="batch.completed")
    assert some == [e for e in seen if e["type"] in ("cell.scored", "batch.completed")]


@pytest.mark.usefixtures("version")
async def test_grpc_runs_and_follows_an_execution(
    channel: grpc.aio.Channel, http: httpx.AsyncClient
) -> None:
    stub = ExecutionControlStub(channel)
    made = await stub.StartExecution(
        executions.StartExecutionRequest(
            project=NAME,
            initial_state=json.dumps({"query": "river in Italy"}),
            variant_config={"retriever": "bm25_wide"},
        ),
        metadata=[("x-actor", "tester")],
    )
    follow = executions.StreamExecutionEventsRequest(execution_id=made.id)
    events = [event async for event in stub.StreamExecutionEvents(follow)]
    assert [event.type for event in events] == [
        "execution.created",
        "execution.started",
        *["step.completed"] * 3,
        "execution.completed",
    ]
    assert (events[0].actor, events[0].project) == ("grpc:tester", NAME)
    follow.after = events[2].cursor
    assert [event async for event in stub.StreamExecutionEvents(follow)] == events[3:]
    ended = await stub.GetExecution(executions.GetExecutionRequest(execution_id=made.id))
    assert ended.status == executions.EXECUTION_STATUS_COMPLETED
    assert (dict(ended.binding), ended.node_runs) == ({"retriever": "bm25_wide"}, 3)
    state = (await http.get(f"/executions/{made.id}/state")).json()
    assert state["values"]["documents"] == ["tiber", "seine"]


@pytest.mark.usefixtures("version")
async def test_grpc_runs_a_batch_up_to_its_end(channel: grpc.aio.Channel, stack: Stack) -> None:
    request = batches.RunBatchTestRequest(
        project=NAME,
        variant_matrix=[
            batches.Binding(nodes={"_name": "base"}),
            batches.Binding(nodes={"retriever": "bm25_retriever"}),
        ],
        test_cases=[
            batches.TestCase(id=c.id, input=json.dumps(c.input), expected=json.dumps(c.expected))
            for c in CASES
        ],
        scorers=[batches.Scorer(name="exact", args='{"field": "answer"}')],
        repetitions=3,
        deadline_s=300,
    )
    progress = [message async for message in BatchTestStub(channel).RunBatchTest(request)]
    assert [m.finished for m in progress] == sorted(m.finished for m in progress)
    last = progress[-1]
    assert (last.status, last.finished, last.percent) == (batches.BATCH_STATUS_COMPLETED, 24, 100)
    assert dict(last.counts) == {"DONE": 24}
    async with AsyncTestBench(stack.url) as bench:
        board = await bench.leaderboard(last.batch_id)
        shown = await bench.get_batch(last.batch_id)
        cells = {cell.id: cell for cell in await shown.results()}
    assert {row.variant: row.metrics[0].mean for row in board.rows} == {
        "retriever=bm25_retriever": 1.0,
        "base": 0.25,
    }
    found = await BatchTestStub(channel).GetBatchTest(
        batches.GetBatchTestRequest(batch_id=last.batch_id)
    )
    assert (found.status, found.cells, found.repetitions) == (last.status, 24, 3)
    assert list(found.variants) == ["base", "retriever=bm25_retriever"]
    assert (found.deadline_s, found.cost.node_runs) == (300, last.cost.node_runs)
    wanted, listed = batches.GetBatchTestResultsRequest(batch_id=last.batch_id, limit=10), []
    while True:
        page = await BatchTestStub(channel).GetBatchTestResults(wanted)
        listed += page.cells
        if not page.HasField("next"):
            break
        wanted.after = page.next
    assert [cell.id for cell in listed] == list(cells)
    for cell in listed:
        known = cells[cell.id]
        assert {s.metric: s.value for s in cell.scores} == known.scores
        assert (cell.variant, cell.execution_id) == (known.variant, known.execution_id)


@pytest.mark.usefixtures("version")
async def test_grpc_stops_a_batch(channel: grpc.aio.Channel) -> None:
    stub = BatchTestStub(channel)
    request = batches.RunBatchTestRequest(
        project=NAME,
        variant_matrix=[batches.Binding(nodes={"_name": name}) for name in ("base", "again")],
        test_cases=[batches.TestCase(id="c", input=json.dumps(CASES[0].input))],
        repetitions=2000,
        share_prefix=False,
    )
    run = stub.RunBatchTest(request)
    id = (await anext(aiter(run))).batch_id
    stop = batches.StopBatchTestRequest(
        batch_id=id, variant="again", reason="enough", idempotency_key=id
    )
    pruned = await stub.StopBatchTest(stop)
    assert pruned.counts["CANCELLED"] > 0
    assert pruned == await stub.StopBatchTest(stop), "the same key gives the same answer"
    stopped = await stub.StopBatchTest(batches.StopBatchTestRequest(batch_id=id, reason="enough"))
    assert (stopped.status, stopped.reason) == (batches.BATCH_STATUS_CANCELLED, "enough")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.StopBatchTest(batches.StopBatchTestRequest(batch_id=id))
    assert str(raised.value.details()).startswith("invalid_transition: ")
    run.cancel()


async def test_grpc_refuses_by_status(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await ExecutionControlStub(channel).GetExecution(
            executions.GetExecutionRequest(execution_id="e0")
        )
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    assert str(raised.value.details()).startswith("unknown_execution: ")


def wtb(stack: Stack, *words: str, code: int = 0) -> Any:
    """What a command prints, as JSON, line by line if it is not one value."""
    command = [str(Path(sys.executable).with_name("wtb")), *words, "--json", "--url", stack.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == code, done.stderr
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError:
        return [json.loads(line) for line in done.stdout.splitlines()]


def all_of(stack: Stack, commands: Sequence[Sequence[str]]) -> list[Any]:
    """Several commands at once."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda words: wtb(stack, *words), commands))


def case_files(folder: Path) -> list[Path]:
    """The same cases in each form."""
    columns = {
        "id": [*QUESTIONS.values()],
        "query": [*QUESTIONS],
        "expected": [*QUESTIONS.values()],
    }
    frame = pl.DataFrame(columns)
    frame.write_parquet(folder / "cases.parquet")
    frame.write_csv(folder / "cases.csv")
    frame.write_ndjson(folder / "cases.jsonl")
    return [folder / f"cases.{form}" for form in ("parquet", "csv", "jsonl")]


def test_the_command_line(stack: Stack, version: str, tmp_path: Path) -> None:
    """Registering, running, batches of every kind of file, leaderboards and events."""
    module = "rag_pipeline"
    register = ["project", "register", f"{module}:create_rag_graph", "--root", str(ROOT)]
    for name in ("bm25_retriever", "faiss_retriever"):
        register += ["--variant", f"retriever={name}={module}:{name}"]
    register += ["--variant", f"retriever=bm25_wide={module}:bm25_retriever"]
    register += ["--param", "retriever=wide=k=4", "--param", "retriever=bm25_wide=k=2"]
    for name, factory in (("simple_rag_architecture",) * 2, ("waiting", "waiting_graph")):
        register += ["--workflow", f"{name}={module}:{factory}"]
    run = ["run", NAME, "--input", '{"query": "river in Italy"}', "--variant", "retriever=wide"]
    batch = ["--variants", "_name=base", "--grid", "retriever=bm25_retriever,faiss_retriever"]
    batch += ["--scorer", 'exact:{"field": "answer"}', "--repetitions", "2"]
    registered, projects, ran, *ended = all_of(
        stack,
        [
            register,
            ["project", "list"],
            run,
            *(["batch", "run", NAME, "--cases", str(f), *batch] for f in case_files(tmp_path)),
        ],
    )
    assert registered["version"] == version
    assert NAME in {project["project"] for project in projects["items"]}
    assert ran["execution"]["status"] == "COMPLETED"
    assert ran["state"]["values"]["documents"] == ["paris", "rome", "seine", "tiber"]
    for one in ended:
        assert one["batch"]["counts"] == {"DONE": 24}
        means = {row["variant"]: row["metrics"][0]["mean"] for row in one["leaderboard"]["rows"]}
        assert means == {
            "base": 0.25,
            "retriever=bm25_retriever": 1.0,
            "retriever=faiss_retriever": 0.25,
        }
    id = ended[0]["batch"]["id"]
    board, results, events = all_of(
        stack,
        [["leaderboard", id], ["batch", "results", id], ["events", "--batch", id]],
    )
    assert board == ended[0]["leaderboard"]
    assert len(results["items"]) == 24
    types = [event["type"] for event in events]
    assert (types[0], types.count("cell.scored")) == ("batch.created", 24)
    assert {"batch.completed", "leaderboard.computed"} <= set(types)


@pytest.mark.usefixtures("version")
def test_the_exit_code_tells_that_a_run_failed(stack: Stack) -> None:
    failed = wtb(stack, "run", NAME, "--input", '{"query": "boom"}', code=3)
    assert failed["execution"]["error"]["message"] == "no answer to boom"
    assert failed["execution"]["error"]["node"] == "generator"


async def test_the_sdk_and_the_log_agree(stack: Stack, version: str) -> None:
    """Everything that the SDK shows of an execution stands in the event log too."""
    with WTBTestBench(stack.url) as bench:
        start = await asyncio.to_thread(bench.run, NAME, {"query": "rome"}, timeout=60)
        events = await asyncio.to_thread(
            lambda: list(bench.events(execution=start.id, follow=False))
        )
        checkpoints = await asyncio.to_thread(bench.get_checkpoints, start.id)
    assert start.info.version == version
    steps = [e.payload for e in events if e.type == "step.completed"]
    shown = [(s["checkpoint_id"], s["step"], s["nodes"], s["next_nodes"]) for s in steps]
    assert shown == [
        (c.id, c.step, [n.name for n in c.nodes], c.next_nodes)
        for c in reversed(checkpoints)
        if c.step > 0
    ]
    assert events[-1].payload["latency_ms"] == start.info.latency_ms
