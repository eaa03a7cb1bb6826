"""The RPCs that control executions, one call a command or all of them over one stream."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from ray.serve.grpc_util import RayServegRPCContext, gRPCInputStream

from wtb_ray.rpc import execution_pb2, session_pb2
from wtb_ray.serve import grpc_control_messages as messages
from wtb_ray.serve import http_executions
from wtb_ray.serve.context import Context
from wtb_ray.serve.grpc_calls import actor_of, rpc
from wtb_ray.serve.grpc_commands import Caller
from wtb_ray.serve.grpc_messages import execution
from wtb_ray.serve.grpc_session import Session


class ControlMethods:
    """To be mixed into the ingress, whose context they use."""

    context: Context

    @rpc
    async def PauseExecution(
        self, request: execution_pb2.PauseExecutionRequest, grpc_context: RayServegRPCContext
    ) -> execution_pb2.Execution:
        return execution(await self._caller(grpc_context).pause(request))

    @rpc
    async def ResumeExecution(
        self, request: execution_pb2.ResumeExecutionRequest, grpc_context: RayServegRPCContext
    ) -> execution_pb2.ResumeExecutionResponse:
        return messages.resumed(await self._caller(grpc_context).resume(request))

    @rpc
    async def StepExecution(
        self, request: execution_pb2.StepExecutionRequest, grpc_context: RayServegRPCContext
    ) -> execution_pb2.Execution:
        return execution(await self._caller(grpc_context).step(request))

    @rpc
    async def StopExecution(
        self, request: execution_pb2.StopExecutionRequest, grpc_context: RayServegRPCContext
    ) -> execution_pb2.Execution:
        return execution(await self._caller(grpc_context).stop(request))

    @rpc
    async def RollbackExecution(
        self, request: execution_pb2.RollbackExecutionRequest, grpc_context: RayServegRPCContext
    ) -> execution_pb2.Execution:
        return execution(await self._caller(grpc_context).rollback(request))

    @rpc
    async def ForkExecution(
        self, request: execution_pb2.ForkExecutionRequest, grpc_context: RayServegRPCContext
    ) -> execution_pb2.ForkExecutionResponse:
        return messages.fork_response(await self._caller(grpc_context).fork(request))

    @rpc
    async def ListCheckpoints(
        self, request: execution_pb2.ListCheckpointsRequest, grpc_context: RayServegRPCContext
    ) -> execution_pb2.ListCheckpointsResponse:
        page = await http_executions.list_checkpoints(
            request.execution_id, self.context, messages.page_size(request), request.after or None
        )
        return messages.checkpoints(page)

    @rpc
    async def GetOperation(
        self, request: execution_pb2.GetOperationRequest, grpc_context: RayServegRPCContext
    ) -> execution_pb2.Operation:
        return messages.operation(await self.context.store.operations.get(request.operation_id))

    @rpc
    async def Interact(
        self,
        request: gRPCInputStream[session_pb2.InteractRequest],
        grpc_context: RayServegRPCContext,
    ) -> AsyncIterator[session_pb2.InteractResponse]:
        session = Session(self._caller(grpc_context), grpc_context)
        async with aclosing(session.answers(request)) as answers:
            async for answer in answers:
                yield answer

    def _caller(self, context: RayServegRPCContext) -> Caller:
        return Caller(self.context, actor_of(context))
