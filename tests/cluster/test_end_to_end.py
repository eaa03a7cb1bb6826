"""The bench as its users see it: projects, variants, batches and scripts, through the SDK."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytest_asyncio

from tests.cluster.pipeline import CASES, EXACT, NAME, described, imported
from tests.stack import Stack, wait_until
from wtb_ray import errors
from wtb_ray.model import Case
from wtb_ray.sdk import AsyncTestBench, WorkflowProject, WTBTestBench


@pytest.fixture(scope="module")
def pipeline() -> Iterator[ModuleType]:
    with imported() as module:
        yield module


@pytest.fixture(scope="module")
def project(stack: Stack, pipeline: ModuleType) -> WorkflowProject:
    project = described(pipeline)
    with WTBTestBench(stack.url) as bench:
        bench.register_project(project)
    return project


@pytest_asyncio.fixture
async def remote(stack: Stack) -> AsyncIterator[AsyncTestBench]:
    async with AsyncTestBench(stack.url) as bench:
        yield bench


def test_the_first_example(stack: Stack, pipeline: ModuleType) -> None:
    project = described(pipeline)
    wtb = WTBTestBench(stack.url)
    version = wtb.register_project(project)
    assert wtb.register_project(described(pipeline)).version == version.version
    result = wtb.run(project="rag_pipeline", initial_state={"query": "test"}, timeout=60)
    assert result.status == "COMPLETED"
    assert result.state == {
        "query": "test",
        "terms": ["test"],
        "documents": ["paris"],
        "answer": "paris",
    }
    history = wtb.get_execution_history("rag_pipeline", limit=10)
    assert history[0] == result.info
    assert [c.step for c in wtb.get_checkpoints(result.id)] == [3, 2, 1, 0, -1]
    [last, *_, before] = wtb.get_checkpoints(result.id)[:3]
    assert [node.name for node in last.nodes] == ["generator"]
    assert before.next_nodes == ["retriever"]
    assert "documents" not in wtb.get_state(result.id, before.id).values
    wtb.close()


@pytest.mark.usefixtures("project")
async def test_the_second_example(stack: Stack) -> None:
    wtb = await asyncio.to_thread(WTBTestBench, stack.url)
    batch_result = await wtb.run_batch_test_async(
        project="rag_pipeline",
        variant_matrix=[
            {"retriever": "default"},
            {"retriever": "bm25_retriever"},
            {"_workflow": "simple_rag_architecture"},
        ],
        test_cases=[{"query": "Test query"}],
        timeout=60,
    )
    assert batch_result.status == "COMPLETED"
    rows = await asyncio.to_thread(lambda: batch_result.results)
    assert {row.variant: row.status for row in rows} == {
        "retriever=default": "DONE",
        "retriever=bm25_retriever": "DONE",
        "workflow=simple_rag_architecture": "DONE",
    }
    wtb.close()


def test_a_leaderboard_tells_the_variants_apart(
    bench: WTBTestBench, project: WorkflowProject, pipeline: ModuleType
) -> None:
    bench.register_project(project)
    seen: list[int] = []
    batch = bench.run_batch_test(
        project,
        [
            {"_name": "baseline"},
            {"retriever": "bm25_retriever"},
            {"retriever": "faiss_retriever"},
            {"_workflow": "simple_rag_architecture"},
        ],
        [*CASES, Case(id="boom", input={"query": "boom"}, expected="no such document")],
        [EXACT, pipeline.brevity],
        repetitions=2,
        progress=lambda p: seen.append(p.finished),
        timeout=60,
    )
    assert (batch.status, batch.info.cells, seen[-1]) == ("COMPLETED", 40, 40)
    failed = [row for row in batch.results if row.status == "FAILED"]
    assert {(row.variant, row.case_id, row.repetition) for row in failed} == {
        (variant, "boom", repetition)
        for variant in ("baseline", "retriever=bm25_retriever", "retriever=faiss_retriever")
        for repetition in (0, 1)
    }
    for row in failed:
        assert row.error is not None
        assert (row.error["code"], row.error["node"]) == ("node_failed", "generator")
        assert (row.error["type"], row.error["attempt"]) == ("ValueError", 1)
        assert row.error["message"] == "no answer to boom"
        assert "rag_pipeline.py" in row.error["traceback"]
    board = batch.leaderboard()
    assert (board.primary, board.complete) == ("exact", True)
    exact = {row.variant: row.metrics[0] for row in board.rows}
    assert {variant: metric.mean for variant, metric in exact.items()} == {
        "retriever=bm25_retriever": 0.8,
        "workflow=simple_rag_architecture": 0.8,
        "baseline": 0.2,
        "retriever=faiss_retriever": 0.2,
    }
    assert {row.variant for row in board.rows[:2]} == {
        "retriever=bm25_retriever",
        "workflow=simple_rag_architecture",
    }
    for entry in board.rows:
        assert [metric.metric for metric in entry.metrics] == ["exact", "brevity"]
        assert entry.errors == (0 if "workflow" in entry.variant else 2)
        assert entry.latency_p50_ms is not None
        for metric in entry.metrics:
            assert (metric.n, metric.cases) == (10, 5)
            assert metric.low is not None
            assert metric.mean is not None
            assert metric.high is not None
            assert metric.low <= metric.mean <= metric.high
    assert exact["baseline"].low != exact["baseline"].high
    assert bench.leaderboard(batch.id) == board
    assert "<table>" in batch._repr_html_()
    assert bench.get_batch(batch.id).results == batch.results


@pytest.mark.usefixtures("project")
async def test_variants_change_what_comes_out(remote: AsyncTestBench) -> None:
    given = {
        "default": ["paris"],
        "wide": ["paris", "rome", "seine", "tiber"],
        "bm25_retriever": ["tiber"],
        "bm25_wide": ["tiber", "seine"],
        "faiss_retriever": ["seine"],
    }
    executions = await asyncio.gather(
        *(
            remote.run(NAME, {"query": "river in Italy"}, {"retriever": variant}, timeout=60)
            for variant in given
        )
    )
    assert {e.info.binding["retriever"]: e.state["documents"] for e in executions} == given


@pytest.mark.usefixtures("project")
async def test_sync_nodes_run_beside_each_other(remote: AsyncTestBench) -> None:
    """32 nodes that block for half a second: one after the other they would take 16 s."""
    batch = await remote.run_batch_test(
        NAME,
        [{"_workflow": "waiting"}],
        [{"id": f"c{i}", "input": {"seconds": 0.5}} for i in range(32)],
        timeout=60,
    )
    cells = await batch.results()
    views = await asyncio.gather(*(remote.get_state(cell.execution_id or "") for cell in cells))
    states = [view.values for view in views]
    assert len(states) == 32
    assert max(s["ended"] for s in states) - min(s["began"] for s in states) < 8
    processes = {s["process"] for s in states}
    assert max(most_at_once([s for s in states if s["process"] == p]) for p in processes) >= 8


def most_at_once(states: list[dict[str, Any]]) -> int:
    changes = [(s["began"], 1) for s in states] + [(s["ended"], -1) for s in states]
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most


def test_an_execution_pauses_at_a_breakpoint(bench: WTBTestBench, project: WorkflowProject) -> None:
    execution = bench.run(project, {"query": "rome"}, breakpoints=["generator"], timeout=60)
    assert (execution.status, execution.info.reason) == ("PAUSED", "breakpoint")
    assert execution.next_nodes == ["generator"]
    assert "answer" not in execution.state
    steps = [c.step for c in bench.get_checkpoints(execution.id)]
    assert all(a > b for a, b in pairwise(steps))
    assert bench.stop(execution.id, "seen enough").status == "CANCELLED"


@pytest.mark.usefixtures("project")
def test_a_batch_is_stopped_in_the_middle(
    bench: WTBTestBench, stack: Stack, tmp_path: Path
) -> None:
    """What waits never starts, what runs ends at its next step, and nothing is left hanging."""
    gate = tmp_path / "gate"
    held = {"gate": str(gate)}
    batch = bench.run_batch_test(
        NAME,
        [{"_workflow": "waiting"}],
        [{"id": f"c{i}", "input": {"seconds": 0.05} if i % 10 else held} for i in range(300)],
        wait=False,
    )
    wait_until(lambda: batch.progress().finished)
    assert batch.stop("seen enough").status == "CANCELLED"
    gate.touch()
    with pytest.raises(errors.InvalidTransition, match="CANCELLED"):
        batch.stop()
    wait_until(lambda: {cell.status for cell in batch.results} == {"DONE", "CANCELLED"})
    assert (batch.info.reason, len(batch.results)) == ("seen enough", 300)
    left = "SELECT 1 FROM executions WHERE batch_id = %s AND status IN ('PENDING', 'RUNNING')"
    assert stack.rows(left, [batch.id]) == []
    done = sum(cell.status == "DONE" for cell in batch.results)
    types = Counter(event.type for event in bench.events(batch=batch.id, follow=False))
    assert types["batch.cancelled"] == 1
    assert types["batch.completed"] == 0
    assert types["execution.completed"] == done


@pytest.mark.usefixtures("project")
def test_a_run_is_stopped_at_its_next_step(bench: WTBTestBench, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    execution = bench.run(NAME, {"gate": str(gate)}, {"_workflow": "waiting"}, wait=False)
    wait_until((tmp_path / "gate.reached").exists)
    bench.stop(execution.id, "why not")
    gate.touch()
    ended = bench.wait(execution, timeout=60)
    assert (ended.status, ended.info.reason) == ("CANCELLED", "why not")
    assert "ended" in ended.state  # the node that ran was let end
    assert "rested" not in ended.state
    with pytest.raises(errors.InvalidTransition, match="CANCELLED"):
        bench.stop(execution.id)
    [told] = bench.events(types=["execution.cancelled"], execution=execution.id, follow=False)
    assert told.payload == {"reason": "why not"}


ANSWERS = """
from typing import TypedDict
from langgraph.graph import START, StateGraph
import helper

