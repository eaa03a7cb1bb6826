"""What the store's tests stand on: a project, batches and runners on a real database."""

from collections.abc import Sequence
from typing import Any

from wtb_ray.db import Database
from wtb_ray.events import Cursor, EventRow
from wtb_ray.model import (
    Assignment,
    Batch,
    BatchSpec,
    Case,
    Execution,
    GraphInfo,
    NodeRun,
    ProjectSpec,
    ProjectVersion,
    Score,
    ScorerSpec,
    canonical,
    new_id,
)
from wtb_ray.states import CellStatus
from wtb_ray.store import Store
from wtb_ray.store.executions import Settlement
from wtb_ray.store.settlements import Kind

GRAPH = GraphInfo(nodes=(), edges=(), channels=("x",), input_channels=("x",))
EXACT = ScorerSpec(name="exact")
RIGHT = [(EXACT, Score(metric="exact", value=1.0, explanation="same"))]


class StoreBench:
    """Short words for what most tests begin with."""

    def __init__(self, db: Database, version: ProjectVersion):
        self.db = db
        self.store = Store(db)
        self.version = version

    @classmethod
    async def make(cls, db: Database, name: str = "p") -> "StoreBench":
        spec = ProjectSpec(name=name, entry="app.graph:build")
        return cls(db, await Store(db).projects.register(spec, GRAPH, {}, actor="me"))

    async def execution(self, **more: Any) -> Execution:
        return await self.store.executions.create(
            self.version, {}, {"x": 1}, recursion_limit=25, actor="me", **more
        )

    async def batch(
        self, cases: int = 3, variants: int = 2, *, started: bool = True, **more: Any
    ) -> Batch:
        """A batch of cells that share nothing, unless it is told otherwise."""
        names = [f"v{i}" for i in range(variants)]
        spec = BatchSpec(
            project=self.version.project,
            variants=tuple({"node": name} for name in names),
            cases=tuple(Case(id=f"c{i}", input={"x": i}, expected=i) for i in range(cases)),
            scorers=(EXACT,),
            **{"share_prefix": False, **more},
        )
        places = [(c * variants + v, v, c, 0) for c in range(cases) for v in range(variants)]
        batch = await self.store.batches.create(
            spec, self.version, names, places, recursion_limit=25, actor="me"
        )
        if started:
            return await self.store.batches.start(batch.id, actor="scheduler")
        return batch

    async def runner(self, id: str = "r1", *, ttl_s: float = 60.0, solo: bool = False) -> int:
        epoch = await self.store.leases.start_runner(
            id, self.version.version, 64, solo, "host", 1, None, ttl_s
        )
        await self.store.leases.ready(id, epoch)
        return epoch

    async def claim(
        self, owner: str = "r1", epoch: int = 1, limit: int = 100, *, solo: bool = False
    ) -> list[Assignment]:
        return await self.store.executions.claim(
            owner, epoch, self.version.version, limit, solo=solo
        )

    async def claimed(self, count: int = 1) -> list[Assignment]:
        """New executions of a batch of their own, held by the runner `r1`."""
        if not await self.store.leases.runners():
            await self.runner()
        batch = await self.batch(cases=count, variants=1)
        assert await self.store.executions.admit(batch.id, count, actor="scheduler") == count
        return await self.claim()

    async def settle(
        self, held: Assignment, kind: Kind, owner: str = "r1", **more: Any
    ) -> Exception | None:
        item = Settlement(held.execution_id, held.epoch, owner, kind, **more)
        return (await self.store.executions.settle([item]))[0]

    async def ran(self, held: Assignment, *usages: dict[str, float]) -> str:
        """Stores a super-step of an execution in which so many nodes ran; gives its checkpoint."""
        id = new_id("c")
        nodes = [
            NodeRun(name=f"n{i}", task_id=f"t{i}", duration_ms=10, usage=usage)
            for i, usage in enumerate(usages)
        ]
        async with self.db.connection() as conn:
            await conn.execute(
                "INSERT INTO steps (thread_id, checkpoint_id, step, source, nodes, next_nodes,"
                " next_tasks, duration_ms) SELECT %s, %s, count(*), 'loop', %s, '{}', '[]', 10"
                " FROM steps WHERE thread_id = %s",
                (
                    held.thread_id,
                    id,
                    canonical([node.model_dump(mode="json") for node in nodes]),
                    held.thread_id,
                ),
            )
        return id

    async def share(self, held: Assignment, *others: Assignment) -> None:
        """Has the cells of other executions go with this one's from now on."""
        async with self.db.connection() as conn:
            await conn.execute(
                "UPDATE cells SET execution_id = %s WHERE execution_id = ANY(%s)",
                (held.execution_id, [other.execution_id for other in others]),
            )

    async def put(self, id: str, status: str) -> None:
        """Puts an execution into a status without a command."""
        owner = "r1" if status == "RUNNING" else None
        async with self.db.connection() as conn:
            await conn.execute(
                "UPDATE executions SET status = %s, owner = %s WHERE id = %s", (status, owner, id)
            )

    async def put_batch(self, id: str, status: str) -> None:
        """Puts a batch into a status without a command."""
        async with self.db.connection() as conn:
            await conn.execute("UPDATE batches SET status = %s WHERE id = %s", (status, id))

    async def cells(self, batch_id: str | None) -> Sequence[CellStatus]:
        assert batch_id is not None
        return [cell.status for cell in (await self.store.cells.list(batch_id)).items]

    async def events(self, **only: Any) -> list[EventRow]:
        return await self.store.events.read(Cursor.START, 10_000, **only)

    async def types(self, **only: Any) -> list[str]:
        return [event.type for event in await self.events(**only)]
