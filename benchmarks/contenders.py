"""Who is measured for checkpointing alone, each in processes of its own, on a database of its own.

A contender prepares its runs before the clock starts and is told when to go, so that all of its
processes work at the same time. All of them use one settings of the garbage collector.
"""

import asyncio
import gc
import multiprocessing
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from benchmarks import graphs as measured
from wtb_ray import graphs
from wtb_ray.actors.runner import GC_THRESHOLDS
from wtb_ray.attachments import Attachment
from wtb_ray.db import Database
from wtb_ray.model import Assignment, BatchSpec, Case, ProjectSpec, ScorerSpec, new_id
from wtb_ray.saver import Saver
from wtb_ray.store import Store

Run = Callable[[], Awaitable[object]]
Prepare = Callable[[int], Awaitable[list[Run]]]

POOL_SIZE: Final = 20  # as in LangGraph's documentation
LEASE_S: Final = 3600.0
SPEC: Final = ProjectSpec(name="five", entry="benchmarks.graphs:five")
SCORERS: Final = (ScorerSpec(name="exact", args={"field": "x"}),)


@dataclass(frozen=True)
class Measured:
    """One process in one repeat: when it began and ended (monotonic), its own processor time."""

    began: float
    ended: float
    processor_s: float


class _NoLock:
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *exc: object) -> None: ...


@asynccontextmanager
async def _pool(url: str) -> AsyncIterator[Any]:
    options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(url, max_size=POOL_SIZE, kwargs=options, open=False) as pool:
        yield pool


def _given(n: int) -> list[tuple[measured.State, RunnableConfig]]:
    ids = [new_id("t") for _ in range(n)]
    return [({"x": i}, {"configurable": {"thread_id": id}}) for i, id in enumerate(ids)]


@asynccontextmanager
async def stock(url: str) -> AsyncIterator[Prepare]:
    """One `AsyncPostgresSaver` and one compiled graph, as documented."""
    async with _pool(url) as pool:
        graph = measured.five().compile(checkpointer=AsyncPostgresSaver(pool))

        async def prepare(n: int) -> list[Run]:
            return [
                lambda i=i, c=c: graph.ainvoke(i, c, durability="sync")  # type: ignore[misc]
                for i, c in _given(n)
            ]

        yield prepare


@asynccontextmanager
async def saver_per_run(url: str) -> AsyncIterator[Prepare]:
    """A saver for each run on one pool, so that runs do not wait for one saver's lock."""
    async with _pool(url) as pool:
        graph = measured.five().compile()

        async def run(input: measured.State, config: RunnableConfig) -> object:
            own = graph.copy({"checkpointer": AsyncPostgresSaver(pool)})
            return await own.ainvoke(input, config, durability="sync")

        async def prepare(n: int) -> list[Run]:
            return [lambda i=i, c=c: run(i, c) for i, c in _given(n)]  # type: ignore[misc]

        yield prepare


@asynccontextmanager
async def without_lock(url: str) -> AsyncIterator[Prepare]:
    """The SQL of LangGraph's saver without its lock, and one compiled graph."""
    async with _pool(url) as pool:
        saver = AsyncPostgresSaver(pool)
        saver.lock = _NoLock()  # type: ignore[assignment]
        graph = measured.five().compile(checkpointer=saver)

        async def prepare(n: int) -> list[Run]:
            return [
                lambda i=i, c=c: graph.ainvoke(i, c, durability="sync")  # type: ignore[misc]
                for i, c in _given(n)
            ]

        yield prepare


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[Prepare]:
    """Our saver, its runs claimed beforehand: fence, steps and events included."""
    async with Database(url) as db:
        saver = Saver(db)
        compiled = graphs.Graphs(SPEC, saver).compiled({})
        claims = Claims(Store(db))

        async def run(one: Assignment) -> None:
            attachment = Attachment(
                execution_id=one.execution_id,
                epoch=one.epoch,
                thread_id=one.thread_id,
                project=one.project,
                batch_id=one.batch_id,
                actor=claims.owner,
            )
            saver.attach(attachment)
            try:
                outcome = await graphs.run(compiled, attachment, one)
                assert outcome.kind == "completed", outcome
            finally:
                saver.detach(one.thread_id)

        async def prepare(n: int) -> list[Run]:
            return [lambda one=one: run(one) for one in await claims.take(n)]  # type: ignore[misc]

        yield prepare


