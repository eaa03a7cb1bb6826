"""The RPCs of batches."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from ray.serve.grpc_util import RayServegRPCContext

from wtb_ray.api import Progress
from wtb_ray.model import Batch, digest
from wtb_ray.rpc import batch_pb2
from wtb_ray.serve import grpc_batch_messages as messages
from wtb_ray.serve.context import Context
from wtb_ray.serve.grpc_calls import actor_of, going, rpc
from wtb_ray.serve.grpc_control_messages import page_size
from wtb_ray.serve.idempotency import Answer, id_of, once
from wtb_ray.serve.stream import Wanted
from wtb_ray.states import TERMINAL_BATCH

PROGRESS_S = 0.25
"""Least time between two messages of a batch's progress."""
IDLE_S = 2.0
"""Most time between them."""
BATCH_CHANGES = frozenset(
    {"cell.scored", "cell.failed", "batch.started", "batch.completed", "batch.failed"}
    | {"batch.cancelled", "execution.cancelled", "batch.budget_exceeded", "batch.extended"}
    | {"batch.rerun"}
)
RESULTS = 100
"""Cells in a page whose request does not say how many."""


class BatchMethods:
    """To be mixed into the ingress, whose context they use."""

    context: Context

    @rpc
    async def RunBatchTest(
        self, request: batch_pb2.RunBatchTestRequest, grpc_context: RayServegRPCContext
    ) -> AsyncIterator[batch_pb2.BatchTestProgress]:
        wanted = messages.batch_request(request)
        actor = actor_of(grpc_context)

        async def perform() -> Answer:
            made: Batch = await self.context.command("batch_test", wanted, actor, id_of("b"))
            return Answer(202, made.model_dump_json())

        mark = digest(["RunBatchTest", wanted.model_dump(mode="json")])
        answer = await once(self.context, request.idempotency_key or None, mark, perform)
        batch = Batch.model_validate_json(answer.body)
        async for progress in _batch_progress(self.context, batch.id):
            yield messages.progress(progress)

    @rpc
    async def GetBatchTest(
        self, request: batch_pb2.GetBatchTestRequest, grpc_context: RayServegRPCContext
    ) -> batch_pb2.Batch:
        return messages.batch(await self.context.store.batches.get(request.batch_id))

    @rpc
    async def GetBatchTestResults(
        self, request: batch_pb2.GetBatchTestResultsRequest, grpc_context: RayServegRPCContext
    ) -> batch_pb2.GetBatchTestResultsResponse:
        page = await self.context.store.cells.list(
            request.batch_id,
            page_size(request, RESULTS),
            request.after or None,
            status=messages.cell_status(request),
        )
        return messages.results(page)

    @rpc
    async def StopBatchTest(
        self, request: batch_pb2.StopBatchTestRequest, grpc_context: RayServegRPCContext
    ) -> batch_pb2.Batch:
        wanted = messages.stop_request(request)
        actor = actor_of(grpc_context)

        async def perform() -> Answer:
            stopped: Batch = await self.context.command(
                "stop_batch", request.batch_id, wanted, actor
            )
            return Answer(202, stopped.model_dump_json())

        mark = digest(["stop_batch", request.batch_id, wanted.model_dump(mode="json")])
        answer = await once(self.context, request.idempotency_key or None, mark, perform)
        return messages.batch(Batch.model_validate_json(answer.body))


async def _batch_progress(here: Context, id: str) -> AsyncIterator[Progress]:
    """How far a batch is, whenever that changes, up to its end."""
    wanted = Wanted(batch_id=id, types=BATCH_CHANGES)
    start = await here.store.events.latest()
    progress = await here.store.batches.progress(id)
    yield progress
    async with aclosing(here.feed.follow(start, wanted, idle_s=IDLE_S)) as changes:
        while progress.status not in TERMINAL_BATCH:
            await asyncio.sleep(PROGRESS_S)
            if await anext(changes, None) is None:
                raise going()
            progress = await here.store.batches.progress(id)
            yield progress
