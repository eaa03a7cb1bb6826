"""`wtb ci run` on a real cluster: one submission is one job and one batch, whatever happens to it."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as Xml

import pytest
from ray.job_submission import JobSubmissionClient
from typer.testing import CliRunner

from tests.cluster.pipeline import NAME, QUESTIONS, described, imported
from tests.stack import Stack, wait_until
from wtb_ray.cli import app
from wtb_ray.model import new_id
from wtb_ray.sdk import WTBTestBench

pytestmark = pytest.mark.timeout(240)

REPORTS = "leaderboard.json", "leaderboard.txt", "results.jsonl", "junit.xml"
EXACT = ("--scorer", 'exact:{"field": "answer"}')
Wtb = Callable[..., tuple[str, str]]
Start = Callable[..., "subprocess.Popen[str]"]


class Door:
    """Connections to the dashboard, which a test can shut."""

    def __init__(self, url: str) -> None:
        self._target = (urlsplit(url).hostname, urlsplit(url).port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.shut = False
        self.refused = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                if self.shut:
                    self.refused += 1
                    client.close()
                    continue
                server = socket.create_connection(self._target)
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    def _copy(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module", autouse=True)
def project(stack: Stack) -> None:
    with imported() as module, WTBTestBench(stack.url) as bench:
        bench.register_project(described(module))


@pytest.fixture
def jobs(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> JobSubmissionClient:
    """Ray's own client, as a witness."""
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    return JobSubmissionClient(stack.dashboard)


@pytest.fixture
def wtb(stack: Stack) -> Wtb:
    """Runs `wtb ci` to its end, which has this exit code, and gives what it has printed."""

    def invoke(code: int, *words: str, **environment: str) -> tuple[str, str]:
        environment = {"RAY_API_SERVER_ADDRESS": stack.dashboard, **environment}
        done = CliRunner().invoke(app, ["ci", *words, "--url", stack.url], env=environment)
        assert done.exit_code == code, done.stderr
        return done.stdout, done.stderr

    return invoke


@pytest.fixture
def start(stack: Stack) -> Iterator[Start]:
    """Starts `wtb ci` in a process of its own."""
    started = []

    def command(*words: str, dashboard: str | None = None) -> "subprocess.Popen[str]":
        program = str(Path(sys.executable).with_name("wtb"))
        where = ["--url", stack.url, "--dashboard", dashboard or stack.dashboard]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [program, "ci", *words, *where], stdout=pipe, stderr=pipe, text=True
        )
        started.append(process)
        return process

    yield command
    for process in started:
        process.kill()
        process.communicate()


def words(cases: Path, *more: str) -> list[str]:
    return ["run", NAME, "--cases", str(cases), "--python", sys.executable, *more]


