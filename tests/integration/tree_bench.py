"""What tests of the execution tree stand on: batches run by hand, held against plain LangGraph.

What a batch must do is known from running each variant alone with plain LangGraph: the states that its
cells end in, and by the split rule how often each node runs. Two cells share a super-step exactly when
all super-steps up to it had the same nodes with the same implementations.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests import machines
from tests.integration.machine_bench import Plain
from tests.integration.travel_bench import PATIENCE_S, TravelBench
from wtb_ray import plan
from wtb_ray.api import CellResult
from wtb_ray.model import Batch, BatchSpec, Case, ProjectVersion
from wtb_ray.states import TERMINAL_BATCH
from wtb_ray.states import ExecutionStatus as E

Deeds = Counter[tuple[str, str]]


@dataclass
class TreeBench:
    """Runs batches of one version on the runners of a travel bench."""

    travel: TravelBench
    version: ProjectVersion
    asked: int = 0
    crash_at: Sequence[int] = ()
    """The rounds of work, counted over all batches, in which the runner dies."""
    rounds: int = 0

    async def batch(
        self,
        bindings: Sequence[Mapping[str, str]],
        inputs: Sequence[Mapping[str, Any]],
        *,
        answers: Sequence[Any] = (),
        **more: Any,
    ) -> Batch:
        """A batch that has begun: a case for each input, all with these answers."""
        cases = tuple(
            Case(id=f"c{i}", input=dict(given), answers=tuple(answers))
            for i, given in enumerate(inputs)
        )
        spec = BatchSpec(
            project=self.version.project,
            variants=tuple(dict(binding) for binding in bindings),
            cases=cases,
            **{"interrupts": "wait", **more},
        )
        names, cells = plan.expand(spec.variants, cases, spec.repetitions, 10_000)
        batch = await self.travel.store.batches.create(
            spec, self.version, names, cells, recursion_limit=200, actor="me"
        )
        return await self.travel.store.batches.start(batch.id, actor="scheduler")

    async def run(self, batch: Batch) -> Batch:
        """Runs it to its end; whoever asks is answered."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                await self.round(batch)
                await self.travel.store.batches.close(actor="scheduler")
                found = await self.travel.store.batches.get(batch.id)
                if found.status in TERMINAL_BATCH:
                    return found
                await self.answer_all(batch)

    async def round(self, batch: Batch) -> None:
        """Admits and runs what waits until it rests, unless this is the round of a crash."""
        store, version = self.travel.store, self.version.version
        await store.executions.admit(batch.id, 64, actor="scheduler")
        runner = await self.travel.runner(version)
        (lease,) = [r for r in await store.leases.runners() if r.id == runner.id]
        for solo in (False, True):
            chunk = await store.executions.claim(
                runner.id, lease.epoch, version, 64, solo=solo, actor="test"
            )
            if chunk:
                await runner.run(chunk)
        self.rounds += 1
        if self.rounds in self.crash_at:
            await asyncio.sleep(0.005 * (self.rounds % 5))
            await self.travel.crash(version)
            return
        while runner._held:
            await asyncio.sleep(0.002)

    async def answer_all(self, batch: Batch) -> None:
        store = self.travel.store
        for found in (await store.executions.list(1000, batch_id=batch.id, status=E.PAUSED)).items:
            asked = await store.control.asked(found.id)
            given = {q["id"]: machines.answer(q["value"]) for q in asked if not q["answered"]}
            self.asked += len(given)
            await store.control.answer(found.id, given, actor="me")

    async def cells(self, batch: Batch) -> list[CellResult]:
        return (await self.travel.store.cells.list(batch.id, 1000)).items

    async def states(self, batch: Batch) -> dict[tuple[str, str, int], dict[str, Any]]:
        """What each cell ended in, by variant, case and repetition."""
        found = {}
        for cell in await self.cells(batch):
            assert cell.status == "DONE", (cell.status, cell.error)
            assert cell.execution_id is not None
            state = await self.travel.state(cell.execution_id)
            found[cell.variant, cell.case_id, cell.repetition] = state
        return found

    async def paths(self, batch: Batch) -> dict[tuple[str, str, int], list[list[str]]]:
        """The nodes of each super-step of each cell's whole path."""
        found = {}
        for cell in await self.cells(batch):
            assert cell.execution_id is not None
            steps = await self.travel.steps(cell.execution_id)
            path = [sorted(run.name for run in step.nodes) for step in steps if step.step > 0]
            found[cell.variant, cell.case_id, cell.repetition] = path
        return found


@dataclass
class Expected:
    """What plain LangGraph does for one input under several bindings."""

    states: list[dict[str, Any]] = field(default_factory=list)
    """Final, by binding."""
    shared: Deeds = field(default_factory=Counter)
    """All that is done when prefixes are shared."""
    apart: Deeds = field(default_factory=Counter)
    """All that is done when they are not."""


async def expected(
    seed: int, key: str, tracked: bool, bindings: Sequence[Mapping[str, str]]
) -> Expected:
    """What one case comes to, with one repetition."""
    plain, made = Plain(seed, key, tracked), Expected()
    known: set[tuple[Any, ...]] = set()
    for binding in bindings:
        places = await plain.run(((-3, tuple(sorted(binding.items()))),))
        path: tuple[Any, ...] = ()
        for step in sorted(places):
            if step > 0:
                nodes = places[step - 1].next
                path = (*path, tuple((node, machines.by_of(dict(binding), node)) for node in nodes))
                made.apart += places[step].deeds
                if path not in known:
                    known.add(path)
                    made.shared += places[step].deeds
        made.states.append(places[max(places)].state)
    return made
