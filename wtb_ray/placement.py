"""Where processes run: the host with the resources and the environment that they need.

Environments are built on the host where they are used, by the `VenvCache` actor there. A process in
one is bound to its host: one that has room, rather with the environment built already, rather with
little to do. Without an environment or a workspace to be near to, Ray spreads processes over hosts.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import ray
from ray._private import state
from ray.actor import ActorHandle
from ray.exceptions import ActorUnschedulableError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from wtb_ray import errors
from wtb_ray.actors.venvs import VenvCache
from wtb_ray.bindings import Apart
from wtb_ray.db import Database
from wtb_ray.environment import EnvSpec, Venv
from wtb_ray.fleet import Room
from wtb_ray.model import NAMESPACE, RUNNER_ENV, ProjectSpec, new_id
from wtb_ray.secret_values import DIRECTORY_ENV
from wtb_ray.settings import Settings, configuration
from wtb_ray.store import Store

if TYPE_CHECKING:  # brings LangGraph along
    from wtb_ray.apartness import Description

log = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 60.0
SPARE_CALLS: Final = 8
"""Calls that look after a node's process, beside those that run the node."""
ROUNDING: Final = 1e-4
"""What Ray's sums of fractions may be off; it counts in ten-thousandths."""
CACHE: Final = "venvs:"
"""Beginning of the names of the caches; the rest is Ray's id of the host."""
OPTIONS: Final[dict[str, Any]] = {
    "namespace": NAMESPACE,
    "lifetime": "detached",
    "get_if_exists": True,
    "max_restarts": -1,
    "max_task_retries": -1,
    "max_concurrency": 1000,
    "num_cpus": 0,
}


class Placed(NamedTuple):
    """What a process in an environment is started with."""

    options: dict[str, Any]
    """Options of the actor."""
    venv: Path | None
    """The environment's directory, to be held by the process."""
    environment: str
    """Digest of all that is installed and set there; empty for the bench's own."""


def unwrap(error: BaseException) -> BaseException:
    """The exception that was raised in the other process, out of Ray's wrapping."""
    if isinstance(error, RayTaskError):
        cause = getattr(error, "cause", None)
        if isinstance(cause, BaseException):
            return unwrap(cause)
    return error


def variables(settings: Settings, environment: EnvSpec | None) -> dict[str, str]:
    """Environment variables of a process that runs code of a project."""
    own = {RUNNER_ENV: "1", "LANGGRAPH_STRICT_MSGPACK": "true", "WTB_AUDIT_KEY": ""}
    if settings.secrets_dir is not None:
        own[DIRECTORY_ENV] = str(settings.secrets_dir)
    return {**(environment.env_vars if environment is not None else {}), **own}


