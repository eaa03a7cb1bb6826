"""`/files`, `/executions/{id}/commits`: what is stored, what can go, and whether it is whole.

A command that is not done after ten seconds is answered with 202 and an operation to look up.
"""

from fastapi import APIRouter, Response

from wtb_ray import files
from wtb_ray.api import Page
from wtb_ray.collection import report
from wtb_ray.control import Operation
from wtb_ray.serve.http_control import answered
from wtb_ray.serve.http_requests import Actor, After, CommandRoute, Here, Limit
from wtb_ray.storage_api import (
    CollectionReport,
    CollectRequest,
    CommitEntry,
    DamagedObject,
    FilesStats,
    ObjectHold,
    RehashReport,
    RehashRequest,
)

commands = APIRouter(prefix="/files", tags=["files"], route_class=CommandRoute)
reads = APIRouter(tags=["files"])

MOST_DAMAGED = 100
NEWEST = 10


@reads.get("/files/stats")
async def get_files_stats(here: Here) -> FilesStats:
    """What is known of the stored objects, without looking at them: collections, leases, damage."""
    rows = here.store.collections
    counts, holds = await rows.stats()
    damaged = await rows.all_damaged(MOST_DAMAGED)
    return FilesStats(
        generation=counts["generation"],
        commits=counts["commits"],
        commit_files=counts["commit_files"],
        damaged=[DamagedObject(**row) for row in damaged],
        holds=[ObjectHold(**row) for row in holds],
        collections=[report(row) for row in await rows.newest(NEWEST)],
    )


@commands.post("/collect")
async def collect_garbage(
    here: Here, actor: Actor, response: Response, request: CollectRequest | None = None
) -> CollectionReport | Operation:
    """Counts the objects that no row and no lease reaches; without `dry_run`, deletes them."""
    wanted = request or CollectRequest()
    found: CollectionReport | Operation = await here.command("collect", wanted, actor)
    return answered(found, response)


@commands.post("/rehash")
async def rehash_objects(
    here: Here, actor: Actor, response: Response, request: RehashRequest | None = None
) -> RehashReport | Operation:
    """Reads objects and checks them against their digests."""
    wanted = request or RehashRequest()
    found: RehashReport | Operation = await here.command("rehash", wanted, actor)
    return answered(found, response)


@reads.get("/executions/{execution_id}/commits")
async def list_commits(
    execution_id: str, here: Here, limit: Limit = 100, after: After = None
) -> Page[CommitEntry]:
    """The trees of an execution's checkpoints with their files and bytes, newest first."""
    return await files.commits(here.store, here.objects, execution_id, limit, after)
