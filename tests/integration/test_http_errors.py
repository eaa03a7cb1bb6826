"""Every bad request gets one form of answer: the right status, a code, the field and the reason."""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from tests.integration.http_bench import BATCH, EXECUTE, SPEC, HttpBench, serving
from wtb_ray.serve.http_errors import field_of

DIGEST = "a" * 64
ZIP = {"Content-Type": "application/zip"}
JSON = {"Content-Type": "application/json"}


class Bad(NamedTuple):
    """A request and the answer that it must get."""

    name: str
    method: str
    path: str
    status: int
    code: str
    body: Any = None
    field: str | None = None
    content: bytes | None = None
    headers: dict[str, str] | None = None


def execute(name: str, field: str, body: Any) -> Bad:
    path = "/api/v1/workflows/p/execute"
    return Bad(name, "POST", path, 422, "invalid_request", body, field)


def batch(name: str, field: str, code: str = "invalid_request", **changed: Any) -> Bad:
    body = {k: v for k, v in {**BATCH, **changed}.items() if v is not None}
    return Bad(name, "POST", "/api/v1/batch-tests", 422, code, body, field)


def spec(what: str, field: str, **changed: Any) -> Bad:
    body = {k: v for k, v in {**SPEC, **changed}.items() if v is not None}
    return Bad(what, "POST", "/api/v1/workflows", 422, "invalid_request", body, field)


def raw(name: str, content: bytes, headers: dict[str, str] = JSON) -> Bad:
    path = "/api/v1/workflows/p/execute"
    return Bad(name, "POST", path, 422, "invalid_request", None, "body", content, headers)


def query(name: str, path: str, field: str) -> Bad:
    return Bad(name, "GET", f"/api/v1/{path}", 422, "invalid_request", field=field)


def missing(path: str, code: str, method: str = "GET", body: Any = None) -> Bad:
    return Bad(f"missing {path}", method, f"/api/v1/{path}", 404, code, body)


