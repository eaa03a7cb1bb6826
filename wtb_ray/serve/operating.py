"""What commands have in common: the project's code is asked for, and long ones become operations.

A command that is not done after ten seconds goes on as an operation, which its caller looks up.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from pydantic_core import to_jsonable_python

from wtb_ray import errors
from wtb_ray.control import Operation, StateRequest
from wtb_ray.model import Execution, ProjectVersion, new_id
from wtb_ray.states import ExecutionStatus, PauseReason, Wanted
from wtb_ray.store import Store

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Ask = Callable[..., Awaitable[Any]]
"""`ask(version, method, *args)`: has a runner of this version do something."""

WAIT_S: Final = 10.0
"""How long a caller waits, for an operation as for a pause."""
POLL_S: Final = 0.03


class Operating:
    """The ways of commands to runners and back."""

    wait_s: float = WAIT_S

    def __init__(self, store: Store, ask: Ask, wake: Callable[[], Awaitable[None]]) -> None:
        self.store = store
        self._ask = ask
        self.wake = wake
        self._going_on: set[asyncio.Task[None]] = set()

    async def in_time(
        self, kind: str, execution_id: str | None, work: Coroutine[Any, Any, Result]
    ) -> Result | Operation:
        """What the work gives, or the operation as which it goes on."""
        task = asyncio.create_task(work)
        done, _ = await asyncio.wait({task}, timeout=self.wait_s)
        if done:
            return task.result()
        operation = await self.store.operations.begin(new_id("o"), kind, execution_id)
        going_on = asyncio.create_task(self._carry(operation.id, task))
        self._going_on.add(going_on)
        going_on.add_done_callback(self._going_on.discard)
        return operation

    async def _carry(self, id: str, task: "asyncio.Task[Any]") -> None:
        try:
            result = await task
        except errors.WTBError as e:
            await self.store.operations.fail(id, e.body())
        except Exception as e:
            log.exception("operation %s", id, extra={"action": "operation"})
            await self.store.operations.fail(id, broke(e).body())
        else:
            await self.store.operations.finish(id, to_jsonable_python(result))

    async def version_of(self, execution: Execution) -> ProjectVersion:
        """The project version that an execution runs."""
        return await self.store.projects.by_version(execution.version)

    async def ask(self, version: ProjectVersion, method: str, *args: Any) -> Any:
        """What the method of a runner of this version gives."""
        return await self._ask(version, method, *args)

    async def change_state(
        self, execution: Execution, version: ProjectVersion, changes: StateRequest, actor: str
    ) -> Execution:
        """Has a runner change the state of a paused execution."""
        changed: Execution = await self.ask(
            version,
            "change_state",
            execution.id,
            changes.values,
            changes.as_node,
            changes.replace,
            actor,
        )
        return changed

    async def own(
        self, id: str, cell: int | None, command: str, actor: str, *, moving: bool = False
    ) -> str:
        """The execution that a command is for: the cell's own, made where it shares one.

        Args:
            id: The execution that was named.
            cell: Which of its cells is meant; None is right where there is but one, or none.
            command: What it is for.
            actor: Who does it.
            moving: Whether the command is for executions that run, too.

        Raises:
            UnknownExecution: There is none with this id.
            SharedExecution: Several cells share it, and none is named.
            InvalidTransition: It runs, and the command needs it to rest, or it has ended.
            Conflict: It does not run for this cell.
        """
        if cell is None:
            cells = await self.store.splits.cells(id)
            if len(cells) > 1:
                raise errors.SharedExecution(
                    f"{len(cells)} cells share execution {id}, and {command} changes their future:"
                    " name the one that is meant with `cell`",
                    field="cell",
                    reason="missing",
                    cells=cells,
                )
            return id
        own = await self.store.splits.split_off(id, cell, running=moving, actor=actor)
        return own.id

    async def at_rest(self, id: str, actor: str) -> tuple[Execution, bool]:
        """The execution once it rests: paused for this where it ran; and whether it was.

        Raises:
            UnknownExecution: There is none with this id.
            Conflict: Its nodes did not end in time; the pause is withdrawn.
        """
        deadline = asyncio.get_running_loop().time() + self.wait_s
        asked, theirs = False, False
        while True:
            execution = await self.store.executions.get(id)
            theirs = theirs or (not asked and execution.wanted == Wanted.PAUSE)
            if execution.status == ExecutionStatus.PENDING or (
                execution.status == ExecutionStatus.RUNNING and not asked
            ):
                asked = True
                try:
                    execution = await self.store.control.pause(id, actor=actor)
                except errors.InvalidTransition:  # it has just ended
                    continue
            if execution.status not in (ExecutionStatus.PENDING, ExecutionStatus.RUNNING):
                return (
                    execution,
                    asked and not theirs and execution.status == ExecutionStatus.PAUSED,
                )
            if asyncio.get_running_loop().time() > deadline:
                await self._give_up(id, actor, withdraw=not theirs)
            await asyncio.sleep(POLL_S)

    async def go_on(self, id: str, paused: bool, actor: str) -> None:
        """Sends an execution on that was paused for a command, unless it waits for its user."""
        if not paused:
            return
        execution = await self.store.executions.get(id)
        asked = execution.reason == PauseReason.REQUESTED
        if execution.status == ExecutionStatus.PAUSED and asked:
            await self.store.control.resume(id, actor=actor)
            await self.wake()

    async def _give_up(self, id: str, actor: str, *, withdraw: bool) -> None:
        if withdraw:
            execution = await self.store.control.withdraw_pause(id, actor=actor)
        else:
            execution = await self.store.executions.get(id)
        if execution.status == ExecutionStatus.RUNNING:
            raise errors.Conflict(
                f"execution {id} did not pause within {self.wait_s:g} s: a node of it still runs",
                field="status",
                reason="did not pause in time",
                state=execution.status,
            )


def broke(error: Exception) -> errors.WTBError:
    """What callers are told of an error that is no fault of theirs."""
    return errors.WTBError(f"it broke with {type(error).__name__}; the log has more")
