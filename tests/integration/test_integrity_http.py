"""Integrity over HTTP, in the SDK and from the command line."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from typer.testing import CliRunner, Result

from tests.integration.http_bench import HttpBench, serving
from tests.integration.integrity_bench import Names
from wtb_ray import errors
from wtb_ray.actors.integrity import IntegrityChecker
from wtb_ray.cli import app
from wtb_ray.integrity import checking
from wtb_ray.sdk import AsyncTestBench
from wtb_ray.serve.operating import Operating

Wtb = Callable[..., Awaitable[Result]]


@pytest_asyncio.fixture
async def http(url: str, tmp_path: Path) -> AsyncIterator[HttpBench]:
    async with serving(url, tmp_path / "data") as bench:
        settings = bench.context.settings.model_copy(update={"integrity_every_s": 0.0})
        bench.controller.checker = IntegrityChecker(settings, url, Names(), pause_s=0.02)
        yield bench
        await bench.controller.checker.close()


@pytest_asyncio.fixture
async def wtb(http: HttpBench) -> AsyncIterator[Wtb]:
    config = uvicorn.Config(http.app, port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    serving_on = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    environment = {"WTB_URL": f"http://127.0.0.1:{port}", "COLUMNS": "200"}

    async def run(*words: str) -> Result:
        line = ["integrity", *words]
        return await asyncio.to_thread(CliRunner().invoke, app, line, env=environment)

    yield run
    server.should_exit = True
    await serving_on


async def sql(http: HttpBench, text: str, *params: Any) -> None:
    async with http.context.db.transaction() as conn:
        await conn.execute("SET LOCAL session_replication_role = 'replica'")
        await conn.execute(text, params)


async def keys(http: HttpBench, count: int) -> None:
    """Requests that never ended."""
    await sql(
        http,
        "INSERT INTO idempotency (key, request, created_at)"
        " SELECT 'k' || lpad(n::text, 4, '0'), 'r', '2020-01-01' FROM generate_series(1, %s) n",
        count,
    )


async def lost_case(http: HttpBench) -> str:
    """A batch, of which a case is lost: critical, and nothing can be done."""
    await http.registered()
    batch = {"project": "p", "variant_matrix": [{}], "test_cases": [{"id": "c", "input": {"x": 1}}]}
    made = await http.post("/batch-tests", batch)
    await sql(http, "DELETE FROM cases WHERE batch_id = %s", made["id"])
    return str(made["id"])


async def test_a_report_is_made_read_and_paged(http: HttpBench) -> None:
    missing = await http.client.get("/api/v1/integrity")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "not_found"
    empty = await http.post("/integrity", None, 200)
    assert (empty["healthy"], empty["findings"], empty["items"]) == (True, 0, [])
    await keys(http, 5)
    made = await http.post("/integrity", {"action": "check", "deep": True}, 200)
    assert (made["healthy"], made["kinds"], made["deep"]) == (True, {"stuck_work": 5}, True)
    first = await http.get("/integrity", limit=3)
    rest = await http.get("/integrity", limit=3, after=first["next"])
    assert (first["id"], len(first["items"]), rest["next"]) == (made["id"], 3, None)
    assert [*first["items"], *rest["items"]] == made["items"]
    assert {item["problem"] for item in made["items"]} == {"key_unfinished"}
    assert await http.get("/integrity", report=empty["id"]) == empty
    assert (await http.client.get("/api/v1/integrity?report=i0")).status_code == 404


async def test_repairs_are_planned_done_and_told(http: HttpBench) -> None:
    batch = await lost_case(http)
    await keys(http, 2)
    report = await http.post("/integrity", {}, 200, {"X-Actor": "ada"})
    assert not report["healthy"]
    planned = await http.post("/integrity", {"action": "repair"}, 200)
    assert planned["dry_run"]
    assert planned["counts"] == {"manual": 1, "would_repair": 3}
    [key, *_] = [item["id"] for item in report["items"] if item["problem"] == "key_unfinished"]
    wanted = {"action": "repair", "findings": [key], "dry_run": False}
    assert (await http.post("/integrity", wanted, 200))["counts"] == {"repaired": 1}
    whole = {"action": "repair", "dry_run": False}
    done = await http.post("/integrity", whole, 200, {"X-Actor": "ada"})
    assert done["counts"] == {"manual": 1, "repaired": 2, "gone": 1}
    told = await http.get("/audit/events", type="integrity.checked,integrity.repaired")
    assert [row["actor"] for row in told["items"]] == ["http:ada", "http", "http:ada", "http:ada"]
    [of_batch] = (await http.get("/audit/events", type="integrity.repaired", batch=batch))["items"]
    assert of_batch["payload"]["problem"] == "batch_counts"
    outcomes = {
        item["problem"]: item["outcome"] for item in (await http.get("/integrity"))["items"]
    }
    assert outcomes == {
        "case_missing": None,
        "batch_counts": "repaired",
        "key_unfinished": "repaired",
    }


async def test_what_cannot_be_asked_names_the_field(http: HttpBench) -> None:
    for body, field in (
        ({"only": ["odd"]}, "only"),
        ({"action": "mend"}, "action"),
        ({"action": "repair", "findings": ["f0"]}, "findings"),
        ({"depth": 3}, "depth"),
    ):
        await http.post("/integrity", None, 200)
        response = await http.client.post("/api/v1/integrity", json=body)
        assert response.status_code == 422, response.text
        assert field in json.dumps(response.json()["error"])


async def test_a_long_check_goes_on_as_an_operation(
    http: HttpBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Operating, "wait_s", 0.05)
    await keys(http, 1)
    assert http.controller.checker is not None
    http.controller.checker._pause_s = 0.5
    operation = await http.post("/integrity", {}, 202)
    assert (operation["kind"], operation["status"]) == ("integrity_check", "RUNNING")
    async with AsyncTestBench("http://localhost", transport=http.client._transport) as bench:
        report = await bench.check_integrity()
        assert [one.problem for one in report.items] == ["key_unfinished"]
        done = await http.get(f"/operations/{operation['id']}")
        assert (done["status"], done["result"]["findings"]) == ("DONE", 1)


async def test_the_sdk_reads_whole_reports(
    http: HttpBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "MOST", 600)
    async with AsyncTestBench("http://localhost", transport=http.client._transport) as bench:
        with pytest.raises(errors.NotFound, match="no check has ended"):
            await bench.get_integrity()
        await keys(http, 620)
        report = await bench.check_integrity(only=["stuck_work"])
        assert (len(report.items), report.truncated) == (600, ["key_unfinished"])
        assert await bench.get_integrity() == report == await bench.get_integrity(report.id)
        some = [one.id for one in report.items[:3]]
        assert (await bench.repair_integrity(some)).counts == {"would_repair": 3}
        assert (await bench.repair_integrity(dry_run=False)).counts == {"repaired": 600}
        assert (await bench.check_integrity()).findings == 20


async def test_the_command_line_checks_shows_and_repairs(http: HttpBench, wtb: Wtb) -> None:
    healthy = await wtb("check")
    assert (healthy.exit_code, healthy.stdout.split(":")[0]) == (0, "healthy")
    await keys(http, 2)
    warned = await wtb("check", "--deep")
    assert warned.exit_code == 0
    assert "2 info found" in warned.stdout
    assert "→ forgotten: sent again" in warned.stdout
    asked = await wtb("repair")
    assert asked.exit_code == 0
    assert "would repair" in asked.stdout
    assert "give --yes" in asked.stderr
    assert json.loads((await wtb("check", "--json")).stdout)["findings"] == 2
    done = await wtb("repair", "--yes")
    assert (done.exit_code, done.stdout.split(" (")[0]) == (0, "2 repaired")
    await lost_case(http)
    broken = await wtb("check", "--only", "dangling_reference")
    assert broken.exit_code == 3
    assert "case_missing" in broken.stdout
    left = await wtb("repair", "--yes", "--json")
    assert left.exit_code == 3
    outcomes = {one["problem"]: one["outcome"] for one in json.loads(left.stdout)["repairs"]}
    assert outcomes == {"case_missing": "manual", "batch_counts": "repaired"}
    assert (await wtb("check", "--only", "odd")).exit_code == 1
