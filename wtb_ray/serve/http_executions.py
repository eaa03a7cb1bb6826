"""`/executions`: runs, their checkpoints and states, and stopping them."""

from typing import Annotated

from fastapi import APIRouter, Query

from wtb_ray.api import Checkpoint, Page, StateView
from wtb_ray.control import StopRequest
from wtb_ray.model import Execution
from wtb_ray.serve.context import Context
from wtb_ray.serve.http_requests import Actor, After, CommandRoute, Here, Limit, shown, sliced
from wtb_ray.states import ExecutionStatus
from wtb_ray.views import read_state

commands = APIRouter(prefix="/executions", tags=["executions"], route_class=CommandRoute)
reads = APIRouter(prefix="/executions", tags=["executions"])


@commands.post("/{execution_id}/stop", status_code=202)
async def stop_execution(
    execution_id: str, here: Here, actor: Actor, request: StopRequest | None = None
) -> Execution:
    """Stops an execution: at once when it waits or is killed, else at its next boundary."""
    wanted = request or StopRequest()
    execution: Execution = await here.command("stop", execution_id, wanted, actor)
    return execution


@reads.get("")
async def list_executions(
    here: Here,
    project: str | None = None,
    status: ExecutionStatus | None = None,
    batch: str | None = None,
    limit: Limit = 50,
    after: After = None,
) -> Page[Execution]:
    """Executions, newest first."""
    return await here.store.executions.list(
        limit, after, project=project, status=status, batch_id=batch
    )


@reads.get("/{execution_id}")
async def get_execution(execution_id: str, here: Here) -> Execution:
    """An execution as it is now."""
    return await here.store.executions.get(execution_id)


@reads.get("/{execution_id}/checkpoints")
async def list_checkpoints(
    execution_id: str, here: Here, limit: Limit = 50, after: After = None
) -> Page[Checkpoint]:
    """The checkpoints that led to where the execution is, newest first."""
    steps = await here.store.executions.steps(execution_id)
    checkpoints = [shown(step) for step in steps]
    return sliced(checkpoints, [c.id for c in checkpoints], limit, after)


@reads.get("/{execution_id}/checkpoints/{checkpoint_id}")
async def getshown(execution_id: str, checkpoint_id: str, here: Here) -> Checkpoint:
    """One checkpoint of an execution."""
    return shown(await here.store.executions.step(execution_id, checkpoint_id))


@reads.get("/{execution_id}/state")
async def get_state(
    execution_id: str,
    here: Here,
    checkpoint: Annotated[str | None, Query(description="Absent: the newest one.")] = None,
) -> StateView:
    """The state at a checkpoint; empty before the first one."""
    execution = await here.store.executions.get(execution_id)
    at = checkpoint or execution.head
    if at is None:
        return StateView(
            execution_id=execution.id,
            checkpoint_id=None,
            step=None,
            status=execution.status,
            next_nodes=[],
            values={},
        )
    step = await here.store.executions.step(execution_id, at)
    return StateView(
        execution_id=execution.id,
        checkpoint_id=step.checkpoint_id,
        step=step.step,
        status=execution.status,
        next_nodes=list(step.next_nodes),
        values=await read_state(here.db, step.thread_id, step.checkpoint_id),
        interrupts=await _interrupts(here, execution) if at == execution.head else [],
    )


async def _interrupts(here: Context, execution: Execution) -> list[dict[str, object]]:
    """What a paused execution asks."""
    if execution.status != ExecutionStatus.PAUSED:
        return []
    asked = await here.store.control.asked(execution.id)
    return [{"id": q["id"], "value": q["value"]} for q in asked if not q["answered"]]
