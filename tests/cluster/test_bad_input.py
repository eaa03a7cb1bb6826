"""Whatever a user can send wrong gets a typed error, and nothing half-made stays."""

import asyncio
import hashlib
import io
import json
import stat
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio

from tests.stack import Stack, wait_until
from wtb_ray import errors
from wtb_ray.model import new_id
from wtb_ray.sdk import WorkflowProject, WTBTestBench
from wtb_ray.sdk.bundle import pack

ROOT = Path(__file__).parents[1] / "projects" / "bad"
TABLES = "projects", "project_versions", "batches", "cells", "cases", "executions", "branches"
NAME = "deeds"
A = "a" * 64

EXECUTE = f"/workflows/{NAME}/execute"
CASE = {"id": "c1", "input": {"deed": "none"}, "expected": "done"}
BATCH: dict[str, Any] = {
    "project": NAME,
    "variant_matrix": [{}],
    "test_cases": [CASE],
    "scorers": ["exact"],
}


def rows(stack: Stack) -> dict[str, int]:
    """How many rows each table has that a command could add to."""
    counts = ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in TABLES)
    return stack.rows(f"SELECT {counts}")[0]


def objects(stack: Stack) -> set[Path]:
    found = (stack.data_dir / "objects").rglob("*")
    return {p for p in found if p.is_file() and p.parent.name != "audit"}  # the log is sealed on


@contextmanager
def nothing_made(stack: Stack) -> Iterator[None]:
    """Whatever is done inside leaves no row and no object."""
    before = rows(stack), objects(stack)
    yield
    assert (rows(stack), objects(stack)) == before


@pytest.fixture(scope="module", autouse=True)
def registered(stack: Stack) -> None:
    """The project that does what its input says."""
    project = WorkflowProject(NAME, "deeds:graph", root=ROOT)
    project.register_variant("work", "terse", params={"short": True})
    with WTBTestBench(stack.url) as bench:
        bench.register_project(project)


@pytest_asyncio.fixture
async def http(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"{stack.url}/api/v1", timeout=90) as client:
        yield client


class Bad(NamedTuple):
    """A request and the answer that it must get."""

    name: str
    method: str
    path: str
    body: Any
    status: int
    code: str
    field: str | None = None
    details: dict[str, Any] | None = None


def execute(name: str, body: Any, code: str, field: str, status: int = 422) -> Bad:
    return Bad(name, "POST", EXECUTE, body, status, code, field)


def batch(
    name: str, code: str, field: str, details: dict[str, Any] | None = None, **changed: Any
) -> Bad:
    body = {k: v for k, v in {**BATCH, **changed}.items() if v is not None}
    return Bad(name, "POST", "/batch-tests", body, 422, code, field, details)


def missing(path: str, code: str, method: str = "GET", body: Any = None) -> Bad:
    return Bad(f"{method} {path}", method, path, body, 404, code)


