"""`/limits`: rates and concurrency that all processes of the bench share."""

from typing import Annotated

from fastapi import APIRouter, Path

from wtb_ray.rates import NAME, Limit, LimitSpec
from wtb_ray.serve.http_requests import Actor, CommandRoute, Here

commands = APIRouter(prefix="/limits", tags=["limits"], route_class=CommandRoute)
reads = APIRouter(prefix="/limits", tags=["limits"])

Name = Annotated[str, Path(pattern=NAME, description="What `wtb_ray.limit` is called with.")]


@commands.put("/{name}")
async def set_limit(name: Name, request: LimitSpec, here: Here, actor: Actor) -> Limit:
    """Makes a limit, or changes it; what is in its buckets stays there."""
    made: Limit = await here.command("set_limit", name, request, actor)
    return made


@commands.delete("/{name}")
async def remove_limit(name: str, here: Here, actor: Actor) -> Limit:
    """Removes a limit; nodes that wait for it are refused."""
    removed: Limit = await here.command("remove_limit", name, actor)
    return removed


@reads.get("")
async def list_limits(here: Here) -> list[Limit]:
    """All limits by name, and how they stand."""
    return await here.store.limits.list()
