"""Projects are deactivated and removed; what they ran goes on, or stays to be read."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import pytest_asyncio
from typer.testing import CliRunner, Result

from tests import steered
from tests.integration.steering_bench import SPEC, SteeringBench, address, bench
from wtb_ray import errors
from wtb_ray.cli import app
from wtb_ray.events import Cursor
from wtb_ray.model import ProjectVersion
from wtb_ray.sdk import AsyncTestBench, WTBTestBench
from wtb_ray.states import TERMINAL_EXECUTION

__all__ = ["address", "bench"]

BATCH = {"variant_matrix": [{}], "test_cases": [{"id": "c", "input": {"x": 1}}]}
Wtb = Callable[..., Coroutine[Any, Any, Result]]


async def told(bench: SteeringBench, project: str = "line") -> list[tuple[str, str]]:
    """Type and actor of the events of the project itself."""
    rows = await bench.store.events.read(Cursor.START, 1000)
    return [(r.type, r.actor) for r in rows if r.project == project and r.execution_id is None]


async def set_active(bench: SteeringBench, active: bool) -> Any:
    response = await bench.http.client.patch("/api/v1/workflows/line", json={"active": active})
    assert response.status_code == 200, response.text
    return response.json()


async def removed(bench: SteeringBench) -> Any:
    response = await bench.http.client.delete("/api/v1/workflows/line", headers={"X-Actor": "ada"})
    assert response.status_code == 200, response.text
    return response.json()


async def nothing_new_starts(bench: SteeringBench, held: str) -> None:
    fork = f"/executions/{held}/fork"
    many = [{"command": "fork", "execution_id": held}]
    for path, body in [
        ("/workflows/line/execute", {"initial_state": {"x": 1}}),
        ("/workflows/line/batch-test", BATCH),
        (fork, {}),
        (fork, {"state": {"x": 2}, "run": True}),
    ]:
        error = await bench.refused("POST", path, body, 409)
        assert (error["code"], error["details"]["project"]) == ("project_inactive", "line"), path
    [outcome] = (await bench.post("/executions/batch", {"items": many}))["items"]
    assert outcome["error"]["code"] == "project_inactive"
    alone = (await bench.http.get("/executions", limit=500))["items"]
    assert [item["id"] for item in alone if item["batch_id"] is None] == [held]


async def test_nothing_new_of_a_deactivated_project_starts_and_what_runs_goes_on(
    bench: SteeringBench,
) -> None:
    held = await bench.paused()
    steered.GATES["batch"] = asyncio.Event()
    cases = [{"id": f"c{i}", "input": {"gate": "batch"}} for i in range(40)]
    batch = await bench.post("/workflows/line/batch-test", {**BATCH, "test_cases": cases}, 202)
    assert (await set_active(bench, False))["active"] is False
    assert (await set_active(bench, False))["active"] is False

    await nothing_new_starts(bench, held)
    listed = await bench.http.get("/workflows")
    assert [(item["project"], item["active"]) for item in listed["items"]] == [("line", False)]
    newer = await bench.post("/workflows/line/nodes/third/variants", {"name": "v"}, 201)
    assert newer["active"] is False, "a new version of it is as inactive as it is"

    await bench.post(f"/executions/{held}/resume")
    steered.GATES["batch"].set()  # until now its cells have all the room that there is
    assert (await bench.rest(held, "COMPLETED"))["status"] == "COMPLETED"
    async with asyncio.timeout(20):
        while (found := await bench.http.get(f"/batch-tests/{batch['id']}"))["ended_at"] is None:
            await asyncio.sleep(0.02)
    assert (found["status"], found["counts"]) == ("COMPLETED", {"DONE": 40})

    assert (await set_active(bench, True))["active"] is True
    assert (await bench.rest(await bench.start()))["status"] == "COMPLETED"
    types = [type_ for type_, _ in await told(bench) if type_.startswith("project.")]
    assert types == [
        "project.registered",
        "project.deactivated",
        "project.registered",
        "project.activated",
    ]


async def test_a_project_that_is_in_use_is_not_removed(bench: SteeringBench) -> None:
    held = await bench.paused()
    batch = await bench.post("/workflows/line/batch-test", BATCH, 202)
    await bench.http.client.post(f"/api/v1/batch-tests/{batch['id']}/pause")
    error = await bench.refused("DELETE", "/workflows/line", None, 409)
    assert error["code"] == "project_in_use"
    assert held in error["details"]["executions"]
    assert error["details"]["batches"] == [batch["id"]]
    assert (await bench.http.get("/workflows/line"))["active"] is True
    await bench.post(f"/executions/{held}/stop", status=202)
    error = await bench.refused("DELETE", "/workflows/line", None, 409)
    assert error["details"]["batches"] == [batch["id"]]
    await bench.post(f"/batch-tests/{batch['id']}/stop", status=202)
    async with asyncio.timeout(20):
        while (await bench.http.client.delete("/api/v1/workflows/line")).status_code != 200:
            await asyncio.sleep(0.02)


async def ran(bench: SteeringBench) -> tuple[str, str, list[str]]:
    """An execution that completed, one that failed, and where all that was run can be read."""
    done = await bench.start()
    await bench.rest(done)
    failed = await bench.start(initial_state={"fails": True})
    await bench.rest(failed)
    batch = await bench.post("/workflows/line/batch-test", BATCH, 202)
    async with asyncio.timeout(20):
        while (await bench.http.get(f"/batch-tests/{batch['id']}"))["ended_at"] is None:
            await asyncio.sleep(0.02)
    paths = [
        *(f"/executions/{done}{rest}" for rest in ("", "/state", "/checkpoints", "/nodes")),
        *(f"/executions/{done}{rest}" for rest in ("/branches", "/audit", "/diff", "/interrupts")),
        *(f"/batch-tests/{batch['id']}{rest}" for rest in ("", "/results", "/progress")),
        "/executions",
        "/batch-tests",
    ]
    return done, failed, paths


async def test_what_a_removed_project_ran_can_be_read_as_before(bench: SteeringBench) -> None:
    _, _, paths = await ran(bench)
    before = [await bench.http.get(path) for path in paths]
    last = await bench.http.get("/workflows/line")
    assert await removed(bench) == {**last, "active": False}
    assert [await bench.http.get(path) for path in paths] == before
    log = await bench.http.get("/audit/events", project="line", newest_first="true")
    newest = log["items"][0]
    assert (newest["type"], newest["actor"]) == ("project.removed", "http:ada")
    assert newest["payload"] == {"version": last["version"]}


async def test_nothing_of_a_removed_project_starts_or_goes_on(bench: SteeringBench) -> None:
    done, failed, paths = await ran(bench)
    before = [await bench.http.get(path) for path in paths]
    last = await removed(bench)
    assert (await bench.http.get("/workflows"))["items"] == []
    line = "/workflows/line"
    refused: list[tuple[str, str, Any]] = [
        *(("GET", line + rest, None) for rest in ("", "/versions", "/nodes")),
        ("GET", f"{line}?version={last['version']}", None),
        ("POST", f"{line}/execute", {"initial_state": {}}),
        ("POST", f"{line}/batch-test", BATCH),
        ("POST", f"{line}/nodes/second/variants", {"name": "v"}),
        ("PUT", line, SPEC.model_dump(mode="json")),
        ("PATCH", line, {"active": True}),
        ("DELETE", line, None),
    ]
    for method, path, body in refused:
        error = await bench.refused(method, path, body, 404)
        assert error["code"] == "unknown_project", path
    moves: list[tuple[str, Any]] = [
        (f"/executions/{done}/fork", {}),
        (f"/executions/{done}/fork", {"state": {"x": 2}}),
        (f"/executions/{done}/rollback", {"node": "first"}),
        (f"/executions/{done}/reset", None),
        (f"/executions/{failed}/retry", {}),
        (f"/executions/{done}/nodes/first/execute", {}),
    ]
    for path, body in moves:
        error = await bench.refused("POST", path, body, 409)
        assert error["code"] == "project_removed", path
    assert [await bench.http.get(path) for path in paths] == before


async def test_the_name_of_a_removed_project_is_free(bench: SteeringBench) -> None:
    old = await bench.start()
    await bench.rest(old)
    await set_active(bench, False)
    first = await removed(bench)
    again = await bench.register()
    assert (again.version, again.active) == (first["version"], True)
    await bench.rest(await bench.start())
    await removed(bench)
    other = await bench.register(SPEC.model_copy(update={"description": "another"}))
    assert other.version != again.version
    versions = (await bench.http.get("/workflows/line/versions"))["items"]
    assert {v["version"] for v in versions} == {again.version, other.version}
    assert (await bench.rest(await bench.start()))["version"] == other.version
    back = await bench.post(f"/executions/{old}/rollback", {"node": "first"})
    assert back["status"] == "PAUSED", "with the project, what it ran can go on"
    types = [type_ for type_, _ in await told(bench)]
    assert types == [
        "project.registered",
        "project.deactivated",
        *("project.removed", "project.registered"),
        *("project.removed", "project.registered"),
    ]


async def test_a_removal_and_a_start_at_once_never_both_happen(bench: SteeringBench) -> None:
    version: ProjectVersion = await bench.store.projects.get("line")

    async def start() -> str | None:
        try:
            made = await bench.store.executions.create(
                version, {}, {"x": 1}, recursion_limit=9, actor="me"
            )
        except errors.ProjectRemoved:
            return None
        return made.id

    async def remove() -> bool:
        try:
            await bench.store.projects.remove("line", actor="me")
        except errors.ProjectInUse:
            return False
        return True

    for _ in range(20):
        started, gone, other = await asyncio.gather(start(), remove(), start())
        assert gone == (started is None and other is None)
        for id in filter(None, (started, other)):
            if (await bench.store.executions.get(id)).status not in TERMINAL_EXECUTION:
                await bench.store.control.kill(id, actor="me")
        await bench.register()


async def test_nodes_of_a_graph_that_is_code_are_changed_in_the_code(bench: SteeringBench) -> None:
    before = await bench.http.get("/workflows/line")
    for method, path, cure in [
        ("POST", "", "PUT /workflows/line with its bundle"),
        ("PUT", "/second", "POST /workflows/line/nodes/second/variants"),
        ("DELETE", "/second", "remove 'second' there"),
    ]:
        error = await bench.refused(method, f"/workflows/line/nodes{path}", {"name": "n"}, 409)
        assert (error["code"], error["details"]["entry"]) == ("graph_is_code", SPEC.entry)
        assert cure in error["message"]
    for method in ("PUT", "DELETE"):
        await bench.refused(method, "/workflows/line/nodes/none", None, 404)
        await bench.refused(method, "/workflows/none/nodes/second", None, 404)
    assert await bench.http.get("/workflows/line") == before


async def test_unknown_projects_and_bad_bodies(bench: SteeringBench) -> None:
    for method in ("PATCH", "DELETE"):
        error = await bench.refused(method, "/workflows/none", {"active": True}, 404)
        assert error["code"] == "unknown_project"
    bodies: list[Any] = [{}, {"active": None}, {"active": True, "name": "x"}]
    for body in bodies:
        await bench.refused("PATCH", "/workflows/line", body, 422)
    assert await told(bench) == [("project.registered", "me")]


async def test_the_sdk_does_the_same(bench: SteeringBench, address: str) -> None:
    async with AsyncTestBench(address) as sdk:
        assert (await sdk.deactivate_project("line")).active is False
        with pytest.raises(errors.ProjectInactive, match="deactivated"):
            await sdk.run("line", {"x": 1})
        assert (await sdk.activate_project("line")).active is True
        held = await sdk.run("line", {"x": 1}, breakpoints=["second"])
        with pytest.raises(errors.ProjectInUse) as e:
            await sdk.remove_project("line")
        assert e.value.details["executions"] == [held.id]
        await sdk.stop(held.id)

    def work() -> None:
        with WTBTestBench(address) as sdk:
            assert sdk.deactivate_project("line").active is False
            assert sdk.activate_project("line").active is True
            assert sdk.remove_project("line").project == "line"
            assert sdk.list_projects() == []
            with pytest.raises(errors.UnknownProject):
                sdk.run("line", {"x": 1})
            assert sdk.get_execution(held.id).state["done"] == ["first"]

    await asyncio.to_thread(work)


@pytest_asyncio.fixture
async def wtb(bench: SteeringBench, address: str) -> Wtb:
    async def invoke(*words: str) -> Result:
        environment = {"WTB_URL": address, "COLUMNS": "180"}
        arguments = ["project", *words]
        return await asyncio.to_thread(CliRunner().invoke, app, arguments, env=environment)

    return invoke


async def test_the_command_line_does_the_same(bench: SteeringBench, wtb: Wtb) -> None:
    off = await wtb("deactivate", "line")
    assert (off.exit_code, "line is deactivated" in off.stdout) == (0, True)
    assert "line (deactivated)" in (await wtb("list")).stdout
    assert "deactivated" in (await wtb("show", "line")).stdout
    on = await wtb("activate", "line", "--json")
    assert (on.exit_code, '"active": true' in on.stdout) == (0, True)
    held = await bench.paused()
    refused = await wtb("remove", "line")
    assert (refused.exit_code, "(project_in_use)" in refused.stderr) == (1, True)
    await bench.post(f"/executions/{held}/stop", status=202)
    gone = await wtb("remove", "line")
    assert (gone.exit_code, "removed line" in gone.stdout) == (0, True)
    assert "no projects" in (await wtb("list")).stdout
    again = await wtb("remove", "line")
    assert (again.exit_code, "(unknown_project)" in again.stderr) == (1, True)
