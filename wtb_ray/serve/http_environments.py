"""`/environments`: what is installed where; building ahead of time, forgetting, pruning."""

from fastapi import APIRouter, Query, Response

from wtb_ray.api import Page
from wtb_ray.control import Operation
from wtb_ray.environment import (
    Environment,
    EnvironmentRequest,
    EnvironmentView,
    Pruned,
    VenvStats,
)
from wtb_ray.serve.environments import view
from wtb_ray.serve.http_control import answered
from wtb_ray.serve.http_requests import Actor, After, CommandRoute, Here, Limit

commands = APIRouter(prefix="/environments", tags=["environments"], route_class=CommandRoute)
reads = APIRouter(prefix="/environments", tags=["environments"])


@commands.post("", status_code=201)
async def create_environment(
    request: EnvironmentRequest, here: Here, actor: Actor, response: Response
) -> EnvironmentView | Operation:
    """Builds an environment ahead of time; 202 with an operation where that takes longer."""
    found: EnvironmentView | Operation = await here.command("create_environment", request, actor)
    return answered(found, response, 201)


@commands.post("/prune")
async def prune_environments(
    here: Here, actor: Actor, dry_run: bool = Query(True, description="Only say what would go.")
) -> list[Pruned]:
    """Removes what has not been used for long, is invalid, or takes too much room."""
    pruned: list[Pruned] = await here.command("prune_environments", dry_run, actor)
    return pruned


@commands.delete("/{digest}")
async def delete_environment(digest: str, here: Here, actor: Actor) -> Environment:
    """Forgets an environment; what is built of it goes once nobody runs in it."""
    forgotten: Environment = await here.command("delete_environment", digest, actor)
    return forgotten


@reads.get("")
async def list_environments(
    here: Here, limit: Limit = 50, after: After = None
) -> Page[Environment]:
    """Environments that were asked for, newest first."""
    return await here.store.environments.list(limit, after)


@reads.get("/stats")
async def get_environment_stats(here: Here) -> list[VenvStats]:
    """Hits, builds, failures and sizes of the caches, by host."""
    stats: list[VenvStats] = await here.command("environment_stats")
    return stats


@reads.get("/{digest}")
async def get_environment(digest: str, here: Here) -> EnvironmentView:
    """What an environment asks for, what is installed for it, and where."""
    return await view(here.store, await here.store.environments.get(digest))
