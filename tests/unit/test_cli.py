"""What `wtb` prints and refuses without talking to anything."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console, RenderableType
from typer.testing import CliRunner

from tests.canned import BATCH, Canned, board, cells
from wtb_ray import api, errors
from wtb_ray.cli import app, checks, options, render
from wtb_ray.cli.board import leaderboard, plot
from wtb_ray.cli.demo import spread
from wtb_ray.cli.progress import Lines
from wtb_ray.cli.terminal import error_line
from wtb_ray.model import Case, ScorerSpec

COMMANDS = [
    "up",
    "down",
    "demo",
    "project register",
    "project list",
    "project show",
    "project nodes",
    "run",
    "batch run",
    "batch status",
    "batch list",
    "batch results",
    "batch stop",
    "ci run",
    "ci status",
    "leaderboard",
    "exec files",
    "exec diff",
    "exec trash",
    "files stats",
    "files collect",
    "files rehash",
    "files commits",
    "events",
    "audit verify",
    "audit show",
    "audit export",
    "db upgrade",
    "doctor",
]


def shown(view: RenderableType, width: int = 120) -> list[str]:
    """The lines of what is printed at this width."""
    console = Console(file=StringIO(), width=width, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(view)
    return [line.rstrip() for line in captured.get().splitlines()]


def wtb(*words: str, **environment: str) -> Any:
    return CliRunner().invoke(app, list(words), env={"WTB_URL": "", **environment})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = wtb(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Usage: wtb {command}" in result.stdout


def test_help_says_what_exit_codes_mean() -> None:
    lines = wtb("--help").stdout.splitlines()
    codes = lines[lines.index("  Exit codes:") + 1 :]
    assert [line.split()[0] for line in codes[:5]] == ["0", "1", "2", "3", "130"]


def test_without_a_command_it_helps() -> None:
    assert "Commands:" in wtb().output


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["run"], "PROJECT"),
        (["nonsense"], "No such command 'nonsense'"),
        (["run", "rag", "--nonsense"], "--nonsense"),
        (["run", "rag", "--input", "{"], "not JSON"),
        (["run", "rag", "--input", "[]"], "a JSON object is needed"),
        (["run", "rag", "--input", "@nowhere.json"], "cannot read nowhere.json: No such file"),
        (["run", "rag", "--variant", "bm25"], "'bm25' is not of the form node=variant"),
        (["run", "rag", "--variant", "a=b", "--variant", "a=c"], "'a' is given twice"),
        (["run", "rag", "--recursion-limit", "0"], "--recursion-limit"),
        (["batch", "run", "rag"], "--cases"),
        (["batch", "run", "rag", "--cases", "nowhere.jsonl"], "nowhere.jsonl"),
        (["batch", "run", "rag", "--cases", __file__], "--variants / --grid"),
        (["batch", "run", "rag", "--cases", __file__, "--variants", "[1]"], "list of objects"),
        (["batch", "run", "rag", "--cases", __file__, "--grid", "a=b,"], "variant,variant"),
        (["batch", "results", BATCH, "--status", "odd"], "--status"),
        (["project", "register", "a:b", "--variant", "x=y"], "node=name=package.module:function"),
        (["project", "register", "a:b", "--param", "x=y=k=v"], "not JSON"),
        (["events", "--type", "odd"], "there is no event 'odd'; there are batch.budget_changed"),
        (["audit", "show", "--type", "odd"], "there is no event 'odd'"),
        (["audit", "show", "--since", "yesterday"], "'yesterday' is no time"),
        (["audit", "verify", "--from", "0"], "--from"),
        (["project", "register", "a:b", "--file-tracking", "[]"], "a JSON object is needed"),
        (["project", "register", "a:b", "--file-tracking", '{"max_files": 0}'], "max_files"),
        (["project", "register", "a:b", "--workspace", '{"odd": 1}'], "odd"),
        (["exec", "files"], "ID"),
        (["exec", "trash", "e1", "a.txt"], "--restore"),
        (["demo", "odd"], "odd"),
        (["db", "upgrade"], "WTB_DATABASE_URL"),
        (["up", "--http-port", "70000"], "--http-port"),
    ],
)
def test_wrong_use_is_exit_code_2_and_says_what_is_wrong(words: list[str], reason: str) -> None:
    result = wtb(*words, WTB_DATABASE_URL="")
    assert result.exit_code == 2
    assert reason in result.stderr
    assert result.stdout == ""


def test_without_a_stack_it_says_how_to_start_one(tmp_path: Path) -> None:
    result = wtb("project", "list", WTB_DATA_DIR=str(tmp_path))
    assert result.exit_code == 1
    assert result.stderr.startswith(
        f"error: no local stack runs in {tmp_path}: start it with `wtb up`"
    )


def test_a_wrong_setting_is_named() -> None:
    result = wtb("doctor", WTB_HTTP_PORT="many")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: WTB_HTTP_PORT: ")
    assert "(configuration_error)" in result.stderr


def test_the_matrix_is_all_rows_and_then_the_grid(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"a": "1", "_name": "first"}, {}]')
    rows = options.matrix([f"@{path}", "a=2,b=3", '{"_workflow": "w"}'], ["a=4,5", "b=6"])
    assert rows == [
        {"a": "1", "_name": "first"},
        {},
        {"a": "2", "b": "3"},
        {"_workflow": "w"},
        {"a": "4", "b": "6"},
        {"a": "5", "b": "6"},
    ]


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("exact", ScorerSpec(name="exact")),
        ('recall_at_k:{"k": 5}', ScorerSpec(name="recall_at_k", args={"k": 5})),
        ("my.scores:style", ScorerSpec(name="my.scores:style")),
        ('my.scores:style:{"of": {}}', ScorerSpec(name="my.scores:style", args={"of": {}})),
    ],
)
def test_a_scorer_is_a_name_with_arguments(text: str, spec: ScorerSpec) -> None:
    assert options.scorer(text) == spec


def test_a_scorer_with_broken_arguments_is_wrong_use() -> None:
    with pytest.raises(typer.BadParameter, match="not JSON"):
        options.scorer('exact:{"k": ')


def test_an_error_shows_its_details_but_not_a_flood() -> None:
    error = errors.InvalidRequest("no", field="test_cases.3.id", reason="x" * 500, known=["a"])
    line = error_line(error)
    assert line.startswith("error: no (invalid_request) [field=test_cases.3.id, reason=xxx")
    assert len(line) < 300


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (None, "–"),
        (0.04, "0.0 ms"),
        (9.96, "10.0 ms"),
        (12.4, "12 ms"),
        (999.4, "999 ms"),
        (1234, "1.23 s"),
        (61_000, "1 min 01 s"),
        (3_725_000, "1 h 02 min"),
    ],
)
def test_durations_are_in_the_unit_that_reads_best(ms: float | None, text: str) -> None:
    assert render.duration(ms) == text


@pytest.mark.parametrize("width", [80, 120])
def test_no_number_of_a_leaderboard_is_cut_off(width: int) -> None:
    lines = shown(leaderboard(board(), width), width)
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert "0.750 [0.625, 0.875]" in text
    assert "12 ms" in text
    assert "1.25 s" in text


def test_a_narrow_leaderboard_keeps_the_interval_of_the_first_metric_only() -> None:
    found = board()
    rows = [
        row.model_copy(
            update={
                "metrics": [
                    api.MetricSummary(metric="mrr", n=2, cases=2, mean=0.5, low=0.25, high=0.75),
                    *row.metrics,
                ]
            }
        )
        for row in found.rows
    ]
    found = found.model_copy(update={"rows": rows})
    wide, narrow = ("\n".join(shown(leaderboard(found, w), w)) for w in (120, 80))
    assert wide.index("exact") < wide.index("mrr"), "the primary metric comes first"
    assert "0.500 [0.250, 0.750]" in wide
    assert "[0.250, 0.750]" not in narrow
    assert "0.750 [0.625, 0.875]" in narrow


def test_an_unfinished_leaderboard_says_so_with_its_notes() -> None:
    found = board().model_copy(update={"complete": False, "notes": ["the cache was shared"]})
    text = "\n".join(shown(leaderboard(found)))
    assert "the batch has not ended" in text
    assert "the cache was shared" in text


def test_bars_are_as_long_as_the_means_with_their_intervals() -> None:
    lines = shown(plot(board(), 120, unicode=False))
    assert lines[0] == "exact"
    first = lines[1].split()[1]
    assert first == "#" * 27 + "-" * 5 + "|" + "-" * 6
    assert lines[-1].split() == ["0", "1"]


def test_a_leaderboard_without_scores_is_still_shown() -> None:
    found = board()
    rows = [row.model_copy(update={"metrics": []}) for row in found.rows]
    found = found.model_copy(update={"rows": rows, "primary": None})
    assert "retrieve=bm25" in "\n".join(shown(leaderboard(found)))
    assert "4 cells, none with a score" in "\n".join(shown(leaderboard(found)))
    assert shown(plot(found)) == []


def test_user_text_is_never_taken_for_markup() -> None:
    cell = cells()[0].model_copy(update={"case_id": "[bold]x[/bold]", "error": {"message": "[/]"}})
    text = "\n".join(shown(render.results([cell])))
    assert "[bold]x[/bold]" in text
    assert "[/]" in text


def test_an_execution_that_failed_shows_where_why_and_the_traceback() -> None:
    lines = shown(render.execution(Canned().execution("fails")))
    assert "ValueError in node retrieve: no documents (node_failed)" in lines
    assert "Traceback (most recent call last):" in lines


def test_progress_outside_of_a_terminal_is_a_line_for_each_tenth(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = Lines(Console(width=200))
    for finished in range(101):
        lines(
            api.Progress(
                id=BATCH,
                status="RUNNING" if finished < 100 else "COMPLETED",
                total=100,
                counts={"FAILED": 3},
                finished=finished,
                percent=finished,
                rate=10.0,
                remaining_s=(100 - finished) / 10,
            )
        )
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 11
    assert printed[1] == (
        f"batch {BATCH} running: 10 of 100 cells (10 %), 10.0 cells/s, 9 s to go, 3 failed"
    )
    assert "completed: 100 of 100 cells" in printed[-1]


def test_a_limited_demo_takes_cases_from_the_whole_list() -> None:
    cases = [Case(id=str(number), input={}) for number in range(10)]
    assert [case.id for case in spread(cases, 4)] == ["0", "2", "5", "7"]
    assert spread(cases, None) == cases


@pytest.mark.parametrize(
    ("version", "level"), [((3, 10, 9), "FAIL"), ((3, 11, 0), "OK"), ((3, 14, 1), "OK")]
)
def test_doctor_refuses_an_old_python(version: tuple[int, int, int], level: str) -> None:
    assert checks.python(version).level == level


@pytest.mark.parametrize(("free", "level"), [(0.5, "FAIL"), (2.0, "WARN"), (4.0, "OK")])
def test_doctor_weighs_what_is_free(free: float, level: str) -> None:
    found = checks.room("memory", free, 4, "close other programs")
    assert found.level == level
    assert bool(found.cure) == (level != "OK")


def test_doctor_finds_a_data_directory_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    found = checks.data_dir(file / "below")
    assert found.level == "FAIL"
    assert "WTB_DATA_DIR" in found.cure
    assert checks.data_dir(tmp_path / "not" / "there" / "yet").level != "FAIL"
    assert list(tmp_path.iterdir()) == [file], "a check left something behind"


def test_doctor_finds_the_packages_that_are_needed() -> None:
    assert checks.packages().level == "OK"


def test_json_answers_are_machine_readable(tmp_path: Path) -> None:
    result = wtb("doctor", "--json", WTB_DATA_DIR=str(tmp_path))
    assert {"name", "level", "detail", "cure"} == json.loads(result.stdout)["checks"][0].keys()
