"""`Interact`: commands on executions, their answers, and what becomes of what they set going.

Commands are done and answered one after another; what comes to rest is told beside that. A session
holds nothing but its stream: another one, on any replica, may go on with the same executions.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

from ray.serve.grpc_util import RayServegRPCContext

from wtb_ray import errors
from wtb_ray.control import Forked, Operation, Question
from wtb_ray.model import Execution
from wtb_ray.rpc.session_pb2 import InspectRequest, InteractRequest, InteractResponse, Position
from wtb_ray.serve import grpc_control_messages as messages
from wtb_ray.serve.context import Context
from wtb_ray.serve.grpc_calls import check_size, going, status_of
from wtb_ray.serve.grpc_commands import Caller
from wtb_ray.serve.grpc_messages import as_json, execution, optional
from wtb_ray.serve.stream import Wanted
from wtb_ray.states import TERMINAL_EXECUTION, ExecutionStatus
from wtb_ray.views import read_state

MOST_UNREAD: Final = 100
"""Answers that wait for the client; with more of them no further command is read."""
POLL_S: Final = 0.5
"""How often it is looked whether an operation has ended."""
AT_REST: Final = TERMINAL_EXECUTION | {ExecutionStatus.PAUSED}
RESTS: Final = frozenset(
    {"execution.paused", "execution.completed", "execution.failed", "execution.cancelled"}
)
Found = Execution | Forked | Operation

COMMANDS: Final[dict[str, Callable[[Caller, Any], Awaitable[Found]]]] = {
    "modify": Caller.change_state,
    "breakpoint": Caller.set_breakpoints,
    "step": Caller.step,
    "continue_run": Caller.resume,
    "rollback": Caller.rollback,
    "fork": Caller.fork,
}


class Session:
    """One stream of one caller."""

    def __init__(self, caller: Caller, context: RayServegRPCContext) -> None:
        self._caller = caller
        self._here = caller.here
        self._context = context
        self._told: asyncio.Queue[InteractResponse | Exception | None] = asyncio.Queue(MOST_UNREAD)
        self._watching: set[asyncio.Task[None]] = set()

    async def answers(
        self, requests: AsyncIterable[InteractRequest]
    ) -> AsyncGenerator[InteractResponse, None]:
        """All that the client is told, up to the end of what it has set going."""
        reading = asyncio.create_task(self._read(requests))
        try:
            while (told := await self._told.get()) is not None:
                if isinstance(told, Exception):
                    raise told
                yield told
        finally:
            for task in (reading, *self._watching):
                task.cancel()

    async def _read(self, requests: AsyncIterable[InteractRequest]) -> None:
        end = None
        try:
            async for request in requests:
                await self._do(request)
            while self._watching:
                await asyncio.wait(self._watching)
        except Exception as e:  # noqa: BLE001 (it ends the stream)
            end = e
        await self._told.put(end)

    async def _do(self, request: InteractRequest) -> None:
        """Does one command; it is answered before anything else is told about it."""
        about, kind = request.request_id, request.WhichOneof("command")
        try:
            check_size(self._here, request)
            if kind == "inspect":
                await self._tell(about, position=await _inspected(self._here, request.inspect))
                return
            if kind is None:
                raise errors.InvalidRequest(
                    "a request without a command", field="command", reason="missing"
                )
            found = await COMMANDS[kind](self._caller, getattr(request, kind))
            await self._answer(about, found)
        except Exception as e:  # noqa: BLE001 (it is the answer)
            await self._refuse(about, e)
            return
        goes_on = kind in ("step", "continue_run") or (kind == "fork" and request.fork.run)
        if isinstance(found, Operation):
            self._watch(self._tell_end, about, found, goes_on)
        elif goes_on:
            self._watch_rest(about, found)

    async def _answer(self, about: str, found: Found) -> None:
        if isinstance(found, Operation):
            await self._tell(about, operation=messages.operation(found))
        elif isinstance(found, Forked):
            await self._tell(about, forked=messages.forked(found))
        else:
            await self._tell(about, position=await position(self._here, found))

    async def _tell(self, about: str, **outcome: Any) -> None:
        await self._told.put(InteractResponse(request_id=about, **outcome))

    async def _refuse(self, about: str, error: Exception) -> None:
        _, body = status_of(self._context, error)
        await self._tell(about, error=messages.error(body))

    def _watch(self, tell: Callable[..., Awaitable[None]], about: str, *args: Any) -> None:
        async def watch() -> None:
            try:
                await tell(about, *args)
            except Exception as e:  # noqa: BLE001 (it is told)
                await self._refuse(about, e)

        task = asyncio.create_task(watch())
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    def _watch_rest(self, about: str, found: Execution | Forked) -> None:
        for one in found.executions if isinstance(found, Forked) else [found]:
            self._watch(self._tell_rest, about, one.id)

    async def _tell_rest(self, about: str, id: str) -> None:
        # A rest that the look at the execution does not see has its event after the cursor.
        start = await self._here.store.events.latest()
        found = await self._here.store.executions.get(id)
        wanted = Wanted(execution_id=id, types=RESTS)
        async with aclosing(self._here.feed.follow(start, wanted)) as parts:
            while found.status not in AT_REST:
                if await anext(parts, None) is None:
                    raise going()
                found = await self._here.store.executions.get(id)
        await self._tell(about, rested=await position(self._here, found))

    async def _tell_end(self, about: str, operation: Operation, goes_on: bool) -> None:
        while operation.status == "RUNNING":
            await asyncio.sleep(POLL_S)
            operation = await self._here.store.operations.get(operation.id)
        await self._tell(about, operation=messages.operation(operation))
        if goes_on and operation.status == "DONE":
            kind = Forked if operation.kind == "fork" else Execution
            self._watch_rest(about, kind.model_validate(operation.result))


async def _inspected(here: Context, request: InspectRequest) -> Position:
    found = await here.store.executions.get(request.execution_id)
    at = optional(request, "checkpoint_id")
    return await position(here, found, at=at, state=request.state)


async def position(
    here: Context, found: Execution, *, at: str | None = None, state: bool = False
) -> Position:
    """Where an execution is, or was at one of its checkpoints.

    Raises:
        UnknownCheckpoint: It has no such checkpoint.
    """
    checkpoint = at or found.head
    if checkpoint is None:
        return Position(execution=execution(found), state="{}" if state else None)
    step = await here.store.executions.step(found.id, checkpoint)
    values = await read_state(here.db, step.thread_id, step.checkpoint_id) if state else None
    asked = []
    if found.status == ExecutionStatus.PAUSED and checkpoint == found.head:
        asked = await here.store.control.asked(found.id)
    return Position(
        execution=execution(found),
        checkpoint_id=step.checkpoint_id,
        step=step.step,
        next_nodes=step.next_nodes,
        questions=[messages.question(Question(**question)) for question in asked],
        state=None if values is None else as_json(values),
    )