class Placement:
    """Finds hosts and environments for the processes of projects."""

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._url = url
        self._configuration = configuration(settings, url)
        self._caches: dict[str, ActorHandle] = {}

    async def placed(
        self,
        environment: EnvSpec | None,
        bundle: str | None,
        manager: str | None = None,
        *,
        asked: Mapping[str, float],
        host: str | None = None,
        whom: str,
    ) -> Placed:
        """What a process is started with, with its environment built where it will be.

        Args:
            environment: What it needs; None is what the bench has.
            bundle: The code that goes with it, which may hold wheels.
            manager: `host:port` of the service that resolves and builds; None: the host itself.
            asked: Resources, by Ray's names.
            host: Ray's id of the host that it has to be on; None: any.
            whom: Who asks, in messages.

        Raises:
            EnvironmentFailed: The environment cannot be built.
            ResourcesUnavailable: No host has these resources.
            Unavailable: The host's cache does not answer.
        """
        able = await asyncio.to_thread(_able, asked, host, whom)
        options: dict[str, Any] = {"scheduling_strategy": "SPREAD"}
        runtime: dict[str, Any] = {"env_vars": variables(self._settings, environment)}
        venv, digest = None, ""
        if environment is not None:
            host = host or await self._picked(able, asked, environment)
            found = await self.acquire(host, environment, bundle, manager)
            digest = found.environment
            if found.python is not None:
                runtime["py_executable"] = found.python
                venv = Path(found.path or found.python)
        if host is not None:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(host, soft=False)
        return Placed({**options, "runtime_env": runtime}, venv, digest)

    async def _picked(
        self, able: Sequence[str], asked: Mapping[str, float], environment: EnvSpec
    ) -> str:
        """A host with room if there is one, where the environment is built, with most left."""
        if len(able) == 1:
            return able[0]
        free = await asyncio.to_thread(state.available_resources_per_node)
        async with Database(self._url, size=1, name="wtb-placement") as db:
            warm = await Store(db).venvs.hosts_with(environment)
        return max(
            able, key=lambda id: (_fits(free.get(id, {}), asked), id in warm, _left(free, id))
        )

    async def acquire(
        self, host: str, environment: EnvSpec, bundle: str | None, manager: str | None = None
    ) -> Venv:
        """An environment on a host, built if it is not there; it is kept for a start to follow.

        Raises:
            EnvironmentFailed: It cannot be built.
            Unavailable: The host's cache does not answer.
        """
        arguments = (environment, bundle) if manager is None else (environment, bundle, manager)
        return cast(Venv, await self.ask(host, "acquire", *arguments))

    async def ask(self, host: str, method: str, *args: Any) -> Any:
        """What a method of a host's cache gives.

        Raises:
            WTBError: What it raised.
            Unavailable: The cache does not answer.
        """
        handle = await self._cache(host)
        try:
            return await getattr(handle, method).remote(*args)
        except RayError as e:
            cause = unwrap(e)
            if isinstance(cause, errors.WTBError):
                raise cause from e
            self._caches.pop(host, None)
            raise errors.Unavailable(
                f"the environments of host {host} do not answer: {cause}"
            ) from e

    def hosts(self) -> list[str]:
        """Ray's ids of the hosts that are there."""
        return [node["NodeID"] for node in ray.nodes() if node["Alive"]]

    async def _cache(self, host: str) -> ActorHandle:
        """The cache of a host with the present settings; made anew where they were others."""
        if host not in self._caches:
            make = ray.remote(VenvCache).options(
                **OPTIONS,
                name=f"{CACHE}{host}",
                scheduling_strategy=NodeAffinitySchedulingStrategy(host, soft=False),
            )
            for _ in range(2):
                handle = await asyncio.to_thread(make.remote, self._settings, self._url, host)
                try:
                    async with asyncio.timeout(START_TIMEOUT_S):
                        found = await handle.configured.remote()
                except (RayError, TimeoutError) as e:
                    raise errors.Unavailable(f"no cache of environments on {host}: {e}") from e
                if found == self._configuration:
                    break
                await asyncio.to_thread(ray.kill, handle, no_restart=True)
            self._caches[host] = handle
        return self._caches[host]


class RayNodes:
    """Processes of nodes as Ray actors that end with whoever made them."""

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._url = url
        self._placement: Placement | None = None

    async def spawn(self, spec: ProjectSpec, apart: Apart, *, describing: bool) -> "RayNode":
        """See `wtb_ray.actors.nodes.NodeActors`."""
        if self._placement is None:
            self._placement = Placement(self._settings, self._url)
        from wtb_ray.actors.node import NodeProcess  # noqa: PLC0415  # brings LangGraph along

        resources = apart.resources if not describing else None
        asked = resources.asked if resources is not None else {}
        near = spec.tracking or spec.workspace_isolation is not None
        host = ray.get_runtime_context().get_node_id() if near and not describing else None
        environment = apart.environment or spec.environment_of_all
        manager = spec.environment.uv_manager_url if spec.environment is not None else None
        placed = await self._placement.placed(
            environment,
            spec.bundle,
            manager,
            asked={"CPU": self._settings.runner_cpus, **asked},
            host=host,
            whom=f"node {apart.node!r}",
        )
        at_once = resources.at_once() if resources is not None else 16
        handle = await asyncio.to_thread(
            ray.remote(NodeProcess)
            .options(
                **reserved({"CPU": self._settings.runner_cpus, **asked}),
                **placed.options,
                name=f"node:{apart.node}:{new_id('n')}",
                namespace=NAMESPACE,
                max_concurrency=at_once + SPARE_CALLS,
            )
            .remote,
            spec,
            apart,
            self._settings,
            placed.environment,
            placed.venv,
        )
        node = RayNode(handle, placed.environment, apart.node, self._settings.entry_timeout_s)
        await node.prepare()
        return node