class Claims:
    """Executions of a batch, made and claimed for one owner as the scheduler does it."""

    def __init__(self, store: Store, owner: str | None = None, epoch: int | None = None):
        self.owner = owner or new_id("r")
        self._store = store
        self._epoch = epoch

    async def take(self, n: int) -> list[Assignment]:
        """The assignments of a new batch of `n` cells."""
        version = await self.make(n)
        claimed = await self.next(version, n)
        assert len(claimed) == n, "another process took part of them"
        return claimed

    async def make(self, n: int) -> str:
        """A new batch of `n` cells, all of them with executions that wait; gives their version."""
        info, workflows = graphs.describe(SPEC)
        version = await self._store.projects.register(SPEC, info, workflows, actor="bench")
        cases = tuple(Case(id=f"c{i}", input={"x": i}, expected=i) for i in range(n))
        batch = await self._store.batches.create(
            BatchSpec(project=SPEC.name, variants=({},), cases=cases, scorers=SCORERS),
            version,
            ["default"],
            [(i, 0, i, 0) for i in range(n)],
            recursion_limit=50,
            actor="bench",
        )
        await self._store.batches.start(batch.id, actor="bench")
        await self._store.executions.admit(batch.id, n, actor="bench")
        return version.version

    async def next(self, version: str, n: int) -> list[Assignment]:
        """At most `n` of those that wait."""
        if self._epoch is None:
            self._epoch = await self._store.leases.start_runner(
                self.owner, version, n, False, "bench", os.getpid(), None, LEASE_S
            )
        return await self._store.executions.claim(self.owner, self._epoch, version, n)


CONTENDERS: Final[dict[str, Callable[[str], Any]]] = {
    "stock": stock,
    "saver per run": saver_per_run,
    "without lock": without_lock,
    "ours": ours,
}


async def at_once(runs: Iterable[Run], width: int) -> None:
    """Runs all, `width` of them at a time."""
    waiting = iter(runs)

    async def work() -> None:
        for run in waiting:
            await run()

    await asyncio.gather(*(work() for _ in range(width)))


async def _serve(name: str, url: str, width: int, pipe: Connection) -> None:
    async with CONTENDERS[name](url) as prepare:
        await at_once(await prepare(width), width)  # imports, connections, prepared statements
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        pipe.send("warm")
        while (n := await asyncio.to_thread(pipe.recv)) is not None:
            runs = await prepare(n)
            pipe.send("prepared")
            await asyncio.to_thread(pipe.recv)
            began, used = time.monotonic(), time.process_time()
            await at_once(runs, width)
            pipe.send(Measured(began, time.monotonic(), time.process_time() - used))


def _main(name: str, url: str, width: int, pipe: Connection) -> None:
    asyncio.run(_serve(name, url, width, pipe))


class Contender:
    """The processes of one contender; they wait between repeats."""

    def __init__(self, name: str, url: str, processes: int, width: int):
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(processes):
            here, there = context.Pipe()
            process = context.Process(target=_main, args=(name, url, width, there), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)
            here.recv()  # one after the other: they share a database

    def prepare(self, n: int) -> None:
        """Makes `n` executions for every process."""
        for pipe in self._pipes:
            pipe.send(n)
            pipe.recv()

    def go(self) -> list[Measured]:
        """Runs what was prepared, in all processes at the same time."""
        for pipe in self._pipes:
            pipe.send("go")
        return [pipe.recv() for pipe in self._pipes]

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(30)
