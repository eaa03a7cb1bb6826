"""Turns plain classes into named Ray actors; the only place that creates, finds or ends them.

Every actor lives in the namespace `wtb`, is detached, and has its options in one table. Handles are
looked up by name when used and never stored across processes.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from wtb_ray import errors
from wtb_ray.actors import postgres
from wtb_ray.actors.audit import AuditSink
from wtb_ray.actors.files import FileTracker
from wtb_ray.actors.integrity import IntegrityChecker
from wtb_ray.actors.lifecycle import ActorLifecycle
from wtb_ray.actors.pool import Undelivered
from wtb_ray.actors.postgres import EmbeddedPostgres
from wtb_ray.actors.scheduler import BatchScheduler
from wtb_ray.db import Database, migrate
from wtb_ray.fleet import Room, Runner
from wtb_ray.memory import MIB
from wtb_ray.model import NAMESPACE, Assignment, GraphInfo, ProjectSpec, ScorerSpec, new_id
from wtb_ray.placement import CACHE, Placement, RayNodes, reserved, room, unwrap
from wtb_ray.settings import Settings, configuration
from wtb_ray.store.leases import Leases

log = logging.getLogger(__name__)

SINGLETON: Final[dict[str, Any]] = {
    "namespace": NAMESPACE,
    "lifetime": "detached",
    "get_if_exists": True,
    "max_restarts": -1,
    "max_task_retries": -1,
    "num_cpus": 0,
}
RUNNER: Final[dict[str, Any]] = {
    "namespace": NAMESPACE,
    "lifetime": "detached",
    "max_restarts": 0,
    "max_task_retries": 0,
    "max_concurrency": 1000,
}
SHUTDOWN_ORDER: Final = ("scheduler", "lifecycle", "integrity", "files")
"""They end first; the audit ends behind the runners, since it seals what those have written."""
START_TIMEOUT_S: Final = 60.0
A_RUNNER: Final = "a runner (WTB_RUNNER_CPUS, WTB_RUNNER_MEMORY_MB)"
SHUTDOWN: Final = "shutdown"
"""Who ends what is left when everything ends."""


def find(name: str) -> ActorHandle | None:
    """The handle of a named actor of ours, or None when it is not there."""
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None


def check_hosts(settings: Settings) -> None:
    """Refuses embedded Postgres or local objects on a cluster of several hosts.

    Raises:
        ConfigurationError: Names the settings that are missing.
    """
    hosts = {n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"]}
    if len(hosts) > 1:
        missing = [
            name
            for name, value in (
                ("WTB_DATABASE_URL", settings.database_url),
                ("WTB_OBJECTS_URL", settings.objects_url),
                ("WTB_AUDIT_KEY", settings.audit_key),
            )
            if value is None
        ]
        if missing:
            raise errors.ConfigurationError(
                f"the cluster has {len(hosts)} hosts: set {' and '.join(missing)}, since what is"
                " embedded can be reached from one host only",
                settings=missing,
            )


async def database_url(settings: Settings) -> str:
    """The URL of the migrated database, starting the embedded one if none is set.

    Raises:
        DatabaseUnavailable: It does not answer, or did not start.
    """
    if settings.database_url is not None:
        await asyncio.to_thread(migrate, settings.database_url)
        return settings.database_url
    directory = str(settings.data_dir.resolve() / "postgres")
    actor = await asyncio.to_thread(
        ray.remote(EmbeddedPostgres).options(**SINGLETON, name="postgres").remote, directory
    )
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            return cast(str, await actor.url.remote())
    except (RayError, TimeoutError) as e:
        raise errors.DatabaseUnavailable(f"the embedded Postgres did not start: {e}") from e


def ensure_singletons(settings: Settings, url: str) -> None:
    """Creates the detached actors that are not there yet, and anew those of other settings.

    Raises:
        Unavailable: One did not come up with these settings.
    """
    runners = RayRunners(settings, url)
    mark = configuration(settings, url)
    singletons: tuple[tuple[str, type, tuple[Any, ...]], ...] = (
        ("scheduler", BatchScheduler, (settings, url, runners)),
        ("lifecycle", ActorLifecycle, (settings, url, runners)),
        ("audit", AuditSink, (settings, url)),
        ("integrity", IntegrityChecker, (settings, url, runners, repaired)),
        ("files", FileTracker, (settings, url)),
    )
    makers = {
        name: partial(ray.remote(cls).options(**SINGLETON, name=name).remote, *arguments)
        for name, cls, arguments in singletons
    }
    for make in makers.values():
        make()  # their processes start at the same time
    for name, make in makers.items():
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            handle = make()
            try:
                if ray.get(handle.configured.remote(), timeout=START_TIMEOUT_S) == mark:
                    break
                ray.kill(handle, no_restart=True)
            except (RayActorError, GetTimeoutError) as e:
                log.warning("%s is not there yet: %s", name, e, extra={"action": "ensure"})
            if time.monotonic() > deadline:
                raise errors.Unavailable(f"the {name} did not come up with the present settings")
            time.sleep(0.2)


async def wake_scheduler() -> None:
    """Tells the scheduler about new work; it would also find it by itself."""
    handle = await asyncio.to_thread(find, "scheduler")
    if handle is not None:
        handle.wake.remote()


async def ask(name: str, method: str, *args: Any) -> Any:
    """What a method of a singleton gives: of `files`, or of `integrity`.

    Raises:
        WTBError: What it raised.
        Unavailable: It is not there, or died over it; it comes back by itself.
    """
    handle = await asyncio.to_thread(find, name)
    if handle is None:
        raise errors.Unavailable(f"the actor {name} is not there", reason=name)
    try:
        return await getattr(handle, method).remote(*args)
    except RayError as e:
        cause = unwrap(e)
        if isinstance(cause, errors.WTBError):
            raise cause from e
        raise errors.Unavailable(f"{method} of {name} failed: {cause}", reason=name) from e


async def repaired(digest: str) -> bool:
    """Has the file tracker repair an object from another copy; whether there was one."""
    return await ask("files", "repair", digest) is not None


class RayWorker:
    """A runner actor as a member of a pool."""

    def __init__(self, runner_id: str, slots: int):
        self.id = runner_id
        self.slots = slots

    async def run(self, chunk: Sequence[Assignment], ahead: bool) -> int:
        handle = await asyncio.to_thread(find, f"runner:{self.id}")
        if handle is None:
            raise Undelivered(f"runner {self.id} is gone")
        try:
            return cast(int, await handle.run.remote(list(chunk), ahead))
        except RayActorError as e:
            raise errors.RunnerUnavailable(f"runner {self.id} died: {e}", runner=self.id) from e


class RayRunners:
    """Runner processes as detached Ray actors named `runner:{id}`."""

    def __init__(self, settings: Settings, url: str):
        self._settings = settings.for_runners()
        self._url = url
        self._placement = Placement(self._settings, url)
        self._asked = {"CPU": settings.runner_cpus}
        if settings.runner_memory_mb is not None:
            self._asked["memory"] = settings.runner_memory_mb * MIB

    async def spawn(self, spec: ProjectSpec, *, solo: bool = False) -> str:
        runner_id, _ = await self._start(spec, solo, describe=False)
        return runner_id

    async def describe(self, spec: ProjectSpec) -> tuple[GraphInfo, dict[str, GraphInfo]]:
        """Imports the project in a runner of its own and says what it found; the runner stays.

        Raises:
            InvalidRequest: Any of its kinds, as the project's code gave cause.
            RunnerUnavailable: The process did not start.
        """
        _, found = await self._start(spec, solo=False, describe=True)
        return cast(tuple[GraphInfo, dict[str, GraphInfo]], found)

    async def _start(self, spec: ProjectSpec, solo: bool, *, describe: bool) -> tuple[str, Any]:
        from wtb_ray.actors.runner import VariantRunner  # noqa: PLC0415  # brings LangGraph along

        runner_id = new_id("r")
        manager = spec.environment.uv_manager_url if spec.environment is not None else None
        placed = await self._placement.placed(
            spec.environment_of_all, spec.bundle, manager, asked=self._asked, whom=A_RUNNER
        )
        actor = ray.remote(VariantRunner).options(
            **RUNNER, **reserved(self._asked), **placed.options, name=f"runner:{runner_id}"
        )
        nodes = RayNodes(self._settings, self._url)
        make = partial(actor.remote, runner_id, spec, self._settings, self._url, solo)
        handle = await asyncio.to_thread(make, nodes, placed.environment, placed.venv)
        started = False
        try:
            await self._prepare(handle, runner_id)
            async with asyncio.timeout(self._import_limit(spec)):
                found = await handle.describe.remote() if describe else None
                await handle.start.remote()
            started = True
            return runner_id, found
        except TimeoutError as e:
            raise errors.EntryFailed(
                f"importing {spec.entry} took longer than {self._settings.entry_timeout_s:g} s",
                field="entry",
                reason="timeout",
            ) from e
        except RayActorError as e:
            raise errors.EntryFailed(
                f"the process ended while it imported {spec.entry}",
                field="entry",
                reason="process exited",
            ) from e
        except RayError as e:
            cause = unwrap(e)
            if isinstance(cause, errors.WTBError):
                raise cause from e
            raise errors.RunnerUnavailable(f"runner for {spec.name} failed: {cause}") from e
        finally:
            if not started:
                await self.kill(runner_id)

    def _import_limit(self, spec: ProjectSpec) -> float:
        """How long importing may take: with environments of nodes that are built meanwhile, longer."""
        limit = self._settings.entry_timeout_s
        variants = (v for named in spec.variants.values() for v in named.values())
        fine = spec.environment is not None and spec.environment.node_environments
        if fine or any(v.environment is not None for v in variants):
            return limit + self._settings.venv_build_timeout_s
        return limit

    async def _prepare(self, handle: ActorHandle, runner_id: str) -> None:
        """Waits until the process is there and has its code; none of the code runs yet."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await handle.prepare.remote()
        except RayTaskError as e:
            cause = unwrap(e)
            raise cause if isinstance(cause, errors.WTBError) else e from e
        except (TimeoutError, RayActorError) as e:
            raise errors.RunnerUnavailable(
                f"the process did not start: {str(e) or 'no room, or the machine is too busy'}",
                runner=runner_id,
            ) from e

    async def check_scorers(self, runner_id: str, scorers: Sequence[ScorerSpec]) -> None:
        """Has a runner import the project's scorers and check their arguments.

        Raises:
            UnknownScorer: One is not there, or is no scorer.
            InvalidRequest: One does not take its arguments.
            RunnerUnavailable: The runner is gone, or took too long.
        """
        try:
            async with asyncio.timeout(self._settings.entry_timeout_s):
                await self.ask(runner_id, "check_scorers", list(scorers))
        except TimeoutError as e:
            raise errors.RunnerUnavailable(
                "importing the scorers took too long", runner=runner_id
            ) from e

    async def ask(self, runner_id: str, method: str, *args: Any) -> Any:
        """What a runner's method gives: `check_scorers`, `change_state`, `execute_node`.

        Raises:
            WTBError: What it raised.
            RunnerUnavailable: The runner is gone, or died over it.
        """
        handle = await asyncio.to_thread(find, f"runner:{runner_id}")
        if handle is None:
            raise errors.RunnerUnavailable(f"runner {runner_id} is gone", runner=runner_id)
        try:
            return await getattr(handle, method).remote(*args)
        except RayError as e:
            cause = unwrap(e)
            if isinstance(cause, errors.WTBError):
                raise cause from e
            raise errors.RunnerUnavailable(f"{method} failed: {cause}", runner=runner_id) from e

    async def room(self) -> Room:
        return await asyncio.to_thread(room, self._asked, A_RUNNER)

    def worker(self, runner: Runner) -> RayWorker:
        return RayWorker(runner.id, runner.slots)

    async def alive(self, runner_id: str) -> bool:
        return await asyncio.to_thread(find, f"runner:{runner_id}") is not None

    async def host(self) -> str:
        return cast(str, ray.get_runtime_context().get_node_id())

    async def listed(self) -> list[str]:
        named = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
        names = [actor["name"] for actor in named if actor["namespace"] == NAMESPACE]
        return [name.removeprefix("runner:") for name in names if name.startswith("runner:")]

    async def drain(self, runner_id: str) -> None:
        handle = await asyncio.to_thread(find, f"runner:{runner_id}")
        if handle is not None:
            try:
                async with asyncio.timeout(self._settings.drain_grace_s):
                    await handle.drain.remote()
            except (RayError, TimeoutError) as e:
                log.warning("runner %s did not drain: %s", runner_id, e, extra={"action": "drain"})

    async def kill(self, runner_id: str) -> None:
        handle = await asyncio.to_thread(find, f"runner:{runner_id}")
        if handle is not None:
            await asyncio.to_thread(ray.kill, handle, no_restart=True)