def ended(process: "subprocess.Popen[str]", code: int) -> tuple[str, str]:
    """What a command has printed, once it has ended with this code."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    return out, err


def made(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    place = tmp_path / "cases.jsonl"
    place.write_text("\n".join(map(json.dumps, rows)))
    return place


def submitted(jobs: JobSubmissionClient, id: str) -> dict[str, str]:
    """The jobs of a submission with their statuses, as Ray has them."""
    found = [job for job in jobs.list_jobs() if (job.submission_id or "").startswith(id)]
    return {job.submission_id: job.status.value for job in found}


def test_a_submission_runs_once_and_leaves_reports(
    wtb: Wtb, jobs: JobSubmissionClient, stack: Stack, tmp_path: Path
) -> None:
    questions = {**QUESTIONS, "boom": "boom"}
    rows = [{"id": a, "input": {"query": q}, "expected": a} for q, a in questions.items()]
    out, run = tmp_path / "reports", new_id("run")
    command = words(made(tmp_path, *rows), *EXACT, "--grid", "retriever=bm25_retriever,wide")

    printed, told = wtb(0, *command, "--json", "--out", str(out), GITHUB_RUN_ID=run)
    answer = json.loads(printed)
    id, batch = answer["submission"], answer["batch"]
    assert id.startswith(f"github-{run}-")
    assert submitted(jobs, id) == {id: "SUCCEEDED"}
    assert batch["status"] == "COMPLETED"
    assert (batch["counts"]["DONE"], batch["counts"]["FAILED"]) == (8, 2)
    assert "10 of 10 cells (100 %)" in told
    assert "\x1b" not in told

    assert {place.name for place in out.iterdir()} == set(REPORTS)
    assert json.loads((out / "leaderboard.json").read_text()) == answer["leaderboard"]
    assert "bm25_retriever" in (out / "leaderboard.txt").read_text()
    assert len((out / "results.jsonl").read_text().splitlines()) == 10
    report = Xml.parse(out / "junit.xml").getroot()
    assert [(suite.get("tests"), suite.get("failures")) for suite in report] == [("5", "1")] * 2
    assert {failure.get("message") for failure in report.iter("failure")} == {"no answer to boom"}

    for code, more in ((0, ()), (3, ("--strict",))):  # attached to, not run again
        again, told = wtb(code, *command, "--json", *more, GITHUB_RUN_ID=run)
        assert f"attached to job {id} (succeeded)" in told
        assert json.loads(again)["batch"] == batch
    assert submitted(jobs, id) == {id: "SUCCEEDED"}
    made_of = {"version": batch["version"], "at": batch["created_at"]}
    later = "SELECT id FROM batches WHERE version = %(version)s AND created_at >= %(at)s"
    assert stack.rows(later, made_of) == [{"id": batch["id"]}]

    other = words(made(tmp_path, *rows[:1]), *EXACT, "--variants", "_name=base")
    _, told = wtb(1, *other, "--submission-id", id)
    assert "is of another request" in told


def test_what_a_job_is_refused_is_told(wtb: Wtb, jobs: JobSubmissionClient, tmp_path: Path) -> None:
    cases = made(tmp_path, {"id": "one", "input": {"query": "one"}})
    id = new_id("refused-")
    _, told = wtb(1, *words(cases, "--variants", "retriever=nobody", "--submission-id", id))
    assert "unknown_variant" in told
    assert submitted(jobs, id) == {id: "FAILED"}


def test_what_is_cut_off_goes_on_with_the_same_batch(
    wtb: Wtb, start: Start, jobs: JobSubmissionClient, stack: Stack, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    cases = made(tmp_path, {"id": "one", "input": {"gate": str(gate)}})
    id = new_id("cut-")
    command = words(cases, "--variants", "_workflow=waiting", "--submission-id", id)

    first = start(*command)
    wait_until(Path(f"{gate}.reached").exists, 120)
    assert jobs.stop_job(id)
    _, told = ended(first, 3)
    assert f"job {id} was stopped; the same command goes on with the batch" in told
    assert submitted(jobs, id) == {id: "STOPPED"}

    door = Door(stack.dashboard)
    second = start(*command, "--json", dashboard=door.url)
    wait_until(lambda: submitted(jobs, id).get(f"{id}~2") == "RUNNING")
    third = start(*command)
    assert third.stderr is not None
    assert f"attached to job {id}~2" in third.stderr.readline()
    third.send_signal(signal.SIGINT)
    assert f"ci status {id}" in ended(third, 130)[1]
    shown = json.loads(wtb(0, "status", id, "--json")[0])
    assert (shown["job"]["id"], shown["batch"]["status"]) == (f"{id}~2", "RUNNING")
    _, told = wtb(1, *command, "--timeout", "0")
    assert "the same command waits for it again" in told

    door.shut = True
    wait_until(lambda: door.refused > 1)
    gate.touch()
    wait_until(lambda: jobs.get_job_status(f"{id}~2").is_terminal())
    door.shut = False
    answer = json.loads(ended(second, 0)[0])
    door.close()
    assert answer["batch"]["id"] == shown["batch"]["id"]
    cells = stack.rows("SELECT status FROM cells WHERE batch_id = %s", [answer["batch"]["id"]])
    assert cells == [{"status": "DONE"}]
    assert submitted(jobs, id) == {id: "STOPPED", f"{id}~2": "SUCCEEDED"}


def test_a_batch_that_is_stopped_is_no_success(
    wtb: Wtb, jobs: JobSubmissionClient, bench: WTBTestBench, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    cases = made(tmp_path, {"id": "one", "input": {"gate": str(gate)}})
    id = new_id("stop-")
    command = words(cases, "--variants", "_workflow=waiting", "--submission-id", id)
    wtb(1, *command, "--timeout", "0")
    wait_until(Path(f"{gate}.reached").exists, 120)
    batch = json.loads(wtb(0, "status", id, "--json")[0])["batch"]["id"]
    bench.get_batch(batch).stop("enough")
    gate.touch()
    for _ in range(2):
        wtb(3, *command)
    assert submitted(jobs, id) == {id: "FAILED"}
