"""The walk of `wtb demo ml`: what it asks of a bench, and what a user reads."""

from typing import Any

import httpx
import pytest

from tests.unit.sdk_server import EXECUTION, NOW, STATE, URL, Server
from wtb_ray.cli import walk
from wtb_ray.sdk import WTBTestBench


@pytest.fixture
def bench(server: Server) -> WTBTestBench:
    return WTBTestBench(URL, transport=httpx.MockTransport(server))


@pytest.fixture
def server() -> Server:
    """A bench on which the first execution fails and the second one asks."""
    made = Server()
    fault = {
        "code": "node_failed",
        "type": "TrainingDiverged",
        "message": "the loss is nan",
        "node": "train",
    }
    failed = {**EXECUTION, "project": "ml", "status": "FAILED", "error": fault}
    paused = {**EXECUTION, "id": "e2", "project": "ml", "status": "PAUSED", "reason": "interrupt"}
    asked: dict[str, Any] = {"id": "i1", "value": {"question": "Deploy this model?"}}
    made.on("POST /workflows/ml/execute", failed, paused)
    made.on("GET /executions/e1", failed)
    made.on("GET /executions/e2", paused)
    made.on("GET /executions/e1/state", {**STATE, "values": {}, "next_nodes": ["train"]})
    values = {"metrics": {"test": 0.9106}}
    waiting = {**STATE, "values": values, "interrupts": [asked], "next_nodes": ["approve"]}
    made.on("GET /executions/e2/state", waiting)
    made.on("GET /executions/e1/checkpoints", steps("collect", "validate"))
    made.on("GET /executions/e2/checkpoints", steps("validate", "features+profile", "tune"))
    entry = {"path": "model/model.npz", "kind": "file", "size": 9000, "mode": 420}
    listed = {"execution_id": "e2", "checkpoint_id": "c9", "next": None}
    made.on("GET /executions/e2/files", {**listed, "items": [{**entry, "digest": "d" * 64}]})
    return made


def steps(*names: str) -> dict[str, Any]:
    """A page of checkpoints, newest first; the oldest is the input, where no node ran."""
    items = [
        {
            "id": f"c{number}",
            "thread_id": "e1.0",
            "step": number,
            "source": "loop",
            "nodes": [
                {"name": node, "task_id": "t", "duration_ms": 2.0}
                for node in name.split("+")
                if node
            ],
            "next_nodes": [],
            "duration_ms": 2.5,
            "created_at": NOW,
        }
        for number, name in enumerate(["", *names])
    ]
    return {"items": items[::-1], "next": None}


def test_the_walk_shows_a_failure_a_question_and_the_files(
    server: Server, bench: WTBTestBench, capsys: pytest.CaptureFixture[str]
) -> None:
    walk.diverge(bench, "ml")
    walk.look(bench, walk.ask(bench, "ml"))
    started = [request for request in server.requests if request.method == "POST"]
    assert [b'"tune":"bold"' in request.content for request in started] == [True, False]
    text = capsys.readouterr().out
    assert "TrainingDiverged in node train: the loss is nan" in text
    assert text.count("asks") == 1
    assert "Deploy this model?" in text
    assert "0.9106" in text
    assert "model/model.npz" in text
    assert text.index("validate") < text.index("features, profile") < text.index("Deploy")
    assert "run ml --variant tune=bold" in text


def test_each_part_gives_back_what_the_next_one_needs(bench: WTBTestBench) -> None:
    assert walk.diverge(bench, "ml").status == "FAILED"
    asked = walk.ask(bench, "ml")
    assert [each["id"] for each in asked.interrupts] == ["i1"]
    assert walk.look(bench, asked) == ["model/model.npz"]