def shutdown(settings: Settings) -> None:
    """Ends every actor of ours in the order scheduler, lifecycle, integrity, files, runners, audit, Postgres.

    What runs goes on to its next boundary, for as long as the settings say, and is given back; what
    is cut off then goes on from its last one, and it is not held against it.
    """
    grace_s = settings.drain_grace_s
    url = _database_url_now(settings)
    _kill(SHUTDOWN_ORDER)
    names = [a["name"] for a in ray.util.list_named_actors(all_namespaces=True)]
    runners = [h for n in names if n.startswith("runner:") and (h := find(n)) is not None]
    _with_leases(url, _end_leases)
    try:
        ray.get([r.drain.remote() for r in runners], timeout=grace_s)
    except (RayError, GetTimeoutError) as e:
        log.warning("not every runner drained: %s", e, extra={"action": "shutdown"})
    for handle in runners:
        ray.kill(handle, no_restart=True)
    _with_leases(url, _bury_leases)
    _kill([name for name in names if name.startswith(CACHE)])
    if (handle := find("audit")) is not None:
        try:
            ray.get(handle.close.remote(), timeout=grace_s)
        except (RayError, GetTimeoutError) as e:
            log.warning("the end of the log is not sealed: %s", e, extra={"action": "shutdown"})
        ray.kill(handle, no_restart=True)
    if settings.database_url is None:
        if (handle := find("postgres")) is not None:
            ray.get(handle.stop.remote(), timeout=30)
            ray.kill(handle, no_restart=True)
        postgres.stop(settings.data_dir.resolve() / "postgres")


