"""`/batch-tests`: matrices of variants and cases, how far they are, what came out."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from wtb_ray.api import (
    BatchTestRequest,
    CellResult,
    Leaderboard,
    Page,
    Progress,
    StopRequest,
)
from wtb_ray.batch_tree import BatchTree
from wtb_ray.control import BatchChange, ExtendRequest, RerunRequest
from wtb_ray.model import Batch
from wtb_ray.serve.http_requests import Actor, After, CommandRoute, Here, Limit
from wtb_ray.serve.idempotency import id_of
from wtb_ray.states import BatchStatus, CellStatus

commands = APIRouter(prefix="/batch-tests", tags=["batch-tests"], route_class=CommandRoute)
reads = APIRouter(prefix="/batch-tests", tags=["batch-tests"])


@commands.post("", status_code=202)
async def run_batch_test(request: BatchTestRequest, here: Here, actor: Actor) -> Batch:
    """Starts a batch."""
    batch: Batch = await here.command("batch_test", request, actor, id_of("b"))
    return batch


@commands.patch("/{batch_id}")
async def change_batch_test(batch_id: str, change: BatchChange, here: Here, actor: Actor) -> Batch:
    """Changes budgets of a batch; what they have excluded runs by `rerun`."""
    batch: Batch = await here.command("change_batch", batch_id, change, actor)
    return batch


@commands.post("/{batch_id}/stop", status_code=202)
async def stop_batch_test(
    batch_id: str, here: Here, actor: Actor, request: StopRequest | None = None
) -> Batch:
    """Stops a batch, or a variant: waiting cells at once, running ones at their next boundary."""
    batch: Batch = await here.command("stop_batch", batch_id, request or StopRequest(), actor)
    return batch


@commands.post("/{batch_id}/pause", status_code=202)
async def pause_batch_test(batch_id: str, here: Here, actor: Actor) -> Batch:
    """Starts nothing more of a batch; what runs is given back at its next boundary."""
    batch: Batch = await here.command("pause_batch", batch_id, actor)
    return batch


@commands.post("/{batch_id}/resume", status_code=202)
async def resume_batch_test(batch_id: str, here: Here, actor: Actor) -> Batch:
    """Goes on with a paused batch."""
    batch: Batch = await here.command("resume_batch", batch_id, actor)
    return batch


@commands.post("/{batch_id}/rerun", status_code=202)
async def rerun_batch_test(
    batch_id: str, here: Here, actor: Actor, request: RerunRequest | None = None
) -> Batch:
    """Runs failed, cancelled or excluded cells again; a batch that has ended goes on."""
    batch: Batch = await here.command("rerun_batch", batch_id, request or RerunRequest(), actor)
    return batch


@commands.post("/{batch_id}/extend", status_code=202)
async def extend_batch_test(
    batch_id: str, request: ExtendRequest, here: Here, actor: Actor
) -> Batch:
    """Adds cases, variants and repetitions; cells that are there stay as they are."""
    batch: Batch = await here.command("extend_batch", batch_id, request, actor)
    return batch


@reads.get("")
async def list_batch_tests(
    here: Here,
    project: str | None = None,
    status: BatchStatus | None = None,
    limit: Limit = 50,
    after: After = None,
) -> Page[Batch]:
    """Batches, newest first."""
    return await here.store.batches.list(limit, after, project=project, status=status)


@reads.get("/{batch_id}")
async def get_batch_test(batch_id: str, here: Here) -> Batch:
    """A batch as it is now."""
    return await here.store.batches.get(batch_id)


@reads.get("/{batch_id}/progress")
async def get_progress(batch_id: str, here: Here) -> Progress:
    """How far a batch is."""
    return await here.store.batches.progress(batch_id)


@reads.get("/{batch_id}/tree")
async def get_tree(
    batch_id: str, here: Here, case: str | None = None, repetition: int | None = None
) -> BatchTree:
    """The ways of the cells, laid over each other: what ran, for how many, and what that spared."""
    return await here.store.splits.tree(batch_id, case, repetition)


@reads.get("/{batch_id}/results")
@reads.get("/{batch_id}/cells", name="list_cells")
async def list_results(
    batch_id: str,
    here: Here,
    status: CellStatus | None = None,
    limit: Limit = 100,
    after: After = None,
) -> Page[CellResult]:
    """The cells of a batch with their scores, in the order of work."""
    return await here.store.cells.list(batch_id, limit, after, status=status)


@reads.get(
    "/{batch_id}/leaderboard",
    response_model=Leaderboard,
    responses={202: {"description": "It is being computed; ask again."}},
)
async def get_leaderboard(batch_id: str, here: Here) -> Leaderboard | Response:
    """The variants of a batch in order, from the results as they are now."""
    board: Leaderboard | None = await here.command("leaderboard", batch_id)
    return JSONResponse({"status": "computing"}, 202) if board is None else board
