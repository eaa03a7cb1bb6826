"""The HTTP application over a real database, with the controller's commands in this process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from wtb_ray import cases, files, plan, requests
from wtb_ray.actors.files import FileTracker
from wtb_ray.actors.integrity import IntegrityChecker
from wtb_ray.api import (
    BatchTestRequest,
    ExecuteRequest,
    Leaderboard,
    RestoredTrash,
    TrashRestoreRequest,
)
from wtb_ray.api import StopRequest as BatchStop
from wtb_ray.db import Database
from wtb_ray.model import (
    Batch,
    BatchSpec,
    Execution,
    GraphInfo,
    NodeInfo,
    ProjectSpec,
    ProjectVersion,
    ScorerSpec,
)
from wtb_ray.objects import ObjectStore
from wtb_ray.serve.commands import Commands
from wtb_ray.serve.context import Context
from wtb_ray.serve.http import build_api
from wtb_ray.serve.stream import Feed
from wtb_ray.settings import Settings
from wtb_ray.store import Store

SPEC: dict[str, Any] = {
    "name": "p",
    "entry": "app.graph:build",
    "variants": {"b": {"fast": {"params": {"model": "small"}}}},
}
GRAPH = GraphInfo(
    nodes=tuple(
        NodeInfo(name=name, implementation=f"app.graph:{name}", is_async=True, fingerprint="f")
        for name in ("a", "b")
    ),
    edges=(("a", "b"),),
    channels=("x",),
    input_channels=("x",),
)
EXECUTE = {"initial_state": {"x": 1}}
BATCH: dict[str, Any] = {
    "project": "p",
    "variant_matrix": [{}, {"b": "fast"}],
    "test_cases": [{"id": "c1", "input": {"x": 1}, "expected": 2}, {"id": "c2", "input": {"x": 2}}],
    "scorers": ["exact"],
}


class Remote:
    """Something with the `.remote(...)` of a handle's method."""

    def __init__(self, method: Callable[..., Awaitable[Any]]) -> None:
        self.remote = method


