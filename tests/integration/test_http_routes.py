"""What HTTP answers when all is well."""

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import pytest_asyncio
from ray.exceptions import RayActorError

from tests.integration.graph_bench import GraphBench
from tests.integration.http_bench import BATCH, EXECUTE, SPEC, HttpBench, serving
from wtb_ray.api import Leaderboard
from wtb_ray.events import Cursor
from wtb_ray.model import Fault, digest
from wtb_ray.store.executions import Settlement


@pytest_asyncio.fixture
async def http(url: str, tmp_path: Path) -> AsyncIterator[HttpBench]:
    async with serving(url, tmp_path) as bench:
        yield bench


PLAIN = {"active": True, "environment": None, "resources": None}


async def test_health_and_readiness(http: HttpBench) -> None:
    for prefix in ("", "/api/v1"):
        health = await http.client.get(f"{prefix}/health")
        assert (health.status_code, health.json()["status"]) == (200, "ok")
        ready = await http.client.get(f"{prefix}/ready")
        assert (ready.status_code, ready.json()["components"]) == (200, {"database": "ok"})


async def test_not_ready_without_a_database(http: HttpBench) -> None:
    await http.context.db.close()
    response = await http.client.get("/ready")
    assert response.status_code == 503
    assert response.json()["components"] == {"database": "unavailable"}
    assert (await http.client.get("/health")).status_code == 200
    response = await http.client.get("/api/v1/executions")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "database_unavailable"


async def test_workflows(http: HttpBench) -> None:
    first = await http.registered()
    assert (first["project"], first["spec"]["entry"]) == ("p", "app.graph:build")
    assert await http.registered() == first
    second = await http.post("/workflows", {**SPEC, "description": "newer"}, 201)
    assert second["version"] != first["version"]

    assert await http.get("/workflows") == {"items": [second], "next": None}
    assert await http.get("/workflows/p") == second
    assert await http.get("/workflows/p", version=first["version"]) == first
    page = await http.get("/workflows/p/versions", limit=1)
    assert page["items"] == [second]
    assert await http.get("/workflows/p/versions", after=page["next"]) == {
        "items": [first],
        "next": None,
    }
    nodes = await http.get("/workflows/p/nodes")
    assert [(n["name"], list(n["variants"])) for n in nodes] == [("a", []), ("b", ["fast"])]
    assert await http.get("/workflows/p/nodes/b/variants") == {
        "fast": {"implementation": None, "params": {"model": "small"}, **PLAIN}
    }
    assert await http.get("/workflows/p/nodes/a/variants") == {}


async def test_workflows_are_listed_in_pages(http: HttpBench) -> None:
    for name in ("c", "a", "b"):
        await http.post("/workflows", {**SPEC, "name": name}, 201)
    names, after = [], None
    while True:
        page = await http.get("/workflows", limit=2, **({"after": after} if after else {}))
        names += [item["project"] for item in page["items"]]
        if (after := page["next"]) is None:
            break
    assert names == ["a", "b", "c"]


async def test_executions(http: HttpBench) -> None:
    version = await http.registered()
    body = {**EXECUTE, "variant_config": {"b": "fast"}, "breakpoints": ["b", "after:a"]}
    made = await http.post("/workflows/p/execute", body)
    assert made["status"] == "PENDING"
    assert made["version"] == version["version"]
    assert made["binding"] == {"b": "fast"}
    assert made["breakpoints"] == ["before:b", "after:a"]
    assert await http.get(f"/executions/{made['id']}") == made
    state = await http.get(f"/executions/{made['id']}/state")
    assert (state["checkpoint_id"], state["values"], state["status"]) == (None, {}, "PENDING")
    assert await http.get(f"/executions/{made['id']}/checkpoints") == {"items": [], "next": None}

    stopped = await http.post(f"/executions/{made['id']}/stop", {"reason": "enough"})
    assert (stopped["status"], stopped["reason"]) == ("CANCELLED", "enough")
    other = await http.post("/workflows/p/execute", EXECUTE)
    await http.client.post(f"/api/v1/executions/{other['id']}/stop")  # the body is optional
    assert (await http.get(f"/executions/{other['id']}"))["status"] == "CANCELLED"


