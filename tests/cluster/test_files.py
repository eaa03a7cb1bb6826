"""Files through the whole bench, with real processes: a killed runner, a directory of its own."""

import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.stack import Stack, wait_until
from wtb_ray import errors
from wtb_ray.sdk import (
    FileTrackingConfig,
    WorkflowProject,
    WorkspaceIsolationConfig,
    WTBTestBench,
)

ROOT = Path(__file__).parents[1] / "projects" / "desk"
WHOLE = "alpha\nbeta\nhalf\nwhole\n"


def project(name: str, **isolation: Any) -> WorkflowProject:
    return WorkflowProject(
        name=name,
        graph_factory="desk:graph",
        root=ROOT,
        file_tracking=FileTrackingConfig(),
        workspace_isolation=WorkspaceIsolationConfig(inputs=("data",), **isolation),
    )


def lines(trace: Path, node: str) -> list[list[str]]:
    """Process and directory of each run of a node."""
    rows = trace.read_text().splitlines() if trace.exists() else []
    return [row.split()[1:] for row in rows if row.split()[0] == node]


def test_a_killed_runner_tears_no_file(bench: WTBTestBench, stack: Stack, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    bench.register_project(project("desk"))
    state = {"trace": str(trace), "seconds": 3}
    started = bench.run(project="desk", initial_state=state, wait=False)
    [[pid, directory]] = wait_until(lambda: lines(trace, "enlarge"))
    report = Path(directory) / "output" / "report.txt"
    wait_until(lambda: "half" in report.read_text())
    psutil.Process(int(pid)).send_signal(signal.SIGKILL)
    wait_until(lambda: bench.get_execution(started.id).status in ("COMPLETED", "FAILED"), 90)
    done = bench.get_execution(started.id)
    assert (done.status, done.state["text"]) == ("COMPLETED", WHOLE)
    assert len(lines(trace, "collect")) == 1
    assert [run[0] for run in lines(trace, "enlarge")].count(pid) == 1
    assert bench.read_file(done.id, "output/report.txt") == WHOLE.encode()
    [lost] = [t for t in bench.trash(done.id) if t.entry.path == "output/report.txt"]
    assert lost.entry.size == len("alpha\nbeta\nhalf\n"), "what the killed node left is not lost"
    newest, *_, first = [c for c in bench.get_checkpoints(done.id) if c.step > 0]
    [change] = bench.diff_files(done.id, first.id, newest.id, text=True)
    assert (change.path, change.change) == ("output/report.txt", "changed")
    assert change.diff is not None
    assert "+whole" in change.diff
    wait_until(lambda: not Path(directory).parent.exists(), 10)
    back = bench.restore_trash(done.id, lost.restore_id)
    assert "output/report.txt" in back.paths
    assert bench.read_file(done.id, "output/report.txt") == b"alpha\nbeta\nhalf\n"


def test_an_isolated_process_works_in_its_own_directory(
    bench: WTBTestBench, tmp_path: Path
) -> None:
    bench.register_project(project("desk-alone", isolation="process"))
    shared = bench.run(
        project="desk-alone", initial_state={"trace": str(tmp_path / "t")}, timeout=90
    )
    assert (shared.state["place"], shared.state["text"]) == ("inside", WHOLE)


def test_inputs_that_are_not_there_are_refused(bench: WTBTestBench) -> None:
    wrong = WorkflowProject(
        name="desk-wrong",
        graph_factory="desk:graph",
        root=ROOT,
        workspace_isolation=WorkspaceIsolationConfig(inputs=("nothing",)),
    )
    with pytest.raises(errors.InvalidRequest, match="nothing"):
        bench.register_project(wrong)
