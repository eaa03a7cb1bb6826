"""Batches end by themselves with the undisturbed results, whatever dies in the middle."""

import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.stack import Stack, wait_until
from wtb_ray.model import ScorerSpec
from wtb_ray.sdk import WorkflowProject, WTBTestBench

ROOT = Path(__file__).parents[1] / "projects" / "faults"
SCORERS = [ScorerSpec(name="exact", args={"field": "total"})]


@pytest.fixture
def project(bench: WTBTestBench) -> str:
    """The faulty project, registered."""
    bench.register_project(WorkflowProject(name="faults", graph_factory="faulty:graph", root=ROOT))
    return "faults"


def cases(n: int, trace: Path, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "id": f"c{i}",
            "input": {"x": i, "trace": str(trace), "seconds": 0.2, **more},
            "expected": (i + 1) * 2,
        }
        for i in range(n)
    ]


def run_disturbed(
    bench: WTBTestBench, project: str, test_cases: list[dict[str, Any]], disturb: Callable[[], None]
) -> Any:
    """The batch after `disturb` was called with a quarter of it done."""
    batch = bench.run_batch_test(
        project=project, variant_matrix=[{}], test_cases=test_cases, scorers=SCORERS, wait=False
    )
    wait_until(lambda: batch.progress().finished >= len(test_cases) // 4)
    disturb()
    return batch.wait(timeout=120)


def undisturbed(batch: Any, trace: Path, n: int, variants: int = 1) -> None:
    """All cells are done and right, and every node left its trace at least once."""
    results = batch.results
    assert Counter(r.status for r in results) == {"DONE": n * variants}
    assert all(r.scores == {"exact": 1.0} for r in results)
    runs = Counter(trace.read_text().split("\n"))
    for i in range(n):
        for node in ("first", "second", "third"):
            assert runs[f"{i} {node}"] >= 1, (i, node)


def kill_runner(stack: Stack) -> None:
    busy = stack.rows(
        "SELECT l.pid FROM leases l JOIN executions e ON e.owner = l.id"
        " WHERE l.status = 'READY' GROUP BY l.pid ORDER BY count(*) DESC LIMIT 1"
    )
    psutil.Process(busy[0]["pid"]).send_signal(signal.SIGKILL)


def kill_scheduler(stack: Stack) -> None:
    assert stack.kill("ray::BatchScheduler")


def kill_controller(stack: Stack) -> None:
    assert stack.kill("ServeReplica:wtb:ExecutionController")


def kill_postgres(stack: Stack) -> None:
    psutil.Process(stack.postmaster()).send_signal(signal.SIGKILL)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "disturb",
    [kill_runner, kill_scheduler, kill_controller, kill_postgres],
    ids=lambda f: f.__name__,
)
def test_a_kill_in_the_middle_changes_no_result(
    bench: WTBTestBench,
    stack: Stack,
    project: str,
    tmp_path: Path,
    disturb: Callable[[Stack], None],
) -> None:
    trace = tmp_path / "trace"
    n = 160
    batch = run_disturbed(bench, project, cases(n, trace), lambda: disturb(stack))
    undisturbed(batch, trace, n)
    runs = Counter(line.split()[1] for line in trace.read_text().splitlines())
    if disturb is kill_scheduler or disturb is kill_controller:
        assert runs == {"first": n, "second": n, "third": n}


@pytest.mark.timeout(240)
def test_a_node_that_blocks_its_loop_for_three_leases_is_not_taken_for_dead(
    bench: WTBTestBench, stack: Stack, project: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    test_cases = cases(40, trace)
    test_cases[7]["input"] |= {"deed": "block", "blocks": 9.5}
    batch = bench.run_batch_test(
        project=project, variant_matrix=[{}], test_cases=test_cases, scorers=SCORERS, timeout=120
    )
    undisturbed(batch, trace, 40)
    assert Counter(trace.read_text().splitlines())["7 second"] == 1
    lags = list(bench.events(types=["runner.lagged"], follow=False))
    assert any("second" in e.payload["nodes"] and e.payload["lag_ms"] > 5000 for e in lags)
    rows = stack.rows(
        "SELECT max(attempt) AS attempts, max(suspect) AS suspects FROM executions"
        " WHERE batch_id = %s",
        (batch.id,),
    )
    assert rows == [{"attempts": 1, "suspects": 0}]


@pytest.mark.timeout(300)
def test_a_node_that_ends_its_process_fails_alone(
    bench: WTBTestBench, project: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    test_cases = cases(64, trace)
    test_cases[30]["input"] |= {"deed": "exit"}
    started = time.monotonic()
    batch = bench.run_batch_test(
        project=project, variant_matrix=[{}], test_cases=test_cases, scorers=SCORERS, timeout=200
    )
    results = {r.case_id: r for r in batch.results}
    failed = results.pop("c30")
    assert failed.status == "FAILED"
    assert failed.error is not None
    assert failed.error["code"] == "runner_died"
    assert {r.status for r in results.values()} == {"DONE"}
    assert all(r.scores == {"exact": 1.0} for r in results.values())
    assert time.monotonic() - started < 200
