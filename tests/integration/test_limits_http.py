"""Limits as operators set them: by HTTP, the SDK and the command line."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.http_bench import HttpBench, serving
from tests.integration.test_cli_http import Wtb, wtb
from wtb_ray import errors
from wtb_ray.sdk import AsyncTestBench

__all__ = ["wtb"]


@pytest_asyncio.fixture
async def http(url: str, tmp_path: Path) -> AsyncIterator[HttpBench]:
    async with serving(url, tmp_path / "data") as bench:
        await bench.registered()
        yield bench


async def put(http: HttpBench, name: str, body: Any) -> tuple[int, Any]:
    response = await http.client.put(f"/api/v1/limits/{name}", json=body)
    return response.status_code, response.json()


async def test_a_limit_is_set_shown_changed_and_removed(http: HttpBench) -> None:
    assert await http.get("/limits") == []
    units = {"requests": {"per_minute": 500}, "tokens": {"per_minute": 9e4, "burst": 2e4}}
    status, made = await put(http, "openai", {"units": units, "concurrency": 20})
    assert status == 200
    assert made["units"]["requests"] == {"per_minute": 500, "burst": 500}
    assert (made["levels"], made["inside"]) == ({"requests": 500, "tokens": 20_000}, 0)
    status, changed = await put(http, "openai", {"units": {"tokens": {"per_minute": 60}}})
    assert (changed["concurrency"], list(changed["units"])) == (None, ["tokens"])
    assert [limit["name"] for limit in await http.get("/limits")] == ["openai"]
    removed = await http.client.delete("/api/v1/limits/openai")
    assert removed.json()["name"] == "openai"
    again = await http.client.delete("/api/v1/limits/openai")
    assert (again.status_code, again.json()["error"]["code"]) == (404, "unknown_limit")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": -3}, "concurrency"),
        ({"units": {"requests": {"per_minute": 0}}}, "units.requests.per_minute"),
        ({"units": {"requests": {"per_minute": -1}}}, "units.requests.per_minute"),
        ({"units": {"requests": {"per_minute": 1, "burst": 0}}}, "units.requests.burst"),
        ({"units": {"requests": {}}}, "units.requests.per_minute"),
        ({"units": {"requests": 5}}, "units.requests"),
        ({"units": {"no unit": {"per_minute": 5}}}, "units.no unit"),
        ({"rate": 5}, "rate"),
    ],
)
async def test_what_is_no_limit_is_refused_by_field(http: HttpBench, body: Any, field: str) -> None:
    status, answer = await put(http, "api", body)
    assert (status, answer["error"]["code"]) == (422, "invalid_request")
    assert field in answer["error"]["details"]["field"]
    assert (await put(http, "no%20name", {"concurrency": 1}))[0] == 422
    assert await http.get("/limits") == []


async def test_the_command_line_sets_what_it_says(wtb: Wtb, http: HttpBench) -> None:
    words = ("limit", "set", "openai", "--requests", "500", "--rate", "tokens=90000:20000")
    made = await wtb(*words, "--concurrency", "20", "--json")
    assert json.loads(made.stdout)["units"]["tokens"]["burst"] == 20_000
    shown = (await wtb("limit", "list")).stdout
    assert "openai" in shown
    assert "0 of 20" in shown
    assert (await wtb("limit", "set", "openai")).exit_code == 1
    assert (await wtb("limit", "set", "openai", "--requests", "0")).exit_code == 1
    assert (await wtb("limit", "set", "openai", "--rate", "tokens")).exit_code == 2
    assert (await wtb("limit", "set", "openai", "--rate", "tokens=many")).exit_code == 2
    assert (await wtb("limit", "remove", "openai")).exit_code == 0
    gone = await wtb("limit", "remove", "openai")
    assert "(unknown_limit)" in gone.stderr


async def test_the_command_line_refuses_a_deadline_that_is_none(wtb: Wtb, tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_text('{"id": "c", "input": {"x": 1}}')
    late = await wtb(
        "batch", "run", "p", "--cases", str(cases), "--variants", "_name=a", "--deadline", "0"
    )
    assert (late.exit_code, "deadline_s" in late.stderr) == (1, True), late.output
    late = await wtb("run", "p", "--deadline", "0")
    assert (late.exit_code, "deadline_s" in late.stderr) == (1, True), late.output
    fine = await wtb("run", "p", "--deadline", "60", "--no-wait", "--json")
    assert json.loads(fine.stdout)["deadline_s"] == 60


async def test_the_sdk_sets_what_it_says(http: HttpBench) -> None:
    async with AsyncTestBench("http://localhost", transport=http.client._transport) as bench:
        made = await bench.set_limit("api", requests=(60, 5), concurrency=2)
        assert (made.units["requests"].burst, made.concurrency) == (5, 2)
        assert [limit.name for limit in await bench.limits()] == ["api"]
        with pytest.raises(errors.InvalidRequest, match="per_minute"):
            await bench.set_limit("api", requests=0)
        with pytest.raises(errors.InvalidRequest, match="limits nothing"):
            await bench.set_limit("api")
        assert (await bench.remove_limit("api")).name == "api"
        with pytest.raises(errors.UnknownLimit):
            await bench.remove_limit("api")


@pytest.mark.parametrize("seconds", [0, -1, 1e300])
async def test_a_deadline_that_is_none_is_refused(http: HttpBench, seconds: float) -> None:
    body = {
        "project": "p",
        "variant_matrix": [{}],
        "test_cases": [{"id": "c", "input": {"x": 1}}],
        "deadline_s": seconds,
    }
    refused = await http.post("/batch-tests", body, 422)
    assert refused["error"]["details"]["field"] == "deadline_s"
    refused = await http.post("/workflows/p/execute", {"deadline_s": seconds}, 422)
    assert refused["error"]["details"]["field"] == "deadline_s"