def _kill(names: Sequence[str]) -> None:
    for name in names:
        if (handle := find(name)) is not None:
            ray.kill(handle, no_restart=True)


def _database_url_now(settings: Settings) -> str | None:
    """Where the database is, if it is there."""
    if settings.database_url is not None:
        return settings.database_url
    handle = find("postgres")
    if handle is None:
        return None
    try:
        return cast(str, ray.get(handle.url.remote(), timeout=settings.drain_grace_s))
    except (RayError, GetTimeoutError) as e:
        log.warning("the database is not there: %s", e, extra={"action": "shutdown"})
        return None


def _with_leases(url: str | None, do: Callable[[Leases], Awaitable[None]]) -> None:
    """Does this if the database answers; if not, leases run out by themselves."""

    async def work(url: str) -> None:
        async with Database(url, size=1, name="wtb-shutdown", timeout=5.0) as db:
            await do(Leases(db))

    if url is not None:
        try:
            asyncio.run(work(url))
        except errors.WTBError as e:
            log.warning("leases are left as they are: %s", e, extra={"action": "shutdown"})


async def _end_leases(leases: Leases) -> None:
    """From here on, the end of a runner is nobody's fault."""
    for runner in await leases.runners():
        if not runner.expired:
            await leases.drain(runner.id)


async def _bury_leases(leases: Leases) -> None:
    for runner in await leases.runners():
        if runner.status == "DRAINING":
            await leases.bury(runner.id, runner.epoch, "shut down", actor=SHUTDOWN)


def connect() -> None:
    """Joins the cluster of this process's environment, without starting one."""
    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), namespace=NAMESPACE)