class State(TypedDict, total=False):
    x: int
    said: str

def say(state):
    return {"said": helper.PREFIX + str(state["x"])}

def graph():
    return StateGraph(State).add_node("say", say).add_edge(START, "say")
"""


def written(root: Path, prefix: str) -> Path:
    """A project whose modules have the same names as those of others like it."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "answers.py").write_text(ANSWERS)
    (root / "helper.py").write_text(f"PREFIX = {prefix!r}\n")
    return root


async def test_versions_and_projects_run_their_own_code(
    remote: AsyncTestBench, tmp_path: Path
) -> None:
    """A changed file is a new version beside the old one, and equal module names do not mix."""
    root = written(tmp_path / "one", "old ")
    project = WorkflowProject("changing", "answers:graph", root=root)
    old = await remote.register_project(project)
    assert (await remote.register_project(project)).version == old.version
    written(root, "new ")
    written(tmp_path / "two" / "src", "other ")
    new, other = await asyncio.gather(
        remote.register_project(WorkflowProject("changing", "answers:graph", root=root)),
        remote.register_project(WorkflowProject("other", "answers:graph", root=tmp_path / "two")),
    )
    assert len({old.version, new.version, other.version}) == 3
    assert len({old.spec.bundle, new.spec.bundle, other.spec.bundle}) == 3
    runs = [
        ("changing", old.version, "old "),
        ("changing", new.version, "new "),
        ("changing", new.version, "new "),
        ("other", other.version, "other "),
    ] * 4
    executions = await asyncio.gather(
        *(
            remote.run(name, {"x": i}, timeout=60, version=version)
            for i, (name, version, _) in enumerate(runs)
        )
    )
    assert [e.state["said"] for e in executions] == [
        f"{said}{i}" for i, (_, _, said) in enumerate(runs)
    ]
    assert {e.info.version for e in executions[2::4]} == {new.version}
    again = await remote.register_project(
        WorkflowProject("changing", "answers:graph", root=written(root, "old "))
    )
    assert again.version == old.version


