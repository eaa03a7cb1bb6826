"""The execution controller: validates commands and changes state through the store, nothing else.

It is stateless, so replicas may die and come back at any time; its start makes sure that the
detached actors exist. Every method is idempotent by what it is given, and raises the typed errors
of `wtb_ray.errors`.
"""

import asyncio
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import ray

from wtb_ray import cluster, errors, files, placement, plan, requests, scoring, telemetry
from wtb_ray.api import (
    BatchTestRequest,
    ExecuteRequest,
    Leaderboard,
    RestoredTrash,
    StopRequest,
    TrashRestoreRequest,
)
from wtb_ray.db import Database
from wtb_ray.holds import Holds
from wtb_ray.model import (
    Batch,
    BatchSpec,
    Execution,
    ProjectSpec,
    ProjectVersion,
    ScorerSpec,
)
from wtb_ray.objects import ObjectStore
from wtb_ray.serve.commands import Commands
from wtb_ray.serve.environments import EnvironmentCommands
from wtb_ray.settings import Settings
from wtb_ray.states import TERMINAL_BATCH
from wtb_ray.store import Store

log = logging.getLogger(__name__)

LEADERBOARD_WAIT_S = 5.0


class ExecutionController(EnvironmentCommands, Commands):
    """Commands on projects, executions and batches."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Serve awaits it
        telemetry.configure(settings.log_level)
        self._settings = settings
        cluster.check_hosts(settings)
        self._url = await cluster.database_url(settings)
        self._db = await Database(self._url, size=settings.pool_size, name="wtb-controller").open()
        self._store = Store(self._db)
        self._objects = ObjectStore(settings.objects())
        self._holds = Holds(self._store.holds, "controller")
        self._runners = cluster.RayRunners(settings, self._url)
        self._placement = placement.Placement(settings.for_runners(), self._url)
        super().__init__(
            self._store,
            ask=self._ask,
            wake=cluster.wake_scheduler,
            register=self.register,
            integrity=partial(cluster.ask, "integrity"),
            track=partial(cluster.ask, "files"),
            max_cells=settings.max_cells,
        )
        self._boards: dict[tuple[str, str], asyncio.Task[Leaderboard]] = {}
        await asyncio.to_thread(cluster.ensure_singletons, settings, self._url)

    async def check_health(self) -> None:
        """Healthy as long as it answers: a database that is away must not restart all replicas."""

    async def database_url(self) -> str:
        """Where the migrated database is."""
        return self._url

    async def register(self, spec: ProjectSpec, actor: str) -> ProjectVersion:
        """Makes a version of a project, after importing all of its code in a runner.

        Raises:
            UnknownBundle: The bundle was not uploaded.
            InvalidRequest: Any of its kinds, for what the import found.
        """
        try:
            return await self._store.projects.register_known(spec, actor=actor)
        except errors.UnknownVersion:
            pass
        async with self._holds.writing() as session:
            if spec.bundle is not None and await self._objects.secured([spec.bundle]):
                raise errors.UnknownBundle(
                    f"bundle {spec.bundle} was not uploaded: PUT bundles/{spec.bundle} first",
                    field="bundle",
                    reason="not uploaded",
                )
            graph, workflows = await self._runners.describe(spec)
            return await self._store.projects.register(
                spec, graph, workflows, actor=actor, lease=session.id
            )

    async def restore_trash(
        self, id: str, request: TrashRestoreRequest, actor: str
    ) -> RestoredTrash:
        """Brings displaced files back, beside what the execution has now."""
        async with self._holds.writing() as session:
            return await files.restore_trash(
                self._store, self._objects, id, request, actor=actor, lease=session.id
            )

    async def execute(
        self, project: str, request: ExecuteRequest, actor: str, id: str | None = None
    ) -> Execution:
        """Starts one execution; it is PENDING until a runner takes it. The same `id`, the same one."""
        version = await self._store.projects.get(project, request.version)
        binding = requests.check_binding(version, request.variant_config, field="variant_config")
        requests.check_state(version, [binding], request.initial_state, field="initial_state")
        breakpoints = requests.check_breakpoints(version, binding, request.breakpoints)
        execution = await self._store.executions.create(
            version,
            binding,
            request.initial_state,
            recursion_limit=request.recursion_limit or self._limit(version),
            breakpoints=breakpoints,
            priority=request.priority,
            deadline_s=request.deadline_s,
            actor=actor,
            id=id,
        )
        await cluster.wake_scheduler()
        return execution

    def _limit(self, version: ProjectVersion) -> int:
        """Most super-steps of an execution that names no limit itself."""
        own = version.spec.execution.recursion_limit if version.spec.execution is not None else None
        return own or self._settings.recursion_limit

    async def batch_test(
        self, request: BatchTestRequest, actor: str, id: str | None = None
    ) -> Batch:
        """Makes a batch with all of its cells, or nothing. The same `id`, the same batch."""
        if request.project is None:
            raise errors.InvalidRequest("project is missing", field="project", reason="missing")
        version = await self._store.projects.get(request.project, request.version)
        spec, names, cells = self._plan(request, version)
        await self._check_scorers(version, spec.scorers)
        batch = await self._store.batches.create(
            spec,
            version,
            names,
            cells,
            recursion_limit=spec.recursion_limit or self._limit(version),
            actor=actor,
            id=id,
        )
        await cluster.wake_scheduler()
        return batch

    def _plan(
        self, request: BatchTestRequest, version: ProjectVersion
    ) -> tuple[BatchSpec, list[str], Iterator[plan.PlannedCell]]:
        """Everything that can be refused without running the project's code."""
        bindings = tuple(
            requests.check_binding(version, binding, field=f"variant_matrix.{i}")
            for i, binding in enumerate(request.variant_matrix)
        )
        rows = requests.check_cases(request.test_cases, field="test_cases")
        names, cells = plan.expand(bindings, rows, request.repetitions, self._settings.max_cells)
        for i, case in enumerate(rows):
            requests.check_state(version, bindings, case.input, field=f"test_cases.{i}.input")
        spec = BatchSpec(
            project=version.project,
            version=version.version,
            variants=bindings,
            cases=tuple(rows),
            scorers=tuple(ScorerSpec(name=s) if isinstance(s, str) else s for s in request.scorers),
            repetitions=request.repetitions,
            node_errors=request.node_errors,
            share_prefix=request.share_prefix,
            interrupts=request.interrupts,
            priority=request.priority,
            recursion_limit=request.recursion_limit,
            deadline_s=request.deadline_s,
            budget=request.budget,
        )
        scoring.validate(spec.scorers, importable=False)
        return spec, names, cells

    async def _check_scorers(
        self, version: ProjectVersion, scorers: tuple[ScorerSpec, ...]
    ) -> None:
        """Has a runner of the version import the project's own scorers.

        Raises:
            UnknownScorer: One is not there, or is no scorer.
            InvalidRequest: One does not take its arguments.
        """
        if not any(":" in scorer.name for scorer in scorers):
            return
        await self._runners.check_scorers(await self._runner_of(version), scorers)

    async def _ask(self, version: ProjectVersion, method: str, *args: Any) -> Any:
        """Has a runner of the version do something; see `RayRunners.ask`."""
        return await self._runners.ask(await self._runner_of(version), method, *args)

    async def _runner_of(self, version: ProjectVersion) -> str:
        """A runner that has the version's code; started if there is none."""
        for r in await self._store.leases.runners(version.version):
            if r.status == "READY" and not r.solo and await self._runners.alive(r.id):
                return r.id
        return await self._runners.spawn(version.spec)

    async def stop_batch(self, batch_id: str, request: StopRequest, actor: str) -> Batch:
        """Stops a batch, or one of its variants: waiting cells now, running ones at a boundary."""
        if request.variant is None:
            return await self._store.batches.stop(batch_id, request.reason, actor=actor)
        await self._store.splits.stop_variant(
            batch_id, request.variant, actor=actor, reason=request.reason
        )
        return await self._store.batches.get(batch_id)

    async def leaderboard(self, batch_id: str) -> Leaderboard | None:
        """The leaderboard of the results as they are now; None while it is being computed."""
        from wtb_ray import results  # noqa: PLC0415  # with Polars and SciPy, not at the start

        batch = await self._store.batches.get(batch_id)
        digest = await results.digest_of(self._db, batch_id)
        if (stored := await results.stored(self._db, batch_id, digest)) is not None:
            return stored
        key = (batch.id, digest)
        task = self._boards.get(key)
        if task is None:
            task = self._boards[key] = asyncio.create_task(self._compute(batch_id))
            task.add_done_callback(lambda _: self._boards.pop(key, None))
        try:
            async with asyncio.timeout(LEADERBOARD_WAIT_S):
                return await asyncio.shield(task)
        except TimeoutError:
            return None

    async def _compute(self, batch_id: str) -> Leaderboard:
        reference = _compute_leaderboard.remote(self._settings, self._url, batch_id)
        try:
            computed: Leaderboard = await reference
        except ray.exceptions.RayTaskError as e:
            raise placement.unwrap(e) from e
        return computed


def _leaderboard(settings: Settings, url: str, batch_id: str) -> Leaderboard:
    """Seals what has ended, aggregates, and stores the outcome with its event."""
    from wtb_ray import results  # noqa: PLC0415  # as above

    async def run() -> Leaderboard:
        async with (
            Database(url, size=2, name="wtb-leaderboard") as db,
            ObjectStore(settings.objects()) as objects,
        ):
            store = Store(db)
            if (await store.batches.get(batch_id)).status in TERMINAL_BATCH:
                holds = Holds(store.holds, "leaderboard")
                async with holds.writing() as session:
                    await results.export(db, objects, batch_id, lease=session.id)
                await holds.close()
            return await results.compute_leaderboard(db, objects, batch_id)

    return asyncio.run(run())


_compute_leaderboard = ray.remote(num_cpus=0.1, max_retries=2)(_leaderboard)
