"""What the tests of running graphs stand on: one execution on a real database, run in pieces."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from wtb_ray import graphs
from wtb_ray.attachments import Attachment
from wtb_ray.db import Database
from wtb_ray.model import Assignment, ProjectSpec, ProjectVersion, Step
from wtb_ray.saver import Saver
from wtb_ray.store import Store


@dataclasses.dataclass
class Ran:
    """One execution between its runs."""

    bench: "GraphBench"
    assignment: Assignment
    outcome: graphs.Outcome | None = None
    wanted: str = "run"

    @property
    def id(self) -> str:
        return self.assignment.execution_id

    async def go(self, **how: Any) -> graphs.Outcome:
        """Runs it from its head as a runner does."""
        one = self.assignment
        attachment = Attachment(
            one.execution_id,
            one.epoch,
            one.thread_id,
            one.head,
            one.head_step,
            project=one.project,
            actor=self.bench.runner,
        )
        saver = self.bench.saver
        saver.attach(attachment)
        try:
            compiled = self.bench.graphs.compiled(one.binding)
            self.outcome = await graphs.run(compiled, attachment, one, **how)
        finally:
            saver.detach(one.thread_id)
            self.assignment = one.model_copy(
                update={"head": attachment.head, "head_step": attachment.head_step}
            )
        self.wanted = attachment.wanted
        return self.outcome

    async def want(self, wanted: str) -> None:
        """What a command of another process leaves in the execution's row."""
        async with self.bench.db.transaction() as conn:
            await conn.execute("UPDATE executions SET wanted = %s WHERE id = %s", (wanted, self.id))

    async def taken_over(self) -> None:
        """Goes on in another process: its claim is a new one, its head what was stored before it."""
        self.bench = GraphBench(
            Saver(self.bench.db), self.bench.db, self.bench.version, self.bench.epoch
        )
        async with self.bench.db.transaction() as conn:
            cursor = await conn.execute(
                "UPDATE executions SET epoch = epoch + 1 WHERE id = %s"
                " RETURNING epoch, head, head_step",
                (self.id,),
            )
            found = await cursor.fetchone()
        assert found is not None
        self.assignment = self.assignment.model_copy(update=dict(found))

    async def stepwise(self) -> graphs.Outcome:
        """Runs it one super-step at a time, with nothing kept in memory between them."""
        await self.want("pause")
        for _ in range(200):
            outcome = await self.go()
            if outcome.kind != "drained":
                return outcome
        raise AssertionError("it never ends")

    async def steps(self) -> list[Step]:
        """Its super-steps, oldest first, without the two that run no node."""
        steps = await self.bench.store.executions.steps(self.id)
        return [step for step in reversed(steps) if step.step > 0]


class GraphBench:
    """A project on a real database, and a runner's claim on its executions."""

    def __init__(self, saver: Saver, db: Database, version: ProjectVersion, epoch: int):
        self.db = db
        self.store = Store(db)
        self.version = version
        self.runner = _runner(version)
        self.epoch = epoch
        self.saver = saver
        self.graphs = graphs.Graphs(version.spec, saver)

    @classmethod
    async def make(
        cls, db: Database, entry: str, *, saver: Saver | None = None, **more: Any
    ) -> "GraphBench":
        spec = ProjectSpec(name="p", entry=entry, **more)
        store = Store(db)
        version = await store.projects.register(spec, *graphs.describe(spec), actor="me")
        epoch = await store.leases.start_runner(
            _runner(version), version.version, 64, False, "host", 1, None, 60.0
        )
        await store.leases.ready(_runner(version), epoch)
        return cls(saver or Saver(db), db, version, epoch)

    async def execution(
        self,
        input: Any,
        binding: Mapping[str, str] | None = None,
        *,
        recursion_limit: int = 25,
        breakpoints: tuple[str, ...] = (),
    ) -> Ran:
        made = await self.store.executions.create(
            self.version,
            binding or {},
            input,
            recursion_limit=recursion_limit,
            breakpoints=breakpoints,
            actor="me",
        )
        claimed = await self.store.executions.claim(
            self.runner, self.epoch, self.version.version, 100
        )
        return Ran(self, next(one for one in claimed if one.execution_id == made.id))


def _runner(version: ProjectVersion) -> str:
    return f"r-{version.version[:8]}"
