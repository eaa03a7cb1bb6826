"""`wtb` against the real HTTP service and database: both sides mean the same by every shape."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest_asyncio
import uvicorn
from typer.testing import CliRunner, Result

from tests.integration.http_bench import HttpBench, serving
from wtb_ray.cli import app
from wtb_ray.sdk import identity

Wtb = Callable[..., Coroutine[Any, Any, Result]]


@pytest_asyncio.fixture
async def http(url: str, tmp_path: Path) -> AsyncIterator[HttpBench]:
    async with serving(url, tmp_path / "data") as bench:
        await bench.registered()
        yield bench


@pytest_asyncio.fixture
async def wtb(http: HttpBench) -> AsyncIterator[Wtb]:
    """Runs a command in a thread against the service."""
    server = uvicorn.Server(uvicorn.Config(http.app, port=0, log_level="error", lifespan="off"))
    serving_on = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    environment = {
        "WTB_URL": f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}",
        "COLUMNS": "160",
    }

    async def invoke(*words: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, list(words), env=environment)

    yield invoke
    server.should_exit = True
    await serving_on


async def test_a_project_is_shown_as_the_service_knows_it(wtb: Wtb) -> None:
    assert "app.graph:build" in (await wtb("project", "list")).stdout
    assert '{"model":"small"}' in (await wtb("project", "show", "p")).stdout
    nodes = json.loads((await wtb("project", "nodes", "p", "--json")).stdout)
    assert [node["name"] for node in nodes] == ["a", "b"]
    unknown = await wtb("project", "show", "p", "--version", "0" * 64)
    assert unknown.exit_code == 1
    assert "(unknown_version)" in unknown.stderr


async def test_a_run_is_watched_until_somebody_stops_it(wtb: Wtb, http: HttpBench) -> None:
    running = asyncio.create_task(wtb("run", "p", "--input", '{"x": 1}', "--variant", "b=fast"))
    await http.controller.called.wait()
    while not (found := await http.store.executions.list(1, None)).items:
        await asyncio.sleep(0.01)
    await http.store.executions.request_stop(found.items[0].id, actor="test", reason="enough")
    result = await running
    assert result.exit_code == 3
    assert "CANCELLED (enough)" in result.stdout
    assert "b=fast" in result.stdout


async def test_a_batch_is_started_looked_at_and_stopped(wtb: Wtb, tmp_path: Path) -> None:
    cases = tmp_path / "cases.csv"
    cases.write_text("id,x,expected\none,1,2\ntwo,2,3\n")
    command = ["batch", "run", "p", "--cases", str(cases), "--variants", "_name=base"]
    started = await wtb(*command, "--grid", "b=fast", "--scorer", "exact", "--no-wait", "--json")
    assert started.exit_code == 0, started.stderr
    id = json.loads(started.stdout)["id"]
    assert "2 variants × 2 cases" in (await wtb("batch", "status", id)).stdout
    assert id in (await wtb("batch", "list", "--project", "p")).stdout
    stopped = await wtb("batch", "stop", id, "--reason", "enough")
    assert "CANCELLED (enough)" in stopped.stdout
    page = json.loads((await wtb("batch", "results", id, "--limit", "3", "--json")).stdout)
    assert {(row["variant"], row["case_id"]) for row in page["items"]} < {
        (variant, case) for variant in ("base", "b=fast") for case in ("one", "two")
    }
    rest = await wtb("batch", "results", id, "--after", page["next"], "--status", "cancelled")
    assert rest.stdout.count("CANCELLED") == 1
    types = ["--type", "batch.created", "--type", "batch.cancelled"]
    events = (await wtb("events", "--batch", id, "--json", *types)).stdout
    assert [json.loads(line)["actor"] for line in events.splitlines()] == [
        f"http:{identity.caller('cli')}"
    ] * 2


async def test_a_batch_shows_its_costs_runs_again_and_grows(
    wtb: Wtb, http: HttpBench, tmp_path: Path
) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_text('{"id": "one", "input": {"x": 1}}\n')
    command = ["batch", "run", "p", "--cases", str(cases), "--variants", "_name=base", "--no-wait"]
    for amount, code in (("cost", 2), ("cost=much", 2), ("cost=0", 1), ("gold=1", 1)):
        refused = await wtb(*command, "--budget", amount)
        assert refused.exit_code == code, amount
        assert "budget" in refused.stderr
    budget = ["--budget", "cost=5", "--budget", "tokens=100000"]
    id = json.loads((await wtb(*command, *budget, "--json")).stdout)["id"]
    await wtb("batch", "stop", id)
    more = ["--variants", "b=fast", "--repetitions", "2"]
    grown = await wtb("batch", "extend", id, *more, "--json")
    assert grown.exit_code == 0, grown.stderr
    found = json.loads(grown.stdout)
    assert (found["cells"], found["status"]) == (4, "RUNNING")
    assert found["counts"] == {"CANCELLED": 1, "PENDING": 3}
    again = await wtb("batch", "rerun", id, "--status", "cancelled", "--variant", "base", "--json")
    assert json.loads(again.stdout)["counts"] == {"PENDING": 4}
    raised = await wtb("batch", "budget", id, "cost=7", "node_runs=900", "tokens=none", "--json")
    assert {k: v for k, v in json.loads(raised.stdout)["budget"].items() if v is not None} == {
        "cost": 7,
        "node_runs": 900,
    }
    for amount, code, said in (
        ("cost", 2, "form name=amount"),
        ("cost=much", 2, "'much' is no number"),
        ("cost=0", 1, "budget.cost"),
        ("cost=inf", 1, "budget.cost"),
        ("gold=1", 1, "budget.gold"),
    ):
        refused = await wtb("batch", "budget", id, amount)
        assert refused.exit_code == code, amount
        assert said in refused.stderr
    await wtb("batch", "budget", id, "cost=5", "node_runs=none", "tokens=100000")
    none_excluded = await wtb("batch", "rerun", id, "--status", "excluded")
    assert "is EXCLUDED" in none_excluded.stderr
    nothing = await wtb("batch", "rerun", id)
    assert nothing.exit_code == 1
    assert "(conflict)" in nothing.stderr
    wrong = await wtb("batch", "extend", id, "--repetitions", "1000000000")
    assert "(too_many_cells)" in wrong.stderr
    shown = (await wtb("batch", "status", id)).stdout
    assert "tokens 100000, cost 5" in shown
    assert "0 node runs" in shown
    async with http.store.db.connection() as conn:
        await conn.execute(
            "INSERT INTO batch_spendings (batch_id, shard, node_runs, duration_ms, tokens, usage)"
            ' VALUES (%s, 0, 14, 2100, 812, \'{"tokens": 812, "cost": 0.0031}\')',
            (id,),
        )
        await conn.execute(
            "UPDATE cells SET status = 'DONE', node_runs = 10, latency_ms = 1000,"
            " usage = '{\"tokens\": 600}' WHERE batch_id = %s",
            (id,),
        )
    shown = (await wtb("batch", "status", id)).stdout
    assert "40 node runs in 4.00 s, tokens 2,400" in shown
    assert "14 node runs in 2.10 s, tokens 812, cost 0.0031 (65 % less by sharing)" in shown


async def test_what_the_service_refuses_names_the_field(wtb: Wtb) -> None:
    result = await wtb("run", "p", "--variant", "b=slow")
    assert result.exit_code == 1
    assert "(unknown_variant)" in result.stderr
    assert "field=variant_config.b" in result.stderr
    assert "(invalid_request)" in (await wtb("events", "--after", "yesterday")).stderr


async def test_doctor_asks_the_service(wtb: Wtb) -> None:
    found = {
        row["name"]: row for row in json.loads((await wtb("doctor", "--json")).stdout)["checks"]
    }
    assert found["stack"]["level"] == "OK"
    assert found["stack database"]["level"] == "OK"