SCRIPT = """
import json
import sys
from typing import TypedDict

from langgraph.graph import START, StateGraph

import beside
from wtb_ray.sdk import WorkflowProject, WTBTestBench


class State(TypedDict, total=False):
    x: int


async def node(state: State) -> State:
    return {"x": beside.double(state["x"])}


def plus(state: State) -> State:
    return {"x": state["x"] + 10}


def graph():
    return StateGraph(State).add_node("node", node).add_edge(START, "node")


async def even(result):
    return float(result.state["x"] % 2 == 0)

"""
GUARDED = """
if __name__ == "__main__":
    with WTBTestBench(sys.argv[1]) as bench:
        project = WorkflowProject("script", graph)
        project.register_variant("node", "plus", plus)
        bench.register_project(project)
        batch = bench.run_batch_test(project, [{}, {"node": "plus"}], [{"x": 3}], [even], timeout=60)
        found = {row.variant: row.scores for row in batch.results}
        run = bench.run(project, {"x": 3}, {"node": "plus"}, timeout=60)
        print(json.dumps({"scores": found, "state": run.state}))
"""
UNGUARDED = """
WTBTestBench(sys.argv[1]).register_project(WorkflowProject("unguarded", graph))
"""


@contextmanager
def started(script: Path, url: str) -> Iterator["subprocess.Popen[str]"]:
    """A script as its author runs it."""
    command = [sys.executable, script.name, url]
    with subprocess.Popen(
        command, cwd=script.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process


def test_a_script_registers_what_it_defines_itself(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "guarded.py").write_text(SCRIPT + GUARDED)
    (tmp_path / "unguarded.py").write_text(SCRIPT + UNGUARDED)
    with (
        started(tmp_path / "guarded.py", stack.url) as guarded,
        started(tmp_path / "unguarded.py", stack.url) as unguarded,
    ):
        out, err = guarded.communicate(timeout=100)
        assert guarded.returncode == 0, err
        assert json.loads(out) == {
            "scores": {"default": {"even": 1.0}, "node=plus": {"even": 0.0}},
            "state": {"x": 13},
        }
        out, err = unguarded.communicate(timeout=100)
        assert (unguarded.returncode, out) == (1, "")
        assert "guard" in err.splitlines()[-1], err