class Controller:
    """The commands, straight on the store; a test may hold them up or have them fail."""

    def __init__(
        self, store: Store, objects: ObjectStore | None = None, settings: Settings | None = None
    ) -> None:
        self.store = store
        self.settings = settings or Settings()
        self.tracker: FileTracker | None = None
        self.objects = objects
        self.commands = Commands(
            store,
            ask=self.ask,
            wake=self.wake,
            register=self.do_register,
            integrity=self.check,
            track=self.track,
            max_cells=1000,
        )
        self.asked: list[tuple[Any, ...]] = []
        self.runner: Callable[..., Awaitable[Any]] | None = None
        self.describe: Callable[[ProjectSpec], Awaitable[Any]] | None = None
        self.waker: Callable[[], Awaitable[None]] | None = None
        self.checker: IntegrityChecker | None = None
        self.board: Leaderboard | None = None
        self.failure: Exception | None = None
        self.called = asyncio.Event()
        self.may_begin = asyncio.Event()
        self.may_begin.set()

    async def ask(self, version: ProjectVersion, method: str, *args: Any) -> Any:
        """What a runner would do; a test says who does it."""
        self.asked.append((method, *args))
        assert self.runner is not None
        return await self.runner(version, method, *args)

    async def check(self, method: str, *args: Any) -> Any:
        """What the integrity checker does, where a test has one."""
        assert self.checker is not None
        return await getattr(self.checker, method)(*args)

    async def track(self, method: str, *args: Any) -> Any:
        """The file tracker of this test; it has no actor of its own."""
        if self.tracker is None:
            self.tracker = FileTracker(self.settings, self.store.db.url)
        return await getattr(self.tracker, method)(*args)

    async def close(self) -> None:
        if self.tracker is not None:
            await self.tracker.close()

    async def wake(self) -> None:
        """Nobody sleeps, unless a test has a scheduler."""
        if self.waker is not None:
            await self.waker()

    def __getattr__(self, name: str) -> Remote:
        method = getattr(type(self), f"do_{name}", None)
        if method is None:
            found = getattr(Commands, name)

            async def method(self: Controller, *args: Any) -> Any:
                return await found(self.commands, *args)

        async def call(*args: Any) -> Any:
            self.called.set()
            await self.may_begin.wait()
            if self.failure is not None:
                raise self.failure
            return await method(self, *args)

        return Remote(call)

    async def do_database_url(self) -> str:
        return self.store.db.url

    async def do_register(self, spec: ProjectSpec, actor: str) -> ProjectVersion:
        found = (GRAPH, {}) if self.describe is None else await self.describe(spec)
        return await self.store.projects.register(spec, *found, actor=actor)

    async def do_execute(
        self, project: str, request: ExecuteRequest, actor: str, id: str | None = None
    ) -> Execution:
        version = await self.store.projects.get(project, request.version)
        binding = requests.check_binding(version, request.variant_config, field="variant_config")
        return await self.store.executions.create(
            version,
            binding,
            request.initial_state,
            recursion_limit=request.recursion_limit or 25,
            breakpoints=requests.check_breakpoints(version, binding, request.breakpoints),
            deadline_s=request.deadline_s,
            actor=actor,
            id=id,
        )

    async def do_batch_test(
        self, request: BatchTestRequest, actor: str, id: str | None = None
    ) -> Batch:
        assert request.project is not None
        version = await self.store.projects.get(request.project, request.version)
        spec = BatchSpec(
            project=request.project,
            variants=tuple(request.variant_matrix),
            cases=tuple(cases.from_list(request.test_cases)),
            scorers=tuple(ScorerSpec(name=s) if isinstance(s, str) else s for s in request.scorers),
            repetitions=request.repetitions,
            share_prefix=request.share_prefix,
            interrupts=request.interrupts,
            budget=request.budget,
        )
        names, places = plan.expand(list(spec.variants), spec.cases, spec.repetitions, 1000)
        return await self.store.batches.create(
            spec, version, names, places, recursion_limit=25, actor=actor, id=id
        )

    async def do_restore_trash(
        self, id: str, request: TrashRestoreRequest, actor: str
    ) -> RestoredTrash:
        assert self.objects is not None
        return await files.restore_trash(self.store, self.objects, id, request, actor=actor)

    async def do_stop_batch(self, id: str, request: BatchStop, actor: str) -> Batch:
        if request.variant is not None:
            await self.store.splits.stop_variant(id, request.variant, actor=actor)
            return await self.store.batches.get(id)
        return await self.store.batches.stop(id, request.reason, actor=actor)

    async def do_leaderboard(self, id: str) -> Leaderboard | None:
        await self.store.batches.get(id)
        return self.board


class HttpBench:
    """A client of the application, and what lies behind it."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.store = context.store
        self.controller: Controller = context.controller
        self.app = build_api(context)
        self.client = self.client_from()

    def client_from(self, address: str = "127.0.0.1", host: str = "localhost") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, client=(address, 4711))
        return httpx.AsyncClient(transport=transport, base_url=f"http://{host}")

    async def get(self, path: str, **params: Any) -> Any:
        """The JSON of an answer that must be 200."""
        response = await self.client.get(f"/api/v1{path}", params=params)
        assert response.status_code == 200, response.text
        return response.json()

    async def post(
        self, path: str, body: Any, status: int = 202, headers: dict[str, str] | None = None
    ) -> Any:
        """The JSON of an answer that must have this status."""
        response = await self.client.post(f"/api/v1{path}", json=body, headers=headers)
        assert response.status_code == status, response.text
        return response.json()

    async def registered(self) -> Any:
        return await self.post("/workflows", SPEC, 201)


@asynccontextmanager
async def serving(url: str, directory: Path) -> AsyncIterator[HttpBench]:
    """An application with parts of its own."""
    settings = Settings(data_dir=directory, poll_ms=10, max_body_mb=1)
    db = await Database(url).open()
    store, objects = Store(db), ObjectStore(settings.objects())
    context = Context(
        settings=settings,
        db=db,
        store=store,
        objects=objects,
        controller=Controller(store, objects, settings),
        feed=Feed(store.events, settings.poll_ms),
    )
    bench = HttpBench(context)
    try:
        yield bench
    finally:
        await bench.client.aclose()
        await context.controller.close()
        await context.close()
