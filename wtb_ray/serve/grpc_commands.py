"""Commands on executions as gRPC's callers give them, once per idempotency key.

The key counts for the command, whichever RPC it came by.
"""

from dataclasses import dataclass
from typing import Any

from wtb_ray.control import BreakpointsRequest, Forked, Operation
from wtb_ray.model import Execution, Frozen, digest
from wtb_ray.rpc import execution_pb2, session_pb2
from wtb_ray.serve import grpc_control_messages as messages
from wtb_ray.serve.context import Context
from wtb_ray.serve.idempotency import Answer, id_of, once


@dataclass(frozen=True)
class Caller:
    """One caller of the ingress; each command raises the typed errors of the controller."""

    here: Context
    actor: str

    async def pause(self, message: execution_pb2.PauseExecutionRequest) -> Execution:
        found: Execution = await self._do("pause", message, messages.pause_request(message))
        return found

    async def resume(self, message: execution_pb2.ResumeExecutionRequest) -> Execution | Operation:
        found: Execution | Operation = await self._do(
            "resume", message, messages.resume_request(message)
        )
        return found

    async def step(self, message: execution_pb2.StepExecutionRequest) -> Execution:
        found: Execution = await self._do("step", message)
        return found

    async def stop(self, message: execution_pb2.StopExecutionRequest) -> Execution:
        found: Execution = await self._do("stop", message, messages.stop_request(message))
        return found

    async def rollback(self, message: execution_pb2.RollbackExecutionRequest) -> Execution:
        found: Execution = await self._do("rollback", message, messages.rollback_request(message))
        return found

    async def fork(self, message: execution_pb2.ForkExecutionRequest) -> Forked | Operation:
        found: Forked | Operation = await self._do(
            "fork", message, messages.fork_request(message), answer=Forked
        )
        return found

    async def change_state(self, message: session_pb2.ModifyRequest) -> Execution | Operation:
        found: Execution | Operation = await self._do(
            "change_state", message, messages.state_request(message)
        )
        return found

    async def set_breakpoints(self, message: session_pb2.BreakpointRequest) -> Execution:
        found: Execution = await self._do(
            "set_breakpoints", message, messages.breakpoints_request(message)
        )
        return found

    async def _do(
        self,
        command: str,
        message: Any,
        wanted: Frozen | None = None,
        *,
        answer: type[Frozen] = Execution,
    ) -> Any:
        """What the controller answers, or the operation as which it goes on."""

        async def perform() -> Answer:
            arguments: list[Any] = [] if wanted is None else [_argument(wanted)]
            made = [id_of("e")] if command == "fork" else []
            found: Frozen = await self.here.command(
                command, message.execution_id, *arguments, self.actor, *made
            )
            status = 202 if isinstance(found, Operation) else 200
            return Answer(status, found.model_dump_json())

        body = None if wanted is None else wanted.model_dump(mode="json")
        mark = digest([command, message.execution_id, body])
        done = await once(self.here, message.idempotency_key or None, mark, perform)
        kind = Operation if done.status == 202 else answer
        return kind.model_validate_json(done.body)


def _argument(wanted: Frozen) -> Any:
    return wanted.breakpoints if isinstance(wanted, BreakpointsRequest) else wanted