REQUESTS = [
    missing("/workflows/nobody", "unknown_project"),
    missing(f"/workflows/{NAME}?version={A}", "unknown_version"),
    missing("/workflows/nobody/execute", "unknown_project", "POST", {}),
    missing("/workflows/nobody/batch-test", "unknown_project", "POST",
            {**BATCH, "project": None}),
    missing("/workflows/nobody/versions", "unknown_project"),
    missing(f"/workflows/{NAME}/nodes/zzz/variants", "not_found"),
    missing(EXECUTE, "unknown_version", "POST", {"version": A}),
    missing("/batch-tests", "unknown_version", "POST", {**BATCH, "version": A}),
    missing("/batch-tests", "unknown_project", "POST", {**BATCH, "project": "nobody"}),
    missing("/executions/e0", "unknown_execution"),
    missing("/executions/e0/state", "unknown_execution"),
    missing("/executions/e0/checkpoints", "unknown_execution"),
    missing("/executions/e0/checkpoints/c0", "unknown_execution"),
    missing("/executions/e0/stop", "unknown_execution", "POST", {}),
    missing("/batch-tests/b0", "unknown_batch"),
    missing("/batch-tests/b0/progress", "unknown_batch"),
    missing("/batch-tests/b0/results", "unknown_batch"),
    missing("/batch-tests/b0/leaderboard", "unknown_batch"),
    missing("/batch-tests/b0/stop", "unknown_batch", "POST", {}),
    missing("/events?execution=e0", "unknown_execution"),
    missing("/events?batch=b0", "unknown_batch"),
    missing("/nothing", "not_found"),
    Bad("wrong method", "DELETE", "/executions", None, 405, "method_not_allowed"),
    execute("unknown node", {"variant_config": {"zzz": "terse"}}, "unknown_node", "variant_config.zzz"),
    execute("unknown variant", {"variant_config": {"work": "z"}}, "unknown_variant", "variant_config.work"),
    execute("unknown workflow variant", {"variant_config": {"_workflow": "z"}}, "unknown_variant",
            "variant_config._workflow"),
    execute("breakpoint nowhere", {"breakpoints": ["zzz"]}, "unknown_node", "breakpoints.0"),
    execute("breakpoint beside", {"breakpoints": ["beside:work"]}, "invalid_request", "breakpoints.0"),
    execute("unknown input", {"initial_state": {"dede": 1}}, "invalid_state", "initial_state.dede"),
    execute("unknown field", {"nonsense": 1}, "invalid_request", "nonsense"),
    execute("state is a list", {"initial_state": []}, "invalid_request", "initial_state"),
    execute("body is a list", [1], "invalid_request", "body"),
    execute("limit is text", {"recursion_limit": "many"}, "invalid_request", "recursion_limit"),
    execute("limit is zero", {"recursion_limit": 0}, "invalid_request", "recursion_limit"),
    execute("priority is high", {"priority": 1000}, "invalid_request", "priority"),
    execute("no JSON", b'{"initial_state": {', "invalid_request", "body"),
    execute("NaN", b'{"initial_state": {"value": NaN}}', "invalid_request", "body"),
    execute("no UTF-8", b'{"initial_state": {"deed": "\xff"}}', "invalid_request", "body"),
    batch("no variants", "empty_matrix", "variant_matrix", variant_matrix=[]),
    batch("no repetitions", "empty_matrix", "repetitions", repetitions=0),
    batch("no cases", "empty_matrix", "test_cases", test_cases=[]),
    batch("no variants field", "invalid_request", "variant_matrix", variant_matrix=None),
    batch("no cases field", "invalid_request", "test_cases", test_cases=None),
    batch("no project", "invalid_request", "project", project=None),
    batch("variant is a number", "invalid_request", "variant_matrix.0.work", variant_matrix=[{"work": 1}]),
    batch("unknown node", "unknown_node", "variant_matrix.1.zzz", variant_matrix=[{}, {"zzz": "terse"}]),
    batch("unknown variant", "unknown_variant", "variant_matrix.1.work", variant_matrix=[{}, {"work": "z"}]),
    batch("double variant", "invalid_request", "variant_matrix.1", variant_matrix=[{}, {}]),
    batch("unknown scorer", "unknown_scorer", "scorers.0.name", scorers=["zzz"]),
    batch("unknown argument of a scorer", "invalid_request", "scorers.0.args.zzz",
          scorers=[{"name": "exact", "args": {"zzz": 1}}]),
    batch("scorer of no module", "unknown_scorer", "scorers.0.name", scorers=["nowhere:scorer"]),
    batch("scorer of no name", "unknown_scorer", "scorers.1.name", scorers=["exact", "deeds:zzz"]),
    batch("scorer is no function", "unknown_scorer", "scorers.0.name", scorers=["deeds:NUMBER"]),
    batch("case is a number", "invalid_request", "test_cases.0", test_cases=[7]),
    batch("case without input", "invalid_cases", "test_cases.1.input", test_cases=[CASE, {"id": "c2"}]),
    batch("answers of a case are no list", "invalid_cases", "test_cases.0.answers",
          test_cases=[{**CASE, "answers": "yes"}]),
    batch("case with an unknown input", "invalid_state", "test_cases.0.input.x", test_cases=[{"x": 1}]),
    batch("double ids", "invalid_cases", "test_cases.2.id",
          test_cases=[CASE, {**CASE, "id": "c2"}, CASE]),
    batch("ids in some cases", "invalid_cases", "test_cases.1.id",
          test_cases=[CASE, {"input": {"deed": "none"}}]),
    batch("a million cells", "too_many_cells", "repetitions", {"count": 1_000_000},
          repetitions=1_000_000),
    batch("a million cells of three sides", "too_many_cells", "variant_matrix",
          {"count": 1_000_000, "limit": 200_000},
          variant_matrix=[{"_name": f"v{i}"} for i in range(100)],
          test_cases=[{**CASE, "id": f"c{i}"} for i in range(100)], repetitions=100),
    Bad("another project in the path", "POST", "/workflows/other/batch-test", BATCH, 422,
        "invalid_request", "project"),
    Bad("project with a slash", "POST", "/workflows", {"name": "a/b", "entry": "deeds:graph"}, 422,
        "invalid_request", "name"),
    Bad("entry without colon", "POST", "/workflows", {"name": "a", "entry": "deeds.graph"}, 422,
        "invalid_request", "entry"),
    Bad("bundle that nobody sent", "POST", "/workflows",
        {"name": "a", "entry": "deeds:graph", "bundle": A}, 404, "unknown_bundle", "bundle"),
    Bad("limit of a page", "GET", "/executions?limit=0", None, 422, "invalid_request", "limit"),
    Bad("status of executions", "GET", "/executions?status=ASLEEP", None, 422, "invalid_request", "status"),
    Bad("cursor of events", "GET", "/events?after=zzz", None, 422, "invalid_request", "after"),
]  # fmt: skip