async def test_executions_are_filtered_and_paged(http: HttpBench) -> None:
    await http.registered()
    await http.post("/workflows", {**SPEC, "name": "q"}, 201)
    made = [await http.post("/workflows/p/execute", EXECUTE) for _ in range(3)]
    await http.post("/workflows/q/execute", EXECUTE)
    await http.post(f"/executions/{made[0]['id']}/stop", {})
    page = await http.get("/executions", project="p", limit=2)
    assert [e["id"] for e in page["items"]] == [made[2]["id"], made[1]["id"]]
    page = await http.get("/executions", project="p", limit=2, after=page["next"])
    assert ([e["id"] for e in page["items"]], page["next"]) == ([made[0]["id"]], None)
    cancelled = await http.get("/executions", status="CANCELLED")
    assert [e["id"] for e in cancelled["items"]] == [made[0]["id"]]
    assert (await http.get("/executions", batch="b-none"))["items"] == []


async def test_states_and_checkpoints(http: HttpBench) -> None:
    graphs = await GraphBench.make(http.context.db, "tests.toy:graph")
    ran = await graphs.execution({"x": 4})
    await ran.go()
    page = await http.get(f"/executions/{ran.id}/checkpoints")
    newest, after_double = page["items"][:2]
    assert [node["name"] for node in newest["nodes"]] == ["finish"]
    assert (newest["step"], newest["next_nodes"]) == (2, [])
    assert (after_double["step"], after_double["next_nodes"]) == (1, ["finish"])
    first = await http.get(f"/executions/{ran.id}/checkpoints", limit=1)
    assert first["items"] == [newest]
    rest = await http.get(f"/executions/{ran.id}/checkpoints", after=first["next"])
    assert [newest, *rest["items"]] == page["items"]
    assert await http.get(f"/executions/{ran.id}/checkpoints/{after_double['id']}") == after_double

    state = await http.get(f"/executions/{ran.id}/state")
    assert (state["checkpoint_id"], state["step"]) == (newest["id"], 2)
    assert state["values"] == {"x": 4, "y": 8, "done": True}
    state = await http.get(f"/executions/{ran.id}/state", checkpoint=after_double["id"])
    assert (state["values"], state["next_nodes"]) == ({"x": 4, "y": 8}, ["finish"])


async def test_a_failed_execution_says_why(http: HttpBench) -> None:
    graphs = await GraphBench.make(http.context.db, "tests.toy:graph")
    ran = await graphs.execution({"x": 4})
    fault = Fault(code="node_failed", type="ValueError", message="no", node="double")
    settlement = Settlement(ran.id, ran.assignment.epoch, graphs.runner, "fail", fault=fault)
    assert await http.store.executions.settle([settlement]) == [None]
    shown = await http.get(f"/executions/{ran.id}")
    assert (shown["status"], shown["error"]) == ("FAILED", fault.model_dump())


async def test_batches(http: HttpBench) -> None:
    await http.registered()
    batch = await http.post("/batch-tests", BATCH)
    assert (batch["cells"], batch["cases"], len(batch["variants"])) == (4, 2, 2)
    inside = {k: v for k, v in BATCH.items() if k != "project"}
    second = await http.post("/workflows/p/batch-test", inside)
    assert await http.get(f"/batch-tests/{batch['id']}") == batch
    page = await http.get("/batch-tests", limit=1, project="p", status="PENDING")
    assert [b["id"] for b in page["items"]] == [second["id"]]
    page = await http.get("/batch-tests", limit=1, after=page["next"])
    assert ([b["id"] for b in page["items"]], page["next"]) == ([batch["id"]], None)

    progress = await http.get(f"/batch-tests/{batch['id']}/progress")
    assert (progress["total"], progress["finished"], progress["counts"]) == (4, 0, {"PENDING": 4})
    page = await http.get(f"/batch-tests/{batch['id']}/results", limit=3)
    rest = await http.get(f"/batch-tests/{batch['id']}/results", after=page["next"])
    assert len({cell["id"] for cell in page["items"] + rest["items"]}) == 4
    assert (await http.get(f"/batch-tests/{batch['id']}/cells", status="DONE"))["items"] == []

    stopped = await http.post(f"/batch-tests/{batch['id']}/stop", {"reason": "why not"})
    assert (stopped["status"], stopped["counts"]) == ("CANCELLED", {"CANCELLED": 4})
    cells = await http.get(f"/batch-tests/{batch['id']}/cells", status="CANCELLED")
    assert len(cells["items"]) == 4


