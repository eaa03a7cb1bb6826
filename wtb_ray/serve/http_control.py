"""`/executions/{id}/...`: pause, resume, step, retry, answers, breakpoints, changed states, nodes tried.

A command that is not done after ten seconds is answered with 202 and an operation to look up.
"""

from typing import TypeVar

from fastapi import APIRouter, Response

from wtb_ray.api import NodeOutcome
from wtb_ray.control import (
    AnswersRequest,
    BreakpointsRequest,
    ExecuteNodeRequest,
    Operation,
    PauseRequest,
    Question,
    ResumeRequest,
    RetryRequest,
    StateRequest,
)
from wtb_ray.model import Execution
from wtb_ray.serve.http_requests import Actor, CommandRoute, Here

Result = TypeVar("Result")

commands = APIRouter(prefix="/executions", tags=["control"], route_class=CommandRoute)
reads = APIRouter(prefix="/executions", tags=["control"])
operations = APIRouter(prefix="/operations", tags=["control"])


def answered(result: Result, response: Response, status: int = 200) -> Result:
    """The result of a command; an operation is 202."""
    response.status_code = 202 if isinstance(result, Operation) else status
    return result


@commands.post("/{execution_id}/pause", status_code=202)
async def pause_execution(
    execution_id: str, here: Here, actor: Actor, request: PauseRequest | None = None
) -> Execution:
    """Pauses an execution: at once when it waits, at its next boundary when it runs."""
    wanted = request or PauseRequest()
    execution: Execution = await here.command("pause", execution_id, wanted, actor)
    return execution


@commands.post("/{execution_id}/resume")
async def resume_execution(
    execution_id: str,
    here: Here,
    actor: Actor,
    response: Response,
    request: ResumeRequest | None = None,
) -> Execution | Operation:
    """Sends a paused execution on, past its breakpoint; with another state, or with answers."""
    wanted = request or ResumeRequest()
    found: Execution | Operation = await here.command("resume", execution_id, wanted, actor)
    return answered(found, response)


@commands.post("/{execution_id}/step")
async def step_execution(execution_id: str, here: Here, actor: Actor) -> Execution:
    """Lets a paused execution run one super-step."""
    execution: Execution = await here.command("step", execution_id, actor)
    return execution


@commands.post("/{execution_id}/retry")
async def retry_execution(
    execution_id: str, here: Here, actor: Actor, request: RetryRequest | None = None
) -> Execution:
    """Lets a failed execution go on from where it stands."""
    wanted = request or RetryRequest()
    execution: Execution = await here.command("retry", execution_id, wanted, actor)
    return execution


@reads.get("/{execution_id}/breakpoints")
async def get_breakpoints(execution_id: str, here: Here) -> BreakpointsRequest:
    """Where an execution pauses."""
    execution = await here.store.executions.get(execution_id)
    return BreakpointsRequest(breakpoints=list(execution.breakpoints))


@commands.put("/{execution_id}/breakpoints")
async def set_breakpoints(
    execution_id: str, request: BreakpointsRequest, here: Here, actor: Actor
) -> Execution:
    """Replaces the breakpoints, also while it runs."""
    execution: Execution = await here.command(
        "set_breakpoints", execution_id, request.breakpoints, actor
    )
    return execution


@reads.get("/{execution_id}/interrupts")
async def list_interrupts(execution_id: str, here: Here) -> list[Question]:
    """What an execution asks where it stands, answered questions too while others are open."""
    return [Question(**asked) for asked in await here.store.control.asked(execution_id)]


@commands.post("/{execution_id}/interrupts")
async def answer_interrupts(
    execution_id: str, request: AnswersRequest, here: Here, actor: Actor
) -> Execution:
    """Answers questions by their ids, and sends the execution on."""
    execution: Execution = await here.command("answer", execution_id, request, actor)
    return execution


@commands.patch("/{execution_id}/state")
async def change_state(
    execution_id: str, request: StateRequest, here: Here, actor: Actor, response: Response
) -> Execution | Operation:
    """Changes the state of a paused execution: reduced into the channels, or put in their place."""
    found: Execution | Operation = await here.command("change_state", execution_id, request, actor)
    return answered(found, response)


@commands.post("/{execution_id}/nodes/{node:path}/execute")
async def execute_node(
    execution_id: str,
    node: str,
    here: Here,
    actor: Actor,
    response: Response,
    request: ExecuteNodeRequest | None = None,
) -> NodeOutcome | Operation:
    """Runs one node on a state, over the execution's files; nothing moves."""
    wanted = request or ExecuteNodeRequest()
    found: NodeOutcome | Operation = await here.command(
        "execute_node", execution_id, node, wanted, actor
    )
    return answered(found, response)


@operations.get("/{operation_id}")
async def get_operation(operation_id: str, here: Here) -> Operation:
    """A command that took longer than its caller waited."""
    return await here.store.operations.get(operation_id)
