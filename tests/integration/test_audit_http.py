"""The audit over HTTP and from the command line: who did what, and whether that is still the truth."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from typer.testing import CliRunner, Result

from tests.integration.http_bench import BATCH, EXECUTE, HttpBench, serving
from wtb_ray import errors
from wtb_ray.audit.keys import make_keys
from wtb_ray.audit.objects import SealObjects
from wtb_ray.audit.sealing import Sealer
from wtb_ray.cli import app
from wtb_ray.events import ExecutionFailed, StepCompleted
from wtb_ray.model import Fault
from wtb_ray.sdk import AsyncTestBench


class Audited:
    """A bench on which something has happened, and its events, sealed."""

    def __init__(self, http: HttpBench):
        self.http = http
        self.execution = ""
        self.batch = ""

    async def happen(self) -> None:
        ada = {"X-Actor": "ada"}
        await self.http.registered()
        made = await self.http.post("/workflows/p/execute", EXECUTE, headers=ada)
        self.execution = made["id"]
        stop = {"reason": "enough"}
        await self.http.post(f"/executions/{self.execution}/stop", stop, headers=ada)
        self.batch = (await self.http.post("/batch-tests", BATCH))["id"]
        fault = Fault(code="node_failed", type="KeyError", message="'x'", node="b")
        step = StepCompleted(
            thread_id="t", checkpoint_id="c", step=1, nodes=["a"], next_nodes=["b"], duration_ms=1.2
        )
        async with self.http.store.db.transaction() as conn:
            for event in (step, ExecutionFailed(error=fault)):
                await self.http.store.events.append(
                    conn, "r1", event, project="p", execution_id="e9", batch_id=self.batch
                )
        await self.seal()

    async def seal(self) -> None:
        settings = self.http.context.settings
        async with SealObjects(settings.objects()) as objects:
            sealer = Sealer(self.http.store.audit, objects, make_keys(settings))
            while await sealer.waiting():
                assert await sealer.seal() is not None

    async def damage(self) -> None:
        async with self.http.store.db.connection() as conn:
            await conn.execute("UPDATE events SET actor = 'http:bob' WHERE actor = 'http:ada'")


@pytest_asyncio.fixture
async def audited(url: str, tmp_path: Path) -> AsyncIterator[Audited]:
    async with serving(url, tmp_path / "data") as http:
        bench = Audited(http)
        await bench.happen()
        yield bench


def types(page: Any) -> list[str]:
    return [item["type"] for item in page["items"]]


async def test_events_are_found_by_who_what_and_when(audited: Audited) -> None:
    http, path = audited.http, "/audit/events"
    everything = await http.get(path, limit=500)
    of_ada = await http.get(path, actor="http:ada")
    assert types(of_ada) == ["execution.created", "execution.cancelled"]
    assert types(await http.get(path, actor="ht*", type="batch.created")) == ["batch.created"]
    assert types(await http.get(path, actor="http:*", project="q")) == []
    one = await http.get(path, execution=audited.execution)
    assert {item["execution_id"] for item in one["items"]} == {audited.execution}
    first = await http.get(path, limit=1)
    second = await http.get(path, limit=1, after=first["next"])
    assert [*first["items"], *second["items"]] == everything["items"][:2]
    backwards = await http.get(path, newest_first=True, limit=500)
    assert backwards["items"] == everything["items"][::-1]
    older = await http.get(path, newest_first=True, after=everything["items"][1]["cursor"])
    assert older["items"] == everything["items"][:1]
    now = datetime.now(UTC)
    assert types(await http.get(path, since=(now + timedelta(hours=1)).isoformat())) == []
    hour = {"since": (now - timedelta(hours=1)).isoformat(), "until": "2999-01-01T00:00:00"}
    assert (await http.get(path, limit=500, **hour)) == everything
    response = await http.client.get(f"/api/v1{path}", params={"format": "jsonl"})
    assert response.headers["content-type"].startswith("application/jsonl")
    assert [json.loads(line) for line in response.text.splitlines()] == everything["items"]


async def test_what_cannot_be_asked_names_the_field(audited: Audited) -> None:
    for path, field in (
        ("/audit/events?type=odd", "type"),
        ("/audit/events?after=x", "after"),
        ("/audit/events?since=yesterday", "since"),
        ("/audit/verify?head=7", "head"),
        ("/audit/verify?from=0", "from"),
    ):
        response = await audited.http.client.get(f"/api/v1{path}")
        assert response.status_code == 422
        assert field in json.dumps(response.json()["error"]), path
    for path in ("/audit/timeline/e0", "/audit/timeline/batch/b0", "/executions/e0/audit"):
        assert (await audited.http.client.get(f"/api/v1{path}")).status_code == 404


async def test_the_summary_counts_by_type_actor_and_failure(audited: Audited) -> None:
    whole = await audited.http.get("/audit/summary")
    actors = {row["name"]: row["events"] for row in whole["actors"]}
    assert actors["http:ada"] == 2
    assert sum(actors.values()) == sum(row["events"] for row in whole["types"]) == whole["events"]
    [failure] = whole["errors"]
    assert (failure["type"], failure["code"], failure["node"], failure["events"]) == (
        "execution.failed",
        "node_failed",
        "b",
        1,
    )
    of_ada = await audited.http.get("/audit/summary", actor="http:ada")
    assert [row["name"] for row in of_ada["actors"]] == ["http:ada"]
    nothing = await audited.http.get("/audit/summary", project="q")
    assert (nothing["events"], nothing["first"], nothing["types"]) == (0, None, [])


async def test_a_timeline_tells_who_did_what_and_the_time_between(audited: Audited) -> None:
    http, path = audited.http, f"/audit/timeline/{audited.execution}"
    page = await http.get(path)
    assert await http.get(f"/executions/{audited.execution}/audit") == page
    entries = page["items"]
    assert types(page) == ["execution.created", "execution.cancelled"]
    assert entries[0]["since_start_s"] == entries[0]["gap_s"] == 0
    assert entries[-1]["actor"] == "http:ada"
    assert entries[-1]["what"] == "reason=enough"
    gaps = sum(e["gap_s"] for e in entries)
    assert abs(gaps - entries[-1]["since_start_s"]) < 1e-6
    rest = await http.get(path, after=entries[0]["cursor"])
    assert rest["items"] == entries[1:]
    response = await http.client.get(f"/api/v1{path}", params={"format": "text"})
    assert response.headers["content-type"].startswith("text/plain")
    lines = response.text.splitlines()
    assert len(lines) == len(entries)
    assert "http:ada" in lines[-1]
    assert lines[-1].endswith("reason=enough")


async def test_a_batch_has_a_timeline_with_steps_on_request(audited: Audited) -> None:
    path = f"/audit/timeline/batch/{audited.batch}"
    page = await audited.http.get(path)
    assert types(page) == ["batch.created", "execution.failed"]
    assert page["items"][1]["what"] == "in b: 'x' (node_failed)"
    steps = (await audited.http.get(path, steps=True))["items"]
    assert [e["what"] for e in steps][1] == "step 1: a in 1 ms, next b"
    text = (await audited.http.client.get(f"/api/v1{path}?format=text")).text
    assert "  e9  " in text.splitlines()[-1]


async def test_verify_says_what_was_changed(audited: Audited) -> None:
    report = await audited.http.get("/audit/verify")
    assert report["intact"]
    assert report["next"] is None
    assert await audited.http.get("/audit/verify", head=report["head"]) == report
    await audited.damage()
    changed = await audited.http.get("/audit/verify")
    assert not changed["intact"]
    assert {problem["kind"] for problem in changed["problems"]} == {"event_changed"}
    cursors = {e["cursor"] for e in (await audited.http.get("/audit/events"))["items"]}
    assert {problem["cursor"] for problem in changed["problems"]} <= cursors


async def test_the_sdk_reads_all_of_it(audited: Audited) -> None:
    transport = audited.http.client._transport
    async with AsyncTestBench("http://localhost", transport=transport) as bench:
        parts: list[int] = []
        report = await bench.verify_audit(progress=lambda part: parts.append(part.seals))
        assert (report.intact, report.first, parts) == (True, 1, [report.seals])
        assert (await bench.verify_audit(first=2, head=report.head)).intact
        rows = [row async for row in bench.audit_events()]
        assert len({row.cursor for row in rows}) == report.events
        newest = [row async for row in bench.audit_events(newest_first=True, limit=2)]
        assert newest == rows[:-3:-1]
        assert [row async for row in bench.audit_events(limit=0)] == []
        failed = bench.audit_events(since=rows[-1].at, types=["execution.failed", "batch.created"])
        assert [row async for row in failed] == [rows[-1]]
        assert (await bench.audit_summary(actor="http:ada")).events == 2
        story = await bench.audit_timeline(execution=audited.execution)
        assert story[-1].type == "execution.cancelled"
        assert len(await bench.audit_timeline(batch=audited.batch, steps=True)) == 3
        with pytest.raises(errors.InvalidRequest, match="of an execution or of a batch"):
            await bench.audit_timeline()


async def test_the_command_line_shows_exports_and_checks(audited: Audited, tmp_path: Path) -> None:
    server = uvicorn.Server(
        uvicorn.Config(audited.http.app, port=0, log_level="error", lifespan="off")
    )
    serving_on = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    environment = {"WTB_URL": f"http://127.0.0.1:{port}", "COLUMNS": "200"}

    async def wtb(*words: str) -> Result:
        line = ["audit", *words]
        return await asyncio.to_thread(CliRunner().invoke, app, line, env=environment)

    shown = await wtb("show", "--execution", audited.execution)
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.splitlines()[-1].endswith("reason=enough")
    assert len((await wtb("show", "--limit", "2")).stdout.splitlines()) == 2
    found = json.loads((await wtb("show", "--actor", "http:ada", "--json")).stdout)
    assert [row["type"] for row in found] == ["execution.created", "execution.cancelled"]
    assert "node_failed" in (await wtb("show", "--batch", audited.batch, "--summary")).stdout
    path = tmp_path / "out.jsonl"
    exported = await wtb("export", "-o", str(path), "--since", "1h")
    assert exported.stderr.startswith(f"{len(path.read_text().splitlines())} events in")
    assert (await wtb("export")).stdout == path.read_text()
    assert (await wtb("export", "-o", str(tmp_path / "no" / "file"))).exit_code == 2
    intact = await wtb("verify")
    assert (intact.exit_code, intact.stdout.split(":")[0]) == (0, "intact")
    head = intact.stdout.splitlines()[1].removeprefix("head: ")
    assert (await wtb("verify", "--head", head, "--from", "2")).exit_code == 0
    await audited.damage()
    broken = await wtb("verify")
    assert broken.exit_code == 3
    assert "event_changed" in broken.stdout
    assert json.loads((await wtb("verify", "--json")).stdout)["problem_count"] == 2
    server.should_exit = True
    await serving_on
