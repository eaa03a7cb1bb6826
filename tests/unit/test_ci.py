"""What follows from a submission of CI, and what is left behind for it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
import yaml
from typer.testing import CliRunner

from tests.canned import EXECUTION, Canned
from wtb_ray import api, cases, errors
from wtb_ray.cli import app, batch, reports
from wtb_ray.cli.ci_runs import Launch
from wtb_ray.cli.jobs import Jobs
from wtb_ray.cli.submissions import CI_RUNS, Submission, derived_id, job_id
from wtb_ray.model import Case
from wtb_ray.serve.local import free_port

ROOT = Path(__file__).parents[2]


def request(**more: Any) -> api.BatchTestRequest:
    return api.BatchTestRequest(
        project="rag", variant_matrix=[{}], test_cases=[{"id": "one"}], **more
    )


def cell(number: int, status: str = "DONE", **more: Any) -> api.CellResult:
    given = {
        "id": number,
        "variant": "base",
        "binding": {},
        "case_id": f"case-{number}",
        "repetition": 0,
        "status": status,
        "execution_id": EXECUTION,
        "scores": {"exact": 1.0},
        "latency_ms": 1250.0,
        **more,
    }
    return api.CellResult.model_validate(given)


@pytest.fixture
def no_ci(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for variable in CI_RUNS.values():
        monkeypatch.delenv(variable, raising=False)
    return monkeypatch


@pytest.mark.usefixtures("no_ci")
def test_cases_keep_their_answers_and_are_others_with_others() -> None:
    given = [
        request().model_copy(update={"test_cases": [Case(id="one", input={}, answers=answers)]})
        for answers in ((), (True, {"by": "card"}))
    ]
    plain, answered = (Submission.of(one, None) for one in given)
    assert plain.batch_id != answered.batch_id
    sent = api.BatchTestRequest.model_validate_json(answered.request)
    assert cases.from_list(sent.test_cases)[0].answers == (True, {"by": "card"})


def test_the_same_request_has_the_same_id_in_the_same_run_of_ci() -> None:
    assert derived_id(b"a", {}) == derived_id(b"a", {}) != derived_id(b"b", {})
    github = {"GITHUB_RUN_ID": "4711", "GITHUB_RUN_ATTEMPT": "2"}
    assert derived_id(b"a", github) == f"github-4711-{derived_id(b'a', {})[4:]}"
    assert derived_id(b"a", {"CI_PIPELINE_ID": "8"}).startswith("gitlab-8-")
    odd = derived_id(b"a", {"BUILD_TAG": "jenkins-a/b ü%" * 20})
    Submission(odd, b"a")  # is an id


def test_job_and_batch_follow_from_id_and_request(no_ci: pytest.MonkeyPatch) -> None:
    one, again = (Submission.of(request(), None) for _ in range(2))
    assert (one.id, one.batch_id) == (again.id, again.batch_id)
    assert one.batch_id != Submission.of(request(), "other").batch_id
    assert one.batch_id != Submission.of(request(repetitions=2), one.id).batch_id
    assert [job_id("a", n) for n in (1, 2, 3)] == ["a", "a~2", "a~3"]


def test_a_request_reaches_the_job_as_it_was_made(tmp_path: Path) -> None:
    sent = Submission.of(request(scorers=["exact"]), "nightly-1")
    sent.write(tmp_path)
    assert Submission.read("nightly-1", tmp_path) == sent


@pytest.mark.parametrize("id", ["", "a b", "a~2", "-a", "a/b", "x" * 101, "ä"])
def test_an_id_that_ray_or_a_path_could_misread_is_refused(id: str) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        Submission(id, b"{}")
    assert caught.value.details["field"] == "--submission-id"


def test_a_token_reaches_the_job_but_not_its_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launch = Launch("rag", "http://bench:8000", "/opt/my env/python")
    monkeypatch.setenv("WTB_TOKEN", "sesame")
    assert launch.environment()["WTB_TOKEN"] == "sesame"
    command = launch.entrypoint(Submission("a", b"{}"))
    assert command == "'/opt/my env/python' -m wtb_ray.cli.ci_job a"
    monkeypatch.delenv("WTB_TOKEN")
    assert launch.environment().keys() == {"WTB_URL", "WTB_ACTOR"}


def test_junit_has_a_suite_a_variant_and_a_case_a_cell() -> None:
    broken = {"type": "ValueError", "message": "bad \x00 <byte>", "traceback": "line\n\x1b[31mred"}
    cells: Sequence[api.CellResult] = [
        cell(1, repetition=1),
        cell(2, "FAILED", error=broken, scores={}),
        cell(3, "EXCLUDED", scores={}),
        cell(4, variant="other"),
    ]
    made = Canned().batch().model_copy(update={"repetitions": 2})
    root = Xml.fromstring(reports.junit(made, cells))
    assert root.attrib | {"name": ""} == {
        "name": "",
        "tests": "4",
        "failures": "1",
        "skipped": "1",
        "errors": "0",
    }
    assert [(suite.get("name"), suite.get("tests")) for suite in root] == [
        ("base", "3"),
        ("other", "1"),
    ]
    first, second, third = root[0]
    assert (first.get("name"), first.get("time")) == ("case-1 #2", "1.250")
    assert first.findtext("system-out") == f"exact = 1.0\nexecution = {EXECUTION}"
    failure = second.find("failure")
    assert failure is not None
    assert failure.get("message") == "bad � <byte>"
    assert failure.text == "line\n�[31mred"
    skipped = third.find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "excluded"


def test_reports_appear_complete_and_replace_those_before(tmp_path: Path) -> None:
    found = api.Leaderboard(
        batch_id="b1", digest="d", primary=None, node_errors="zero", rows=[], complete=True
    )
    out = tmp_path / "new" / "reports"
    for number in (1, 2):
        places = reports.write(out, Canned().batch(), found, [cell(number)])
    assert sorted(places) == sorted(out.iterdir())
    assert '"case-2"' in (out / "results.jsonl").read_text()
    (tmp_path / "file").touch()
    with pytest.raises(errors.WTBError) as caught:
        reports.write(tmp_path / "file", Canned().batch(), found, [])
    assert caught.value.details["field"] == "--out"


@pytest.mark.parametrize(
    ("status", "failed", "strict", "passed"),
    [
        ("COMPLETED", 0, True, True),
        ("COMPLETED", 1, False, True),
        ("COMPLETED", 1, True, False),
        ("FAILED", 0, False, False),
        ("CANCELLED", 0, False, False),
        ("RUNNING", 0, False, False),
    ],
)
def test_only_a_completed_batch_passes(
    status: str, failed: int, strict: bool, passed: bool
) -> None:
    made = Canned().batch()
    made = made.model_copy(update={"status": status, "counts": {"FAILED": failed}})
    assert batch.passed(made, strict) is passed


def test_a_dashboard_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")  # what is asked for counts
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(errors.Unavailable) as caught:
        Jobs(address)
    assert address in caught.value.message
    assert caught.value.details["field"] == "--dashboard"


def test_a_dashboard_that_is_no_address_is_wrong_use(tmp_path: Path) -> None:
    words = ["ci", "status", "a", "--url", "http://127.0.0.1:1", "--dashboard", "head:8265"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "does not begin with http" in done.stderr


def test_whatever_a_batch_can_be_given_can_be_given_in_ci() -> None:
    batch_run, ci_run = (
        set(re.findall(r"^  (--[a-z-]+)", shown.stdout, re.MULTILINE))
        for shown in (CliRunner().invoke(app, [of, "run", "--help"]) for of in ("batch", "ci"))
    )
    assert batch_run - ci_run == {"--no-wait"}
    assert len(batch_run) > 5


def test_recipes_use_options_that_exist() -> None:
    known = CliRunner().invoke(app, ["ci", "run", "--help"], env={"COLUMNS": "200"}).stdout
    recipes = [place.read_text() for place in sorted((ROOT / "deployments").rglob("*.y*ml"))]
    assert all(yaml.safe_load(text) for text in recipes)
    commands = [c for text in recipes for c in re.findall(r"wtb ci run (?:.*\\\n)*.*", text)]
    assert len(commands) == 2
    for command in commands:
        assert set(re.findall(r"--[a-z-]+", command)) <= set(re.findall(r"--[a-z-]+", known))
