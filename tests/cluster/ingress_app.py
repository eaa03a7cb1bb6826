"""The real ingress in a Serve application of its own, before a controller that only stores."""

import asyncio
from typing import Any

from ray import serve

from tests.integration.http_bench import Controller
from wtb_ray.api import ExecuteRequest
from wtb_ray.control import Operation, PauseRequest, ResumeRequest, StateRequest, StopRequest
from wtb_ray.db import Database
from wtb_ray.model import Execution, ProjectVersion
from wtb_ray.serve.ingress import Ingress
from wtb_ray.settings import Settings
from wtb_ray.store import Store

SLOW_S = 4.0
WAIT_S = 0.2
"""How long callers wait for a command before it becomes an operation."""
CHANGE_S = 1.0
"""How long the project's code takes for a change of a state."""


class ServedController(Controller):
    """The store's commands behind a handle; some states make it slow or break it."""

    async def __init__(self, url: str) -> None:  # type: ignore[misc]  # Serve awaits it
        self._url = url
        super().__init__(Store(await Database(url).open()))
        self.runner = self._run
        self.commands._operating.wait_s = WAIT_S

    async def _run(
        self, version: ProjectVersion, method: str, id: str, values: dict[str, Any], *_: Any
    ) -> Execution:
        await asyncio.sleep(CHANGE_S)
        if values.get("x") == "broken":
            raise RuntimeError("SECRET of the inside")
        return await self.store.executions.get(id)

    async def database_url(self) -> str:
        return self._url

    async def execute(
        self, project: str, request: ExecuteRequest, actor: str, id: str | None = None
    ) -> Execution:
        if request.initial_state.get("x") == "slow":
            await asyncio.sleep(SLOW_S)
        if request.initial_state.get("x") == "broken":
            raise RuntimeError("SECRET of the inside")
        return await self.do_execute(project, request, actor, id)

    async def pause(self, id: str, request: PauseRequest, actor: str) -> Execution:
        return await self.commands.pause(id, request, actor)

    async def resume(self, id: str, request: ResumeRequest, actor: str) -> Execution | Operation:
        return await self.commands.resume(id, request, actor)

    async def change_state(
        self, id: str, request: StateRequest, actor: str
    ) -> Execution | Operation:
        return await self.commands.change_state(id, request, actor)

    async def stop(self, id: str, request: StopRequest, actor: str) -> Execution:
        return await self.commands.stop(id, request, actor)

    register = Controller.do_register
    batch_test = Controller.do_batch_test
    stop_batch = Controller.do_stop_batch
    leaderboard = Controller.do_leaderboard


def build(settings: Settings, url: str) -> Any:
    """An application like the product's, but for the controller."""
    controller = serve.deployment(ray_actor_options={"num_cpus": 0.05})(ServedController)
    return Ingress.bind(settings, controller.bind(url))