async def test_leaderboard_is_computed_or_there(http: HttpBench) -> None:
    await http.registered()
    batch = await http.post("/batch-tests", BATCH)
    path = f"/api/v1/batch-tests/{batch['id']}/leaderboard"
    response = await http.client.get(path)
    assert (response.status_code, response.json()) == (202, {"status": "computing"})
    http.controller.board = Leaderboard(
        batch_id=batch["id"], digest="d", primary=None, node_errors="zero", rows=[], complete=False
    )
    response = await http.client.get(path)
    assert (response.status_code, response.json()["digest"]) == (200, "d")


async def test_the_actor_is_recorded(http: HttpBench) -> None:
    await http.registered()
    made = await http.post("/workflows/p/execute", EXECUTE, headers={"X-Actor": "ci"})
    await http.post(f"/executions/{made['id']}/stop", {})
    events = await sse(http, execution=made["id"])
    assert [e["actor"] for e in events] == ["http:ci", "http"]


def bundle(**files: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in (files or {"app.py": "graph = None"}).items():
            archive.writestr(name, text)
    return data.getvalue()


async def test_bundles(http: HttpBench) -> None:
    data = bundle()
    path = f"/api/v1/bundles/{digest(data)}"
    assert (await http.client.head(path)).status_code == 404
    for _ in range(2):
        response = await http.client.put(path, content=data)
        assert response.status_code == 201, response.text
        assert response.json() == {"digest": digest(data), "bytes": len(data)}
    assert (await http.client.head(path)).status_code == 200
    assert await http.context.objects.get(digest(data)) == data


async def sse(http: HttpBench, headers: dict[str, str] | None = None, **params: Any) -> list[Any]:
    """The events that are in the log now."""
    response = await http.client.get(
        "/api/v1/events", params={"follow": "false", **params}, headers=headers
    )
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return [event for _, _, event in parsed(response.text)]


def parsed(text: str) -> list[tuple[str, str, Any]]:
    """(id, event, data) of server-sent events."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
        if "data" in fields:
            found.append(
                (fields["id"], fields["event"], httpx.Response(200, text=fields["data"]).json())
            )
    return found


async def test_the_event_log(http: HttpBench) -> None:
    await http.registered()
    made = await http.post("/workflows/p/execute", EXECUTE)
    batch = await http.post("/batch-tests", BATCH)
    await http.post(f"/batch-tests/{batch['id']}/stop", {})
    everything = await sse(http)
    assert [e["type"] for e in everything] == [
        "project.registered",
        "execution.created",
        "batch.created",
        "batch.cancelled",
    ]
    assert everything[1]["execution_id"] == made["id"]
    assert everything[1]["payload"]["binding"] == {}
    second = everything[1]["cursor"]
    assert await sse(http, after=second) == everything[2:]
    assert await sse(http, {"Last-Event-ID": second}, after="0.0") == everything[2:]
    assert await sse(http, execution=made["id"]) == everything[1:2]
    assert await sse(http, batch=batch["id"]) == everything[2:]
    assert await sse(http, type=["execution.created", "batch.created"]) == everything[1:3]
    assert await sse(http, type="batch.cancelled,batch.created") == everything[2:]
    assert await sse(http, after="now") == []


async def test_the_wire_form_of_events(http: HttpBench) -> None:
    await http.registered()
    response = await http.client.get("/api/v1/events", params={"follow": "false"})
    ((cursor, kind, event),) = parsed(response.text)
    assert (cursor, kind) == (event["cursor"], event["type"])
    assert response.text.startswith("retry: 1000\n\n")


async def test_a_followed_log_goes_on(http: HttpBench) -> None:
    """The in-process transport hands over nothing before the end, so the stream is read itself."""
    await http.registered()
    sent: list[bytes] = []
    done = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await done.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        if b"execution.created" in message.get("body", b""):
            done.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": "/api/v1/events",
        "raw_path": b"/api/v1/events",
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    stream = asyncio.create_task(http.app(scope, receive, send))
    while b"project.registered" not in b"".join(sent):
        await asyncio.sleep(0.01)
    await http.post("/workflows/p/execute", EXECUTE)
    await asyncio.wait_for(stream, 10)
    types = [event for _, event, _ in parsed(b"".join(sent).decode())]
    assert types == ["project.registered", "execution.created"]


async def test_the_same_key_gives_the_same_answer(http: HttpBench) -> None:
    await http.registered()
    path, key = "/api/v1/workflows/p/execute", {"Idempotency-Key": "k1"}
    first = await http.client.post(path, json=EXECUTE, headers=key)
    again = await http.client.post(path, json=EXECUTE, headers=key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.content == first.content
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert len((await http.get("/executions"))["items"]) == 1

    other = await http.client.post(path, json={"initial_state": {"x": 2}}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
    elsewhere = await http.client.post("/api/v1/batch-tests", json=BATCH, headers=key)
    assert elsewhere.json()["error"]["code"] == "idempotency_conflict"
    more = await http.client.post(path, json=EXECUTE, headers={"Idempotency-Key": "k2"})
    assert more.json()["id"] != first.json()["id"]


async def test_a_refused_command_does_not_use_up_its_key(http: HttpBench) -> None:
    path, key = "/api/v1/workflows/p/execute", {"Idempotency-Key": "k1"}
    assert (await http.client.post(path, json=EXECUTE, headers=key)).status_code == 404
    assert (await http.client.post(path, json={"x": 1}, headers=key)).status_code == 422
    await http.registered()
    assert (await http.client.post(path, json=EXECUTE, headers=key)).status_code == 202


async def test_one_key_at_once_makes_one_execution(http: HttpBench) -> None:
    await http.registered()
    path, key = "/api/v1/workflows/p/execute", {"Idempotency-Key": "k1"}
    answers = await asyncio.gather(
        *(http.client.post(path, json=EXECUTE, headers=key) for _ in range(8))
    )
    assert {a.status_code for a in answers} <= {202, 409}
    assert len({a.json()["id"] for a in answers if a.status_code == 202}) == 1
    assert {a.json()["error"]["code"] for a in answers if a.status_code == 409} <= {"conflict"}
    assert len((await http.get("/executions"))["items"]) == 1


@pytest.mark.parametrize(
    ("path", "body", "listed"),
    [("/workflows/p/execute", EXECUTE, "/executions"), ("/batch-tests", BATCH, "/batch-tests")],
)
async def test_a_command_whose_answer_was_lost_makes_nothing_twice(
    http: HttpBench, path: str, body: dict[str, Any], listed: str
) -> None:
    await http.registered()
    headers = {"Idempotency-Key": "k1"}
    first = await http.client.post(f"/api/v1{path}", json=body, headers=headers)
    await http.controller.store.idempotency.forget(
        "k1"
    )  # as if the process had died before it kept the answer
    again = await http.client.post(f"/api/v1{path}", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["id"] == first.json()["id"]
    assert len((await http.get(listed))["items"]) == 1
    created = [
        e
        for e in await http.controller.store.events.read(Cursor.START)
        if e.type.endswith(".created")
    ]
    assert len(created) == 1


async def test_a_command_is_finished_when_its_client_leaves(http: HttpBench) -> None:
    await http.registered()
    path, key = "/api/v1/workflows/p/execute", {"Idempotency-Key": "k1"}
    http.controller.called.clear()
    http.controller.may_begin.clear()
    request = asyncio.create_task(http.client.post(path, json=EXECUTE, headers=key))
    await http.controller.called.wait()
    request.cancel()
    await asyncio.wait([request])
    http.controller.may_begin.set()
    while (answer := await http.client.post(path, json=EXECUTE, headers=key)).status_code == 409:
        await asyncio.sleep(0.01)
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert [e["id"] for e in (await http.get("/executions"))["items"]] == [answer.json()["id"]]


async def test_errors_of_the_controller(http: HttpBench) -> None:
    await http.registered()
    path = "/api/v1/workflows/p/execute"
    http.controller.failure = RayActorError()
    response = await http.client.post(path, json=EXECUTE)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
    assert response.headers["Retry-After"] == "1"
    http.controller.failure = psycopg.DataError("a NUL character\nSECRET")
    response = await http.client.post(path, json=EXECUTE)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_request")
    assert "SECRET" not in response.text
    http.controller.failure = RuntimeError("SECRET")
    response = await http.client.post(path, json=EXECUTE, headers={"X-Request-ID": "r7"})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal"
    assert response.json()["error"]["details"] == {"request_id": "r7"}
    assert "SECRET" not in response.text


async def test_openapi_and_docs(http: HttpBench) -> None:
    document = (await http.client.get("/openapi.json")).json()
    assert "/api/v1/workflows/{name}/execute" in document["paths"]
    ids = [op["operationId"] for path in document["paths"].values() for op in path.values()]
    assert len(ids) == len(set(ids))
    refused = document["paths"]["/api/v1/executions"]["get"]["responses"]["422"]
    assert refused["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorAnswer")
    assert "HTTPValidationError" not in str(document)
    assert (await http.client.get("/docs")).status_code == 200
