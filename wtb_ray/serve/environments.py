"""Commands on environments: building them ahead of time, forgetting them, looking after the caches."""

from typing import Any

from wtb_ray import errors
from wtb_ray.control import Operation
from wtb_ray.environment import (
    Environment,
    EnvironmentRequest,
    EnvironmentView,
    Pruned,
    Venv,
    VenvStats,
)
from wtb_ray.placement import Placement
from wtb_ray.serve.operating import Operating
from wtb_ray.store import Store


async def view(store: Store, environment: Environment) -> EnvironmentView:
    """An environment, what it comes down to, and where it is built."""
    return EnvironmentView(
        **environment.model_dump(),
        pins=await store.environments.pins(environment.venv),
        venvs=await store.venvs.list(venv=environment.venv),
    )


class EnvironmentCommands:
    """What users ask of environments, on all hosts of the cluster."""

    _store: Store
    _placement: Placement
    _operating: Operating

    async def create_environment(
        self, request: EnvironmentRequest, actor: str
    ) -> EnvironmentView | Operation:
        """Builds an environment on a host; a failure that was remembered is tried again on request.

        Raises:
            EnvironmentFailed: It cannot be built; in uv's words.
            PythonMismatch: It asks for another Python than the cluster's.
        """
        return await self._operating.in_time("create_environment", None, self._created(request))

    async def _created(self, request: EnvironmentRequest) -> EnvironmentView:
        [host, *_] = self._placement.hosts()
        if request.rebuild:
            known = await self._placement.ask(host, "identify", request.spec, request.bundle)
            await self._placement.ask(host, "retry", known)
            await self._placement.ask(host, "invalidate", known)
        found: Venv = await self._placement.acquire(host, request.spec, request.bundle)
        return await self.view_environment(found.environment)

    async def view_environment(self, digest: str) -> EnvironmentView:
        """An environment, and where it is built."""
        environment = await self._store.environments.get(digest)
        return await view(self._store, environment)

    async def delete_environment(self, digest: str, actor: str) -> Environment:
        """Forgets an environment, and has what is built of it removed once nobody runs in it.

        Raises:
            UnknownEnvironment: There is none with this digest.
            Conflict: Executions that have not ended run in it; says how many.
        """
        environment = await self._store.environments.get(digest)
        await self._store.environments.delete(digest, actor=actor)
        if await self._store.environments.pins(environment.venv) is not None:
            return environment  # another one has the same packages
        for venv in await self._store.venvs.list(venv=environment.venv):
            if venv.host in self._placement.hosts():
                await self._placement.ask(venv.host, "invalidate", environment.venv)
        return environment

    async def prune_environments(self, dry_run: bool, actor: str) -> list[Pruned]:
        """Removes what is invalid, old or too much on every host, or says what would go."""
        return [
            Pruned(host=host, **(await self._placement.ask(host, "prune", dry_run)).model_dump())
            for host in self._placement.hosts()
        ]

    async def environment_stats(self) -> list[VenvStats]:
        """What the caches have done and hold, by host; those that do not answer are left out."""
        found: list[Any] = []
        for host in self._placement.hosts():
            try:
                found.append(await self._placement.ask(host, "stats"))
            except errors.Unavailable:
                continue
        return found