class RayNode:
    """A node's process, by its handle."""

    def __init__(self, handle: ActorHandle, environment: str, name: str, timeout_s: float) -> None:
        self._handle = handle
        self.environment = environment
        self._name = name
        self._timeout_s = timeout_s

    async def prepare(self) -> None:
        """Waits until it is there, for as long as others have its resources."""
        try:
            await self._asked("prepare")
        except BaseException:
            await self.kill()
            raise

    async def describe(self) -> "Description":
        """See `wtb_ray.actors.nodes.NodeActor`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return cast("Description", await self._asked("describe"))
        except TimeoutError as e:
            raise errors.EntryFailed(
                f"importing node {self._name!r} took longer than {self._timeout_s:g} s",
                field=self._name,
                reason="timeout",
            ) from e

    async def run(self, call: bytes) -> AsyncGenerator[bytes, None]:
        """See `wtb_ray.actors.nodes.NodeActor`."""
        stream = self._handle.run.options(num_returns="streaming").remote(call)
        ended = False
        try:
            async for reference in stream:
                yield cast(bytes, await reference)
            ended = True
        except RayActorError as e:
            ended = True
            raise self._died(e) from e
        except RayError as e:
            ended = True
            cause = unwrap(e)
            if isinstance(cause, errors.WTBError):
                raise cause from e
            raise self._died(e) from e
        finally:
            if not ended:
                ray.cancel(stream)

    async def quiet(self, call_id: str, within_s: float) -> bool:
        """See `wtb_ray.actors.nodes.NodeActor`."""
        return cast(bool, await self._asked("quiet", call_id, within_s))

    async def grant(self, call_id: str, granted: bytes) -> None:
        """See `wtb_ray.actors.nodes.NodeActor`."""
        await self._asked("grant", call_id, granted)

    async def kill(self) -> None:
        """See `wtb_ray.actors.nodes.NodeActor`."""
        await asyncio.to_thread(ray.kill, self._handle, no_restart=True)

    async def _asked(self, method: str, *args: Any) -> Any:
        try:
            return await getattr(self._handle, method).remote(*args)
        except ActorUnschedulableError as e:
            raise errors.ResourcesUnavailable(
                f"node {self._name!r} cannot be placed: {e}", node=self._name
            ) from e
        except RayError as e:
            cause = unwrap(e)
            if isinstance(cause, errors.WTBError):
                raise cause from e
            raise self._died(e) from e

    def _died(self, error: BaseException) -> errors.NodeActorDied:
        return errors.NodeActorDied(
            f"the process of node {self._name!r} died: {unwrap(error)}", node=self._name
        )


def reserved(asked: Mapping[str, float]) -> dict[str, Any]:
    """Ray's options for resources."""
    named = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    options: dict[str, Any] = {named[k]: v for k, v in asked.items() if k in named and v}
    options.setdefault("num_cpus", 0)
    options["resources"] = {k: v for k, v in asked.items() if k not in named}
    if "memory" in options:
        options["memory"] = int(options["memory"])
    return options


def _able(asked: Mapping[str, float], host: str | None, whom: str) -> list[str]:
    """The hosts that have so much in all, whoever uses it now.

    Raises:
        ResourcesUnavailable: None has.
    """
    alive = [n for n in ray.nodes() if n["Alive"] and host in (None, n["NodeID"])]
    able = [n["NodeID"] for n in alive if _fits(n["Resources"], asked)]
    if able:
        return able
    most = {k: max((n["Resources"].get(k, 0.0) for n in alive), default=0.0) for k in asked}
    where = "no host has" if host is None else "the host of its workspace has not"
    raise errors.ResourcesUnavailable(
        f"{whom} asks for {dict(asked)}, and {where} that; the most that there is: {most}",
        asked=dict(asked),
        most=most,
        whom=whom,
        reason="no such resources",
    )


def room(asked: Mapping[str, float], whom: str) -> Room:
    """How many more processes with such resources the cluster has room for now."""
    try:
        able = _able(asked, None, whom)
    except errors.ResourcesUnavailable as e:
        return Room(runners=0, reason=e.message)
    free = state.available_resources_per_node()
    needed = {name: amount for name, amount in asked.items() if amount}
    count = sum(
        min(
            int(free.get(id, {}).get(name, 0.0) / amount + ROUNDING)
            for name, amount in needed.items()
        )
        for id in able
    )
    if count:
        return Room(runners=count)
    left = {name: max(free.get(id, {}).get(name, 0.0) for id in able) for name in needed}
    return Room(
        runners=0, reason=f"{whom} asks for {needed}; the most that a host has free: {left}"
    )


def _fits(resources: Mapping[str, float], asked: Mapping[str, float]) -> bool:
    return all(resources.get(name, 0.0) + ROUNDING >= amount for name, amount in asked.items())


def _left(free: Mapping[str, Mapping[str, float]], host: str) -> float:
    return free.get(host, {}).get("CPU", 0.0)
