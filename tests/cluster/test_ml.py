"""The ML example on the bench: its files belong to its checkpoints, and its variants compare."""

import hashlib
import json

import pytest

from wtb_ray.cli import walk
from wtb_ray.examples import ml
from wtb_ray.sdk import WTBTestBench, calls


@pytest.fixture
def project(bench: WTBTestBench) -> str:
    return bench.send(calls.register(ml.project())).project


def test_a_diverged_training_fails_with_its_reason_and_keeps_what_came_before(
    bench: WTBTestBench, project: str
) -> None:
    failed = walk.diverge(bench, project)
    assert failed.status == "FAILED"
    assert failed.error is not None
    assert (failed.error.type, failed.error.node) == ("TrainingDiverged", "train")
    assert failed.next_nodes == ["train"]
    kept = {entry.path for entry in bench.files(failed.id)}
    assert {"data/table.npz", "model/transform.npz", "reports/profile.json"} <= kept
    assert not {"model/model.npz", "reports/loss.csv"} & kept


def test_state_and_files_of_a_waiting_execution_fit_at_every_attempt(
    bench: WTBTestBench, project: str
) -> None:
    paused = walk.ask(bench, project)
    assert (paused.status, paused.info.reason) == ("PAUSED", "interrupt")
    assert paused.next_nodes == ["approve"]
    evaluated = [
        checkpoint.id
        for checkpoint in bench.get_checkpoints(paused.id)
        if [node.name for node in checkpoint.nodes] == ["evaluate"]
    ]
    assert len(evaluated) == len(paused.state["history"]) == 2
    contents = set()
    for checkpoint in evaluated:
        state = bench.get_state(paused.id, checkpoint).values
        for name in ("model", "report", "plot"):
            path = state[name]["ref"].removeprefix("workspace:")
            content = bench.read_file(paused.id, path, checkpoint)
            assert hashlib.sha256(content).hexdigest() == state[name]["sha256"]
            contents.add(content)
        report = bench.read_file(paused.id, "reports/metrics.json", checkpoint)
        assert json.loads(report)["metrics"] == state["metrics"]
    assert len(contents) == 6


def test_the_walk_mends_goes_back_forks_and_approves(
    bench: WTBTestBench, project: str, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = walk.diverge(bench, project)
    mended = walk.recover(bench, failed)
    assert (mended.id, mended.info.reason) == (failed.id, "interrupt"), "the same execution"
    assert mended.state["trying"]["learning_rate"] == walk.SAFE_RATE
    tree = bench.branches(mended.id)
    assert len(tree.branches) == 2, "what failed is still in its history"

    asked = walk.ask(bench, project)
    changed = {change.path for change in walk.go_back(bench, asked)}
    assert {"model/model.npz", "reports/metrics.json"} <= changed
    forked = walk.fork(bench, asked)
    assert forked.info.forked_from == asked.id
    assert forked.state["metrics"] != asked.state["metrics"]
    done = walk.approve(bench, asked)
    assert done.status == "COMPLETED"
    assert done.state["metrics"] == asked.state["metrics"], "the fork has changed nothing here"
    assert "output/classifier.npz" in {entry.path for entry in bench.files(done.id)}
    assert "somebody approves" in capsys.readouterr().out


def test_a_batch_compares_the_variants(bench: WTBTestBench, project: str) -> None:
    matrix = [{"train": model} for model in ml.project().variants["train"]]
    batch = bench.run_batch_test(project, matrix, ml.cases()[::7], ml.scorers(), timeout=120)
    assert {result.status for result in batch.results} == {"DONE"}
    assert {name for result in batch.results for name in result.scores} == {
        *("accuracy", "macro_f1", "reached", "deployed")
    }
    board = batch.leaderboard()
    assert board.primary == "accuracy"
    means = {row.metrics[0].mean for row in board.rows}
    assert len(means) == len(matrix) == 3
    assert all(mean is not None and 0.6 < mean < 1 for mean in means)
