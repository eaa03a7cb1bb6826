"""`/executions/{id}/...`: rollback, fork, swap, and the history that they move in."""

from fastapi import APIRouter, Response

from wtb_ray import histories, requests
from wtb_ray.control import (
    BranchTree,
    BranchView,
    Forked,
    ForkRequest,
    ForkView,
    ManyRequest,
    NodeHistory,
    Operation,
    Outcomes,
    ResetRequest,
    RollbackRequest,
    SwapRequest,
)
from wtb_ray.model import Branch, Execution, Step
from wtb_ray.serve.http_control import answered
from wtb_ray.serve.http_requests import Actor, CommandRoute, Here, shown
from wtb_ray.serve.idempotency import id_of

commands = APIRouter(prefix="/executions", tags=["time travel"], route_class=CommandRoute)
reads = APIRouter(prefix="/executions", tags=["time travel"])


@commands.post("/batch")
async def control_many(request: ManyRequest, here: Here, actor: Actor) -> Outcomes:
    """Rolls back and forks many executions; each item has its own outcome."""
    outcomes: Outcomes = await here.command("many", request.items, actor, id_of("e"))
    return outcomes


@commands.post("/{execution_id}/rollback")
async def roll_back_execution(
    execution_id: str, request: RollbackRequest, here: Here, actor: Actor
) -> Execution:
    """Puts an execution back, or forward again, to a checkpoint with its files; it is PAUSED then."""
    execution: Execution = await here.command("rollback", execution_id, request, actor)
    return execution


@commands.post("/{execution_id}/reset")
async def reset_execution(
    execution_id: str, here: Here, actor: Actor, request: ResetRequest | None = None
) -> Execution:
    """Puts an execution back to its input, in a clean workspace; its history stays."""
    wanted = request or ResetRequest()
    execution: Execution = await here.command("reset", execution_id, wanted, actor)
    return execution


@commands.post("/{execution_id}/fork", status_code=201)
async def fork_execution(
    execution_id: str,
    here: Here,
    actor: Actor,
    response: Response,
    request: ForkRequest | None = None,
) -> Forked | Operation:
    """Makes executions that go on from a checkpoint, with other state, variants or version."""
    wanted = request or ForkRequest()
    found: Forked | Operation = await here.command("fork", execution_id, wanted, actor, id_of("e"))
    return answered(found, response, 201)


@commands.post("/{execution_id}/swap")
async def swap_execution(
    execution_id: str, request: SwapRequest, here: Here, actor: Actor
) -> Execution:
    """Gives an execution other implementations from its next super-step on."""
    execution: Execution = await here.command("swap", execution_id, request, actor)
    return execution


@reads.get("/{execution_id}/nodes")
async def list_node_histories(execution_id: str, here: Here) -> list[NodeHistory]:
    """What each node of the graph has done on the current branch, those inside subgraphs too."""
    execution = await here.store.executions.get(execution_id)
    steps = await here.store.executions.steps(execution_id)
    version = await here.store.projects.by_version(execution.version)
    found = requests.nodes_of(version, execution.binding)
    graphs = {node.name for node in found if node.subgraph}
    places = histories.places(steps, execution)
    inner = await here.store.executions.inner_steps(
        [place for place, ran in places.items() if graphs & set(ran)]
    )
    return histories.nodes([node.name for node in found], steps, execution, graphs, inner)


@reads.get("/{execution_id}/branches")
async def get_branches(execution_id: str, here: Here) -> BranchTree:
    """All that an execution ever did: its branches, abandoned ones too, and what was forked off."""
    execution = await here.store.executions.get(execution_id)
    branches = await here.store.branches.list(execution_id)
    steps = await here.store.branches.steps(execution_id)
    forks = await here.store.branches.forks(execution_id)
    known = {step.checkpoint_id: step.step for step in steps}
    return BranchTree(
        execution_id=execution.id,
        status=execution.status,
        thread_id=execution.thread_id,
        head=execution.head,
        forked_from=execution.forked_from,
        forked_at=execution.forked_at,
        branches=[_branch(branch, steps, execution) for branch in branches],
        forks=[
            ForkView(
                id=fork.id,
                status=fork.status,
                checkpoint_id=fork.forked_at or "",
                step=known.get(fork.forked_at or ""),
            )
            for fork in forks
        ],
    )


def _branch(branch: Branch, steps: list[Step], execution: Execution) -> BranchView:
    return BranchView(
        **branch.model_dump(exclude={"execution_id"}),
        current=branch.thread_id == execution.thread_id,
        steps=[shown(step) for step in steps if step.thread_id == branch.thread_id],
    )
