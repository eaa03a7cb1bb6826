"""Environments for programs and notebooks: a part of both benches, and the requests behind it."""

import abc
from typing import Final, TypeVar

from wtb_ray.api import Page
from wtb_ray.environment import (
    Environment,
    EnvironmentRequest,
    EnvironmentView,
    EnvSpec,
    Pruned,
    VenvStats,
)
from wtb_ray.frozen import Frozen
from wtb_ray.sdk import flows, steering
from wtb_ray.sdk.calls import Call, get, quoted, send
from wtb_ray.sdk.flows import Flow, ask
from wtb_ray.sdk.steering_calls import operating

Answer = TypeVar("Answer")

PRUNE_TIMEOUT_S: Final = 300.0


class _Nothing(Frozen):
    """The body of a command without one."""


def _page(after: str | None, limit: int) -> Call[Page[Environment]]:
    return get("/environments", Page[Environment], after=after, limit=limit)


def listed(limit: int | None) -> Flow[list[Environment]]:
    return flows.listed(_page, limit)


def one(digest: str) -> Flow[EnvironmentView]:
    return ask(get(f"/environments/{quoted(digest)}", EnvironmentView))


def stats() -> Flow[list[VenvStats]]:
    return ask(get("/environments/stats", list[VenvStats]))


def create(spec: EnvSpec, rebuild: bool) -> Flow[EnvironmentView]:
    """Builds it, and waits until it is built."""
    request = EnvironmentRequest(spec=spec, rebuild=rebuild)
    call = operating("POST", "/environments", request, EnvironmentView)
    return steering.operated(call, EnvironmentView)


def delete(digest: str) -> Flow[Environment]:
    return ask(send("DELETE", f"/environments/{quoted(digest)}", None, Environment))


def prune(dry_run: bool) -> Flow[list[Pruned]]:
    path = f"/environments/prune?dry_run={str(dry_run).lower()}"
    return ask(send("POST", path, _Nothing(), list[Pruned], PRUNE_TIMEOUT_S))


class Environments(abc.ABC):
    """What is installed where: a part of `WTBTestBench`."""

    @abc.abstractmethod
    def flow(self, flow: Flow[Answer]) -> Answer:
        """The result of several calls and of the pauses between them."""

    def create_environment(self, spec: EnvSpec, rebuild: bool = False) -> EnvironmentView:
        """Build an environment ahead of time, and wait for it.

        Args:
            rebuild: Forget what is built of it, and that it failed, and build it anew.

        Raises:
            EnvironmentFailed: It cannot be built; in uv's words.
        """
        return self.flow(create(spec, rebuild))

    def get_environment(self, digest: str) -> EnvironmentView:
        """What an environment asks for, what is installed for it, and where.

        Raises:
            UnknownEnvironment: There is none with this digest.
        """
        return self.flow(one(digest))

    def list_environments(self, limit: int | None = None) -> list[Environment]:
        """Environments that were asked for, newest first."""
        return self.flow(listed(limit))

    def delete_environment(self, digest: str) -> Environment:
        """Forget an environment; what is built of it goes once nobody runs in it.

        Raises:
            UnknownEnvironment: There is none with this digest.
            Conflict: Executions that have not ended run in it.
        """
        return self.flow(delete(digest))

    def prune_environments(self, dry_run: bool = True) -> list[Pruned]:
        """Remove what was not used for long, is invalid or takes too much room; or say what would go."""
        return self.flow(prune(dry_run))

    def environment_stats(self) -> list[VenvStats]:
        """Hits, builds, failures and sizes of the caches, by host."""
        return self.flow(stats())


class AsyncEnvironments(abc.ABC):
    """What is installed where: a part of `AsyncTestBench`."""

    @abc.abstractmethod
    async def flow(self, flow: Flow[Answer]) -> Answer:
        """The result of several calls and of the pauses between them."""

    async def create_environment(self, spec: EnvSpec, rebuild: bool = False) -> EnvironmentView:
        """Build an environment ahead of time; see `WTBTestBench.create_environment`."""
        return await self.flow(create(spec, rebuild))

    async def get_environment(self, digest: str) -> EnvironmentView:
        """An environment and where it is built; see `WTBTestBench.get_environment`."""
        return await self.flow(one(digest))

    async def list_environments(self, limit: int | None = None) -> list[Environment]:
        """Environments that were asked for, newest first."""
        return await self.flow(listed(limit))

    async def delete_environment(self, digest: str) -> Environment:
        """Forget an environment; see `WTBTestBench.delete_environment`."""
        return await self.flow(delete(digest))

    async def prune_environments(self, dry_run: bool = True) -> list[Pruned]:
        """Remove what is old or too much; see `WTBTestBench.prune_environments`."""
        return await self.flow(prune(dry_run))

    async def environment_stats(self) -> list[VenvStats]:
        """Hits, builds, failures and sizes of the caches, by host."""
        return await self.flow(stats())