async def asked(http: httpx.AsyncClient, bad: Bad) -> str:
    """What is wrong with the answer to a bad request; empty when nothing is."""
    content = bad.body if isinstance(bad.body, bytes) else json.dumps(bad.body).encode()
    response = await http.request(
        bad.method,
        bad.path,
        content=None if bad.body is None else content,
        headers={"Content-Type": "application/json"},
    )
    error = response.json().get("error") or {}
    if (response.status_code, error.get("code")) != (bad.status, bad.code):
        return response.text
    details = error["details"]
    expected = dict(bad.details or {})
    if bad.field is not None:
        expected["field"] = bad.field
    told = {key: details.get(key) for key in expected} == expected
    reasoned = bad.field is None or details.get("reason")
    return "" if told and reasoned and error["message"] else response.text


async def test_requests(stack: Stack, http: httpx.AsyncClient) -> None:
    with nothing_made(stack):
        answers = await asyncio.gather(*(asked(http, bad) for bad in REQUESTS))
        assert {b.name: a for b, a in zip(REQUESTS, answers, strict=True) if a} == {}


class Archive(NamedTuple):
    """A bundle that must be refused."""

    name: str
    reason: str
    data: bytes
    digest: str | None = None


def zipped(*files: tuple[str, bytes] | tuple[zipfile.ZipInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return out.getvalue()


def link(name: str, target: str) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, target.encode()


GRAPH = ("graph.py", b"graph = 1")
ARCHIVES = [
    Archive("another digest", "digest", zipped(GRAPH), A),
    Archive("no archive", "not_a_zip", b"PK but no more"),
    Archive("cut off", "not_a_zip", zipped(GRAPH)[:-30]),
    Archive("a way out", "path", zipped(GRAPH, ("../evil.py", b""))),
    Archive("a way out further in", "path", zipped(("a/../../evil.py", b""))),
    Archive("an absolute path", "path", zipped(("/etc/evil", b""))),
    Archive("a link that escapes", "link", zipped(GRAPH, link("data", "/etc/passwd"))),
    Archive("a link inside", "link", zipped(GRAPH, link("data", "graph.py"))),
    Archive("ray", "reserved_name", zipped(GRAPH, ("ray/__init__.py", b""))),
    Archive("langgraph", "reserved_name", zipped(GRAPH, ("langgraph.py", b""))),
    Archive("wtb_ray in src", "reserved_name", zipped(("src/wtb_ray/x.py", b""))),
    Archive("one path twice", "duplicate_path", zipped(("a", b""), ("a/b", b""))),
    Archive("a bomb", "too_large", zipped(("bomb", b"\0" * (65 << 20)))),
    Archive("too many files", "too_many_files", zipped(*((f"{i}", b"") for i in range(10_001)))),
]


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda a: a.name)
async def test_bundles(stack: Stack, http: httpx.AsyncClient, archive: Archive) -> None:
    digest = archive.digest or hashlib.sha256(archive.data).hexdigest()
    with nothing_made(stack):
        response = await http.put(f"/bundles/{digest}", content=archive.data)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (422, "bundle_rejected")
        assert (error["details"]["field"], error["details"]["reason"]) == ("bundle", archive.reason)
        assert (await http.head(f"/bundles/{digest}")).status_code == 404


class Entry(NamedTuple):
    """A project whose code cannot be used."""

    name: str
    spec: dict[str, Any]
    code: str
    field: str
    text: str


ENTRIES = [
    Entry("no module", {"entry": "nowhere:graph"}, "not_importable", "entry", "nowhere"),
    Entry("gives a number", {"entry": "deeds:gives_a_number"}, "entry_failed", "entry", "int"),
    Entry("raises at import", {"entry": "raising:graph"}, "entry_failed", "entry", "broken at import"),
    Entry("never returns", {"entry": "hanging:graph"}, "entry_failed", "entry", "15 s"),
    Entry("ends its process", {"entry": "leaving:graph"}, "entry_failed", "entry", "the process ended"),
    Entry("variant of no node", {"variants": {"zzz": {"v": {"params": {"a": 1}}}}}, "unknown_node",
          "variants.zzz", "zzz"),
    Entry("variant of no module", {"variants": {"work": {"v": {"implementation": "nowhere:f"}}}},
          "not_importable", "variants.work", "nowhere"),
    Entry("workflow of no module", {"workflow_variants": {"w": "nowhere:graph"}}, "not_importable",
          "workflow_variants.w", "nowhere"),
]  # fmt: skip


async def test_entries(stack: Stack, http: httpx.AsyncClient, subtests: pytest.Subtests) -> None:
    """All at once: each has a process of its own, which is gone afterwards."""
    data = pack(ROOT)
    digest = hashlib.sha256(data).hexdigest()
    assert (await http.put(f"/bundles/{digest}", content=data)).status_code == 201
    specs = [{"name": "bad", "entry": "deeds:graph", "bundle": digest, **e.spec} for e in ENTRIES]
    with nothing_made(stack):
        answers = await asyncio.gather(*(http.post("/workflows", json=spec) for spec in specs))
        for entry, answer in zip(ENTRIES, answers, strict=True):
            with subtests.test(entry.name):
                assert answer.status_code == 422, answer.text
                error = answer.json()["error"]
                assert (error["code"], error["details"]["field"]) == (entry.code, entry.field)
                assert entry.text in error["message"]
                assert error["details"]["reason"]
        wait_until(lambda: not stack.processes("VariantRunner.describe"))
    assert (await http.get("/workflows/bad")).status_code == 404


class Deed(NamedTuple):
    """An input whose run fails, and how."""

    deed: str
    code: str
    type: str
    node: str | None
    text: str


DEEDS = [
    Deed("loop", "graph_failed", "GraphRecursionError", None, "Recursion limit of 7"),
    Deed("lock", "unstorable_value", "UnstorableValue", None, "channel 'value'"),
    Deed("local class", "unstorable_value", "UnstorableValue", None, "channel 'value'"),
    Deed("no update", "node_failed", "InvalidUpdateError", "work", "Expected dict"),
    Deed("exit", "node_failed", "SystemExit", "work", "3"),
]
ASK = Deed("ask", "interrupt_in_batch", "InterruptInBatch", None, "answer")


@pytest.mark.parametrize("deed", DEEDS, ids=lambda d: d.deed)
def test_runs_that_cannot_end_well(bench: WTBTestBench, deed: Deed) -> None:
    execution = bench.run(NAME, {"deed": deed.deed}, recursion_limit=7, timeout=60)
    error = execution.error
    assert execution.status == "FAILED"
    assert error is not None
    assert (error.code, error.type, error.node) == (deed.code, deed.type, deed.node)
    assert deed.text in error.message


def test_cells_that_cannot_end_well(bench: WTBTestBench) -> None:
    """Each fails by itself, with its reason; the others are done."""
    cases = [{"id": d.deed, "input": {"deed": d.deed}} for d in (*DEEDS, ASK)]
    cases.append({"id": "good", "input": {"deed": "none"}, "expected": "done"})
    batch = bench.run_batch_test(NAME, [{}], cases, ["exact"], recursion_limit=7, timeout=60)
    cells = {cell.case_id: cell for cell in batch.results}
    good = cells.pop("good")
    assert (batch.status, good.status, good.scores) == ("COMPLETED", "DONE", {"exact": 1.0})
    for deed in (*DEEDS, ASK):
        cell = cells[deed.deed]
        assert cell.status == "FAILED"
        assert cell.error is not None
        assert (cell.error["code"], cell.error["type"]) == (deed.code, deed.type)
        assert deed.text in cell.error["message"]


def test_a_question_outside_of_a_batch_waits(bench: WTBTestBench) -> None:
    execution = bench.run(NAME, {"deed": "ask"}, timeout=60)
    assert (execution.status, execution.info.reason) == ("PAUSED", "interrupt")
    assert [i["value"] for i in execution.interrupts] == ["May I?"]
    with pytest.raises(errors.UnknownCheckpoint):
        bench.get_state(execution.id, "no-such-checkpoint")
    found = httpx.get(f"{bench.url}/api/v1/executions/{execution.id}/checkpoints/none", timeout=60)
    assert (found.status_code, found.json()["error"]["code"]) == (404, "unknown_checkpoint")
    assert bench.stop(execution.id).status == "CANCELLED"


BROKEN: dict[str, tuple[bytes, dict[str, Any]]] = {
    "broken.jsonl": (b'{"id": "a", "deed": "none"}\n{"id": "b", "deed":', {"line": 2}),
    "latin.csv": (b"id,deed\na,none\nb,\xff\n", {"line": 3}),
    "short.csv": (b"id,deed\na,none\nb\n", {"line": 3}),
    "double.csv": (b"id,deed\na,none\nb,none\na,none\n", {"line": 4, "field": "id"}),
    "no.parquet": (b"PAR1 and nothing else", {}),
    "cases.txt": (b"a", {}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_case_files(bench: WTBTestBench, stack: Stack, tmp_path: Path, name: str) -> None:
    content, where = BROKEN[name]
    file = tmp_path / name
    file.write_bytes(content)
    with nothing_made(stack), pytest.raises(errors.InvalidCases) as raised:
        bench.run_batch_test(NAME, [{}], file)
    details = raised.value.details
    assert details["file"] == str(file)
    assert {key: details[key] for key in where} == where
    assert details["reason"]


def test_case_files_on_the_command_line(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "broken.jsonl"
    file.write_bytes(BROKEN["broken.jsonl"][0])
    command = ["batch", "run", NAME, "--cases", str(file), "--variants", "_name=it"]
    with nothing_made(stack):
        wtb = [str(Path(sys.executable).with_name("wtb")), *command, "--url", stack.url]
        done = subprocess.run(wtb, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "broken.jsonl, line 2" in done.stderr
    assert "invalid_cases" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_with_a_link_that_leaves_it(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "graph.py").write_text("")
    (tmp_path / "secret").symlink_to("/etc/passwd")
    project = WorkflowProject("links", "graph:graph", root=tmp_path)
    with (
        WTBTestBench(stack.url) as bench,
        nothing_made(stack),
        pytest.raises(errors.BundleRejected) as raised,
    ):
        bench.register_project(project)
    assert raised.value.details["path"] == "secret"


def test_values_that_look_bad_but_are_not(bench: WTBTestBench) -> None:
    odd = {"": [1e300, 2**63, -(2**63), "ü😀\x00", None, True], "\x00": {"a.b": []}}
    execution = bench.run(NAME, {"deed": "a\x00b", "value": odd}, timeout=60)
    assert execution.status == "COMPLETED"
    assert execution.state == {"deed": "a\x00b", "value": odd, "answer": "done"}


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


async def test_a_command_is_done_once_per_key(stack: Stack, http: httpx.AsyncClient) -> None:
    key, body = keyed(new_id("k")), {"initial_state": {"deed": "none"}}
    before = rows(stack)["executions"]
    together = await asyncio.gather(*(http.post(EXECUTE, json=body, headers=key) for _ in range(8)))
    assert {a.status_code for a in together} <= {202, 409}
    again = await http.post(EXECUTE, json=body, headers=key)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (202, "true")
    assert {a.json()["id"] for a in together if a.status_code == 202} == {again.json()["id"]}
    assert {a.json()["error"]["code"] for a in together if a.status_code == 409} <= {"conflict"}
    assert rows(stack)["executions"] == before + 1
    with nothing_made(stack):
        for path, other in (
            (EXECUTE, {"initial_state": {"deed": "loop"}}),
            ("/batch-tests", BATCH),
        ):
            refused = await http.post(path, json=other, headers=key)
            error = refused.json()["error"]
            assert (refused.status_code, error["code"]) == (409, "idempotency_conflict")
        long = await http.post(EXECUTE, json=body, headers=keyed("k" * 256))
        assert (long.status_code, long.json()["error"]["details"]["field"]) == (
            422,
            "Idempotency-Key",
        )


async def test_a_refused_command_leaves_its_key_free(
    bench: WTBTestBench, http: httpx.AsyncClient
) -> None:
    key = keyed(new_id("k"))
    refused = await http.post("/batch-tests", json={**BATCH, "repetitions": 0}, headers=key)
    assert refused.status_code == 422
    made = await http.post("/batch-tests", json=BATCH, headers=key)
    again = await http.post("/batch-tests", json=BATCH, headers=key)
    assert (made.status_code, again.json()) == (202, made.json())
    batch = await asyncio.to_thread(bench.get_batch, made.json()["id"])
    assert (await asyncio.to_thread(batch.wait, 60)).status == "COMPLETED"


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"Host": "evil.example"}, "host"),
        ({"Host": "127.0.0.1.evil.example:80"}, "host"),
        ({"Host": "192.168.1.7"}, "host"),
        ({"Origin": "https://evil.example"}, "origin"),
    ],
)
async def test_others_are_refused(
    stack: Stack, http: httpx.AsyncClient, headers: dict[str, str], field: str
) -> None:
    with nothing_made(stack):
        answers: list[Callable[[], Awaitable[httpx.Response]]] = [
            lambda: http.get("/executions", headers=headers),
            lambda: http.get("/health", headers=headers),
            lambda: http.post(EXECUTE, json={}, headers=headers),
        ]
        for answer in answers:
            response = await answer()
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (403, "refused")
            assert error["details"]["field"] == field
