"""The RPCs of `wtb.v1`, as methods that Serve finds by their names.

Streams end only by themselves, by the caller, or when their replica goes; each can be resumed.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing

from ray.serve.grpc_util import RayServegRPCContext

from wtb_ray.events import Cursor, EventRow
from wtb_ray.model import Execution, digest
from wtb_ray.rpc import audit_pb2, execution_pb2
from wtb_ray.serve import grpc_messages
from wtb_ray.serve.context import Context
from wtb_ray.serve.grpc_batches import BatchMethods
from wtb_ray.serve.grpc_calls import actor_of, going, rpc
from wtb_ray.serve.grpc_control import ControlMethods
from wtb_ray.serve.grpc_environments import EnvironmentMethods
from wtb_ray.serve.http_events import cursor_of, types_of
from wtb_ray.serve.idempotency import Answer, id_of, once
from wtb_ray.serve.stream import Wanted
from wtb_ray.states import TERMINAL_EXECUTION

ENDED = frozenset({"execution.completed", "execution.failed", "execution.cancelled"})


class GrpcMethods(ControlMethods, BatchMethods, EnvironmentMethods):
    """All RPCs; to be mixed into the ingress, whose context they use."""

    @rpc
    async def StartExecution(
        self, request: execution_pb2.StartExecutionRequest, grpc_context: RayServegRPCContext
    ) -> execution_pb2.Execution:
        wanted = grpc_messages.execute_request(request)
        actor = actor_of(grpc_context)

        async def perform() -> Answer:
            made: Execution = await self.context.command(
                "execute", request.project, wanted, actor, id_of("e")
            )
            return Answer(202, made.model_dump_json())

        mark = digest(["StartExecution", request.project, wanted.model_dump(mode="json")])
        answer = await once(self.context, request.idempotency_key or None, mark, perform)
        return grpc_messages.execution(Execution.model_validate_json(answer.body))

    @rpc
    async def GetExecution(
        self, request: execution_pb2.GetExecutionRequest, grpc_context: RayServegRPCContext
    ) -> execution_pb2.Execution:
        return grpc_messages.execution(
            await self.context.store.executions.get(request.execution_id)
        )

    @rpc
    async def StreamExecutionEvents(
        self, request: execution_pb2.StreamExecutionEventsRequest, grpc_context: RayServegRPCContext
    ) -> AsyncIterator[execution_pb2.Event]:
        types = types_of(list(request.types))
        start = await cursor_of(self.context, request.after)
        async for row in _execution_events(
            self.context, request.execution_id, start, types, request.follow
        ):
            yield grpc_messages.event(row)

    @rpc
    async def StreamAuditEvents(
        self, request: audit_pb2.StreamAuditEventsRequest, grpc_context: RayServegRPCContext
    ) -> AsyncIterator[execution_pb2.Event]:
        start = await cursor_of(self.context, request.after)
        wanted = Wanted(
            request.execution_id or None, request.batch_id or None, types_of(list(request.types))
        )
        read = self.context.feed.follow if request.follow else self.context.feed.history
        async with aclosing(read(start, wanted)) as parts:
            async for part in parts:
                for row in part.rows:
                    if grpc_messages.of(row, request.project, request.actor):
                        yield grpc_messages.event(row)
        if request.follow:
            raise going()


async def _execution_events(
    here: Context, id: str, start: Cursor, types: frozenset[str] | None, follow: bool
) -> AsyncIterator[EventRow]:
    """Events of an execution, up to the one that tells its end unless `follow`."""
    if await _end_is_behind(here, id, start) and not follow:
        return
    listened = None if types is None else types | ENDED
    async with aclosing(here.feed.follow(start, Wanted(id, None, listened))) as parts:
        async for part in parts:
            for row in part.rows:
                if types is None or row.type in types:
                    yield row
                if row.type in ENDED and not follow and await _is_the_end(here, row):
                    return
    raise going()


async def _is_the_end(here: Context, row: EventRow) -> bool:
    """Whether the event tells how the execution ended, not an end that it was brought back from."""
    execution = await here.store.executions.get(row.execution_id or "")
    ended = execution.ended_at
    return execution.status in TERMINAL_EXECUTION and ended is not None and row.at >= ended


async def _end_is_behind(here: Context, id: str, start: Cursor) -> bool:
    """Whether the execution's end was told at or before the cursor."""
    execution = await here.store.executions.get(id)
    if execution.status not in TERMINAL_EXECUTION:
        return False
    rows = await here.store.events.read(Cursor.START, execution_id=id, types=sorted(ENDED))
    told = [Cursor.parse(row.cursor) for row in rows if await _is_the_end(here, row)]
    return any((c.xid, c.seq) <= (start.xid, start.seq) for c in told)
