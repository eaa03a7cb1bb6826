"""Parking what pauses in a runner: what it has for itself is kept, dropped or given back.

That is done before the pause is settled, so that whoever goes on with the execution finds its
directory free. What cannot be done is said in the report.
"""

import asyncio
import dataclasses
import gc
import logging
import socket
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Final

from wtb_ray import errors, graphs
from wtb_ray.actors.cellar import Cellar, Tally
from wtb_ray.actors.nodes import Nodes
from wtb_ray.actors.tracking import Tracking
from wtb_ray.model import Assignment, ProjectSpec
from wtb_ray.parking import GRAPH, NODES, PROCESS, WORKSPACE, choose
from wtb_ray.states import PauseStrategy
from wtb_ray.store import Store
from wtb_ray.store.parking import Due
from wtb_ray.store.settlements import Settlement

log = logging.getLogger(__name__)

POOLED: Final = "the process serves other executions too"
SHARED: Final = "other executions use it"
COLLECT_S: Final = (0.05, 0.5, 2.0)
"""When what was dropped is collected; several that are parked at once are collected together."""


class Parker:
    """Parks what pauses in one runner process."""

    def __init__(
        self,
        runner: str,
        spec: ProjectSpec,
        compiled: graphs.Graphs,
        nodes: Nodes,
        store: Store,
        tracking: Tracking,
        cellar: Cellar,
        *,
        alone: bool,
        most: int,
    ) -> None:
        """A runner's parker.

        Args:
            runner: Its id.
            spec: What it runs.
            compiled: The graphs that it has.
            nodes: The processes of its nodes.
            store: Where it is written down.
            tracking: The workspaces that it has open.
            cellar: Parks colder.
            alone: Whether the process runs one execution at a time, so that it can be kept for it.
            most: Processes of its pool that may be kept.
        """
        self._runner = runner
        self._version = spec.version()
        self._graphs = compiled
        self._nodes = nodes
        self._store = store
        self._tracking = tracking
        self._cellar = cellar
        self._alone = alone
        self._most = most
        self._collecting: asyncio.TimerHandle | None = None
        self._dropped: list[weakref.ref[Any]] = []

    async def park(
        self, one: Assignment, settlement: Settlement, others: Sequence[Mapping[str, str]]
    ) -> Settlement:
        """The settlement of a pause, with what was kept and given back; others are as they were.

        Args:
            one: The claim that pauses.
            settlement: How it is to be settled.
            others: The bindings of the other claims in this process.
        """
        if settlement.kind != "pause":
            return settlement
        try:
            return await self._park(one, settlement, others)
        except errors.Unavailable as e:
            log.warning("%s not parked: %s", one.execution_id, e, extra={"action": "park"})
        except Exception:  # it pauses all the same
            log.exception("%s not parked", one.execution_id, extra={"action": "park"})
        return settlement

    async def _park(
        self, one: Assignment, settlement: Settlement, others: Sequence[Mapping[str, str]]
    ) -> Settlement:
        strategy = await self._store.parking.asked(one.execution_id) or choose()
        cold = strategy is PauseStrategy.COLD
        tally = Tally()
        workspace = await self._tracking.park(one, cold=cold)
        if workspace.left is not None:
            tally.note(WORKSPACE, workspace.left, kept=workspace.kept)
        elif workspace.kept or workspace.released:
            tally.keep(WORKSPACE, workspace.kept)
        if strategy is PauseStrategy.HOT:
            tally.keep(GRAPH, True)
            if self._nodes.held(self._graphs.apart(one.binding)):
                tally.keep(NODES, True)
        else:
            for thing, why in (await self.forget(one.binding, others)).items():
                tally.note(thing, why)
        if not self._alone:
            tally.note(PROCESS, POOLED, kept=False)
        elif cold:
            await self._store.leases.drain(self._runner)
            tally.keep(PROCESS, False)
        elif await self._store.parking.reserve(self._runner, one.execution_id, self._most):
            tally.keep(PROCESS, True)
        else:
            tally.note(PROCESS, "as many are kept as may be, or it is to end", kept=False)
        return dataclasses.replace(
            settlement,
            parking=tally.parking(strategy, self._runner, socket.gethostname()),
            restore_point=settlement.restore_point or workspace.manifest is not None,
            manifest=workspace.manifest or settlement.manifest,
            lease=self._tracking.lease(one) or settlement.lease,
        )

    async def cool(self, due: Due, others: Sequence[Mapping[str, str]]) -> bool:
        """Parks one colder; see `Cellar.cool`."""

        async def forget(binding: Mapping[str, str]) -> dict[str, str | None]:
            return await self.forget(binding, others)

        here = due.runner == self._runner and due.version == self._version
        return await self._cellar.cool(due, forget if here else None)

    async def forget(
        self, binding: Mapping[str, str], others: Sequence[Mapping[str, str]]
    ) -> dict[str, str | None]:
        """Drops a binding's graph and the processes of its nodes; says of each why not, if it stays."""
        found: dict[str, str | None] = {GRAPH: None}
        keys = self._graphs.apart(binding)
        if self._nodes.held(keys):
            used = {key for other in others for key in self._graphs.apart(other)}
            await self._nodes.release(keys - used)
            found[NODES] = SHARED if self._nodes.held(keys) else None
        dropped = self._graphs.forget(binding, others)
        if dropped is None:
            return {**found, GRAPH: SHARED}
        self._dropped += dropped
        if self._collecting is None:
            loop = asyncio.get_running_loop()
            self._collecting = loop.call_later(COLLECT_S[0], self._collect, COLLECT_S[1:])
        return found

    def _collect(self, later: Sequence[float]) -> None:
        """Graphs refer to themselves, so only a collection frees them; also what was there at first.

        What a run that is just ending still refers to goes with one of the next.
        """
        gc.unfreeze()
        gc.collect()
        self._dropped = [graph for graph in self._dropped if graph() is not None]
        if self._dropped and later:
            loop = asyncio.get_running_loop()
            self._collecting = loop.call_later(later[0], self._collect, later[1:])
        else:
            gc.freeze()
            self._dropped, self._collecting = [], None
