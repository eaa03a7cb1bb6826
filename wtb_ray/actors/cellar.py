"""Parking colder what has been paused for long: by the runner that had it, or anybody on its host.

Nothing is given back that is not stored: a directory goes when its files are kept, and what was
changed in it while the execution rested is in the execution's trash.
"""

import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from wtb_ray import errors
from wtb_ray.holds import Holds
from wtb_ray.model import Parking
from wtb_ray.parking import GRAPH, NODES, PROCESS, WORKSPACE
from wtb_ray.states import ExecutionStatus, PauseStrategy
from wtb_ray.store import Store
from wtb_ray.store.parking import Due
from wtb_ray.workspaces import Workspaces

log = logging.getLogger(__name__)

UNTRACKED: Final = "its files are not tracked: they are nowhere else"

Forget = Callable[[Mapping[str, str]], Awaitable[Mapping[str, str | None]]]
"""Drops the graph of a binding and its nodes' processes, or says of each why it stays."""


class Tally:
    """What became of each thing, for the report."""

    def __init__(self, before: Parking | None = None) -> None:
        self._kept: list[str] = []
        self._released = list(before.released) if before is not None else []
        self._left = dict(before.left_out) if before is not None else {}

    def keep(self, thing: str, kept: bool) -> None:
        self._left.pop(thing, None)
        if kept:
            self._kept.append(thing)
        elif thing not in self._released:
            self._released.append(thing)

    def note(self, thing: str, why: str | None, *, kept: bool = True) -> None:
        """It was to be given back: it was, or there is a reason why not."""
        if why is None:
            self.keep(thing, False)
            return
        self._left[thing] = why
        if kept:
            self._kept.append(thing)

    def parking(self, strategy: PauseStrategy, runner: str, host: str) -> Parking:
        return Parking(
            strategy=strategy,
            kept=tuple(self._kept),
            released=tuple(self._released),
            left_out=self._left,
            runner=runner,
            host=host,
        )


class Cellar:
    """Parks colder what rests on this host, for whoever it was that ran it."""

    def __init__(self, name: str, store: Store, workspaces: Workspaces, holds: Holds) -> None:
        self._name = name
        self._holds = holds
        self._store = store
        self._workspaces = workspaces
        self._host = socket.gethostname()

    async def cool(self, due: Due, forget: Forget | None = None) -> bool:
        """Parks one colder; False when it does not rest any more.

        Args:
            due: Which one, and how.
            forget: Drops its graph here; None, where it is in no process any more.

        Raises:
            Unavailable: Something does not answer; nothing is lost, it is due again.
        """
        execution = await self._store.executions.get(due.execution_id)
        if execution.status != ExecutionStatus.PAUSED or execution.epoch != due.epoch:
            return False
        before = execution.parking or Parking(strategy=PauseStrategy.HOT, kept=(GRAPH,))
        tally = Tally(before)
        found: Mapping[str, str | None] = {}
        if forget is not None and {GRAPH, NODES} & set(before.kept):
            found = await forget(due.binding)
        for thing in (GRAPH, NODES):
            if thing in before.kept:
                tally.note(thing, found.get(thing))
        if PROCESS in before.kept:
            tally.keep(PROCESS, due.strategy is PauseStrategy.WARM)
        if self._workspaces.has(due.execution_id):
            if due.strategy is PauseStrategy.WARM:
                tally.keep(WORKSPACE, True)
            else:
                tally.note(WORKSPACE, await self._give_back(due))
        elif WORKSPACE in before.kept and due.host != self._host:
            tally.note(WORKSPACE, f"it lies on {due.host}, where nothing of the bench runs")
        done = tally.parking(due.strategy, due.runner, due.host or self._host)
        return await self._store.parking.park(due.execution_id, due.epoch, done, actor=self._name)

    async def _give_back(self, due: Due) -> str | None:
        """Removes the directory, with all that is in it kept; else says why it stays."""
        spec = (await self._store.projects.by_version(due.version)).spec
        if spec.tracked_files is None:
            return UNTRACKED
        opened = await self._workspaces.reopen(
            due.execution_id,
            due.epoch,
            tracking=spec.tracked_files,
            isolation=spec.workspace_isolation,
        )
        if opened is None:
            return "somebody holds it"
        keep = True
        try:
            async with self._holds.writing() as session:
                found = await opened.commit(always=True)
                await self._store.parking.displace(
                    due.execution_id, due.epoch, found, lease=session.id
                )
            keep = False
        except errors.Unavailable:
            raise
        except errors.WTBError as e:
            return f"its files cannot be kept: {e.message}"
        finally:
            await opened.close(keep=keep, earlier=False)
        return None