BAD = [
    # bodies
    execute("unknown field", "nonsense", {"nonsense": 1}),
    execute("state is no object", "initial_state", {"initial_state": [1]}),
    execute("binding is no text", "variant_config.b", {"variant_config": {"b": 1}}),
    execute("limit of zero", "recursion_limit", {"recursion_limit": 0}),
    execute("limit is no number", "recursion_limit", {"recursion_limit": "many"}),
    execute("priority out of range", "priority", {"priority": 101}),
    execute("body is a list", "body", [1]),
    execute("breakpoint position", "breakpoints.0", {"breakpoints": ["beside:a"]}),
    Bad("unknown node", "POST", "/api/v1/workflows/p/execute", 422, "unknown_node",
        {"variant_config": {"zzz": "fast"}}, "variant_config.zzz"),
    Bad("unknown variant", "POST", "/api/v1/workflows/p/execute", 422, "unknown_variant",
        {"variant_config": {"b": "zzz"}}, "variant_config.b"),
    Bad("breakpoint at unknown node", "POST", "/api/v1/workflows/p/execute", 422, "unknown_node",
        {"breakpoints": ["a", "zzz"]}, "breakpoints.1"),
    batch("no variants field", "variant_matrix", variant_matrix=None),
    batch("no cases field", "test_cases", test_cases=None),
    batch("variants of wrong type", "variant_matrix.1.b", variant_matrix=[{}, {"b": 2}]),
    batch("case is no object", "test_cases.0", test_cases=[7]),
    batch("scorer is a number", "scorers.0", scorers=[7]),
    batch("scorer without name", "scorers.0.name", scorers=[{"args": {}}]),
    batch("repetitions is text", "repetitions", repetitions="three"),
    batch("no variants", "variant_matrix", "empty_matrix", variant_matrix=[]),
    batch("no repetitions", "repetitions", repetitions=0),
    batch("budget of nothing", "budget.cost", budget={"cost": 0}),
    batch("budget of what there is not", "budget.gold", budget={"gold": 1}),
    batch("too many cells", "repetitions", "too_many_cells", repetitions=1000),
    Bad("another project than the path's", "POST", "/api/v1/workflows/q/batch-test", 422,
        "invalid_request", BATCH, "project"),
    spec("name with a slash", "name", name="a/b"),
    spec("no name", "name", name=None),
    spec("entry without colon", "entry", entry="app.graph"),
    spec("bundle is no digest", "bundle", bundle="abc"),
    spec("variant with unknown key", "variants.b.fast.modle", variants={"b": {"fast": {"modle": 1}}}),
    Bad("stop with a long reason", "POST", "/api/v1/executions/e1/stop", 422, "invalid_request",
        {"reason": "x" * 1001}, "reason"),
    # JSON
    raw("no JSON", b"{nope"),
    raw("nothing", b""),
    raw("cut off", b'{"initial_state": {'),
    raw("two values", b"{} {}"),
    raw("NaN", b'{"initial_state": {"x": NaN}}'),
    raw("infinity", b'{"initial_state": {"x": -Infinity}}'),
    raw("number out of range", b'{"initial_state": {"x": 1e999}}'),
    raw("integer beyond 64 bits", b'{"initial_state": {"x": 18446744073709551616}}'),
    raw("integer of 5000 digits", b'{"initial_state": {"x": ' + b"9" * 5000 + b"}}"),
    raw("lone surrogate", b'{"initial_state": {"x": "\\ud800"}}'),
    raw("no UTF-8", b'{"initial_state": {"x": "\xff"}}'),
    raw("too deep", b'{"initial_state": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    raw("no content type", b'{"initial_state": {}}', {}),
    raw("a form", b"initial_state=1", {"Content-Type": "application/x-www-form-urlencoded"}),
    # queries and headers
    query("limit of zero", "executions?limit=0", "limit"),
    query("limit too high", "executions?limit=501", "limit"),
    query("limit is no number", "batch-tests?limit=x", "limit"),
    query("unknown status", "executions?status=ASLEEP", "status"),
    query("cursor of executions", "executions?after=zzz", "after"),
    query("cursor of batches", "batch-tests?after=zzz.1", "after"),
    query("cursor of versions", "workflows/p/versions?after=zzz", "after"),
    query("cursor of events", "events?after=zzz", "after"),
    query("negative cursor of events", "events?after=-1.5", "after"),
    query("unknown event type", "events?type=execution.exploded", "type"),
    query("follow is no boolean", "events?follow=perhaps", "follow"),
    query("NUL in a query", "executions?project=a%00b", "url"),
    query("NUL in a path", "executions/a%00b", "url"),
    Bad("actor with spaces", "POST", "/api/v1/workflows", 422, "invalid_request", SPEC, "X-Actor",
        headers={"X-Actor": "a b"}),
    Bad("key of 256 characters", "POST", "/api/v1/workflows", 422, "invalid_request", SPEC,
        "Idempotency-Key", headers={"Idempotency-Key": "k" * 256}),
    Bad("empty key", "POST", "/api/v1/workflows", 422, "invalid_request", SPEC,
        "Idempotency-Key", headers={"Idempotency-Key": ""}),
    # bundles
    Bad("digest too short", "PUT", "/api/v1/bundles/abc", 422, "invalid_request", None, "sha256",
        b"x", ZIP),
    Bad("digest in capitals", "HEAD", f"/api/v1/bundles/{'A' * 64}", 422, "invalid_request",
        field="sha256"),
    Bad("another digest", "PUT", f"/api/v1/bundles/{DIGEST}", 422, "bundle_rejected", None, None,
        b"x", ZIP),
    Bad("no archive", "PUT", f"/api/v1/bundles/{hashlib.sha256(b'x').hexdigest()}", 422,
        "bundle_rejected", None, None, b"x", ZIP),
    Bad("body too large", "POST", "/api/v1/workflows/p/execute", 413, "too_large", None, None,
        b'{"initial_state": {"x": "' + b"x" * (1 << 20) + b'"}}', JSON),
    Bad("bundle too large", "PUT", f"/api/v1/bundles/{DIGEST}", 413, "too_large", None, None,
        b"x" * ((1 << 20) + 1), ZIP),
    # what is not there
    Bad("unknown route", "GET", "/nothing", 404, "not_found"),
    Bad("unknown route under the base", "GET", "/api/v1/nothing", 404, "not_found"),
    Bad("trailing slash", "GET", "/api/v1/executions/", 404, "not_found"),
    Bad("wrong method", "DELETE", "/api/v1/executions", 405, "method_not_allowed"),
    Bad("wrong method below", "GET", "/api/v1/workflows/p/execute", 405, "method_not_allowed"),
    missing("workflows/nope", "unknown_project"),
    missing("workflows/p?version=nope", "unknown_version"),
    missing("workflows/nope/versions", "unknown_project"),
    missing("workflows/nope/nodes", "unknown_project"),
    missing("workflows/p/nodes/zzz/variants", "not_found"),
    missing("workflows/nope/execute", "unknown_project", "POST", EXECUTE),
    missing("workflows/p/execute", "unknown_version", "POST", {"version": "nope"}),
    missing("executions/nope", "unknown_execution"),
    missing("executions/nope/state", "unknown_execution"),
    missing("executions/nope/checkpoints", "unknown_execution"),
    missing("executions/nope/checkpoints/cp", "unknown_execution"),
    missing("executions/nope/stop", "unknown_execution", "POST", {}),
    missing("batch-tests/nope", "unknown_batch"),
    missing("batch-tests/nope/progress", "unknown_batch"),
    missing("batch-tests/nope/results", "unknown_batch"),
    missing("batch-tests/nope/leaderboard", "unknown_batch"),
    missing("batch-tests/nope/stop", "unknown_batch", "POST", {}),
    missing("batch-tests/nope/rerun", "unknown_batch", "POST", {}),
    missing("batch-tests/nope/extend", "unknown_batch", "POST", {}),
    missing("batch-tests/nope", "unknown_batch", "PATCH", {"budget": {"cost": 1}}),
    missing("events?execution=nope", "unknown_execution"),
    missing("events?batch=nope", "unknown_batch"),
    missing(f"bundles/{DIGEST}", "unknown_bundle", "HEAD"),
]  # fmt: skip


@pytest_asyncio.fixture
async def http(url: str, tmp_path: Path) -> AsyncIterator[HttpBench]:
    async with serving(url, tmp_path) as bench:
        await bench.registered()
        yield bench


async def answer_to(http: HttpBench, bad: Bad) -> str:
    """What is wrong with the answer, or nothing."""
    content = json.dumps(bad.body).encode() if bad.body is not None else bad.content
    headers = {**(JSON if bad.body is not None else {}), **(bad.headers or {})}
    response = await http.client.request(bad.method, bad.path, content=content, headers=headers)
    if response.status_code != bad.status:
        return f"{response.status_code} {response.text[:300]}"
    if bad.method == "HEAD":
        return ""
    body = response.json()
    if set(body) != {"error"} or set(body["error"]) != {"code", "message", "details"}:
        return f"not the form of errors: {body}"
    error = body["error"]
    details = error["details"]
    if error["code"] != bad.code or not error["message"]:
        return f"{error}"
    if bad.field is not None and (details.get("field") != bad.field or not details.get("reason")):
        return f"{error}"
    return ""


async def test_bad_requests(http: HttpBench) -> None:
    wrong = {bad.name: text for bad in BAD if (text := await answer_to(http, bad))}
    assert wrong == {}
    batches = await http.store.batches.list()
    assert (batches.items, (await http.store.executions.list()).items) == ([], [])


async def test_all_faults_of_a_body_are_listed(http: HttpBench) -> None:
    body = {"initial_state": 1, "priority": 500}
    response = await http.client.post("/api/v1/workflows/p/execute", json=body)
    details = response.json()["error"]["details"]
    assert [fault["field"] for fault in details["errors"]] == ["initial_state", "priority"]


async def test_a_body_sent_in_pieces_has_the_same_limit(http: HttpBench) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 32_768

    response = await http.client.put(f"/api/v1/bundles/{DIGEST}", content=pieces())
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")
    assert list((http.context.settings.data_dir / "objects").rglob("*")) == []


async def test_a_wrong_method_says_which_are_right(http: HttpBench) -> None:
    response = await http.client.delete("/api/v1/executions")
    assert response.headers["allow"] == "GET"


async def test_an_unsuitable_command_names_the_state_found(http: HttpBench) -> None:
    made = await http.post("/workflows/p/execute", EXECUTE)
    await http.post(f"/executions/{made['id']}/stop", {})
    response = await http.client.post(f"/api/v1/executions/{made['id']}/stop", json={})
    assert response.status_code == 409
    assert response.json()["error"]["code"] == "invalid_transition"
    assert "CANCELLED" in response.text


@pytest.mark.parametrize(
    ("address", "host", "headers", "field"),
    [
        ("10.0.0.9", "localhost", {}, "client"),
        ("::ffff:10.0.0.9", "localhost", {}, "client"),
        ("127.0.0.1", "evil.com", {}, "host"),
        ("127.0.0.1", "127.0.0.1.evil.com", {}, "host"),
        ("127.0.0.1", "192.168.1.5:8000", {}, "host"),
        ("127.0.0.1", "localhost", {"Origin": "http://evil.com"}, "origin"),
    ],
)
async def test_others_are_refused(
    http: HttpBench, address: str, host: str, headers: dict[str, str], field: str
) -> None:
    async with http.client_from(address, host) as client:
        for method, path in [
            ("GET", "/health"),
            ("GET", "/docs"),
            ("GET", "/api/v1/executions"),
            ("POST", "/api/v1/workflows"),
            ("GET", "/api/v1/events"),
            ("GET", "/nothing"),
        ]:
            response = await client.request(method, path, headers=headers)
            assert response.status_code == 403, path
            assert response.json()["error"]["code"] == "refused"
            assert response.json()["error"]["details"]["field"] == field


async def test_loopback_is_served_by_any_of_its_names(http: HttpBench) -> None:
    for address, host in [
        ("127.0.0.1", "localhost:8000"),
        ("::1", "[::1]:8000"),
        ("127.0.0.1", "127.0.0.1"),
    ]:
        async with http.client_from(address, host) as client:
            origin = {"Origin": f"http://{host}"}
            assert (await client.get("/health", headers=origin)).status_code == 200


def test_fields_are_named_as_they_were_sent() -> None:
    body = {"scorers": ["exact", {"nam": 1}], "test_cases": [{"id": ""}]}
    name = ("body", "scorers", 1, "ScorerSpec", "name")
    assert field_of(name, body, missing=True) == "scorers.1.name"
    assert field_of(("body", "scorers", 1, "str"), body) == "scorers.1"
    assert field_of(("body", "test_cases", 0, "Case", "id"), body) == "test_cases.0.id"
    assert field_of(("body", "missing"), body, missing=True) == "missing"
    assert field_of(("body",), None) == "body"
    assert field_of(("query", "limit"), None) == "limit"
    assert field_of((), None) == "body"
