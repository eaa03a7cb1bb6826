"""The HTTP application with runners in this process behind it: commands are carried out for real."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest_asyncio
import uvicorn

from tests import steered
from tests.integration.http_bench import HttpBench, serving
from tests.integration.test_scheduling import LocalRunners
from wtb_ray import graphs
from wtb_ray.actors.scheduler import BatchScheduler
from wtb_ray.events import Cursor
from wtb_ray.model import ProjectSpec, ProjectVersion, VariantSpec
from wtb_ray.settings import Settings

SPEC = ProjectSpec(
    name="line",
    entry="tests.steered:line",
    variants={
        "second": {
            "loud": VariantSpec(implementation="tests.steered:loud"),
            "marked": VariantSpec(params={"mark": "!"}),
        }
    },
    workflow_variants={"short": "tests.steered:short", "narrow": "tests.steered:narrow"},
)
ASKING = ProjectSpec(name="asking", entry="tests.steered:asking")
RESTS = ("PAUSED", "COMPLETED", "FAILED", "CANCELLED")


class SteeringBench:
    """Short words for what most tests do."""

    def __init__(self, http: HttpBench, runners: LocalRunners):
        self.http, self.runners = http, runners
        self.store = http.store
        self.commands = http.controller.commands

    async def register(self, spec: ProjectSpec = SPEC) -> ProjectVersion:
        return await self.http.controller.do_register(spec, "me")

    async def start(self, spec: ProjectSpec = SPEC, **request: Any) -> str:
        """A new execution of the newest version."""
        if "initial_state" not in request:
            request["initial_state"] = {"x": 1}
        made = await self.http.post(f"/workflows/{spec.name}/execute", request)
        await self.http.controller.wake()
        return str(made["id"])

    async def rest(self, id: str, *wanted: str) -> Any:
        """The execution once it rests."""
        async with asyncio.timeout(20):
            while True:
                found = await self.http.get(f"/executions/{id}")
                if found["status"] in (wanted or RESTS):
                    return found
                await asyncio.sleep(0.01)

    async def at(self, id: str, *nodes: str) -> None:
        """Waits until these nodes are the next of an execution that runs."""
        async with asyncio.timeout(20):
            while (await self.http.get(f"/executions/{id}/state"))["next_nodes"] != list(nodes):
                await asyncio.sleep(0.01)

    async def paused(self, at: str = "before:second", **request: Any) -> str:
        """An execution that stands at a breakpoint."""
        id = await self.start(breakpoints=[at], **request)
        assert (await self.rest(id))["status"] == "PAUSED"
        return id

    async def done(self, id: str) -> list[str]:
        """Who has run."""
        return list((await self.http.get(f"/executions/{id}/state"))["values"].get("done", []))

    async def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        return await self.http.post(path, {} if body is None else body, status)

    async def refused(self, method: str, path: str, body: Any, status: int) -> Any:
        """The error of a command that must be refused."""
        response = await self.http.client.request(method, f"/api/v1{path}", json=body)
        assert response.status_code == status, response.text
        return response.json()["error"]

    async def everything(self, id: str) -> Any:
        """All that a refused command must leave as it was."""
        listed = (await self.http.get("/executions", limit=500))["items"]
        # A refused change of state has taken an epoch, and pauses are parked by themselves.
        shown = [{**item, "epoch": None, "parking": None} for item in listed]
        return shown, await self.http.get(f"/executions/{id}/branches")

    async def types(self, id: str) -> list[str]:
        rows = await self.store.events.read(Cursor.START, 1000, execution_id=id)
        return [row.type for row in rows]


@asynccontextmanager
async def steering(url: str, directory: Path) -> AsyncIterator[SteeringBench]:
    """An application with a scheduler and runners of its own."""
    settings = Settings(data_dir=directory, runner_slots=16, runners_per_pool=1, lease_ttl_s=5.0)
    async with serving(url, directory) as http:
        runners = LocalRunners(settings, url)
        scheduler = BatchScheduler(settings, url, runners)

        async def ask(version: ProjectVersion, method: str, *args: Any) -> Any:
            ready = await http.store.leases.runners(version.version)
            id = ready[0].id if ready else await runners.spawn(version.spec)
            return await getattr(runners.runners[id], method)(*args)

        http.controller.runner = ask
        http.controller.describe = lambda spec: asyncio.to_thread(graphs.describe, spec)
        http.controller.waker = scheduler.wake
        try:
            bench = SteeringBench(http, runners)
            await bench.register()
            yield bench
        finally:
            for gate in steered.GATES.values():
                gate.set()
            await scheduler.close()
            for id, runner in runners.runners.items():
                await runners.kill(id)
                await runner.close()


@pytest_asyncio.fixture
async def bench(url: str, tmp_path: Path) -> AsyncIterator[SteeringBench]:
    async with steering(url, tmp_path) as made:
        yield made


@pytest_asyncio.fixture
async def address(bench: SteeringBench) -> AsyncIterator[str]:
    """Where the service listens."""
    config = uvicorn.Config(bench.http.app, port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    serving_on = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving_on
