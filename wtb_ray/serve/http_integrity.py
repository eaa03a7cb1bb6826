"""`/integrity`: what is held against each other, what was found, and its repair."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from wtb_ray.control import Operation
from wtb_ray.integrity import stored
from wtb_ray.integrity.reports import IntegrityRepairs, IntegrityReport, IntegrityRequest
from wtb_ray.serve.http_control import answered
from wtb_ray.serve.http_requests import Actor, After, CommandRoute, Here, Limit

commands = APIRouter(tags=["integrity"], route_class=CommandRoute)
reads = APIRouter(tags=["integrity"])


@reads.get("/integrity")
async def get_integrity(
    here: Here,
    limit: Limit = 50,
    after: After = None,
    report: Annotated[str | None, Query(description="Not the newest report, but this one.")] = None,
) -> IntegrityReport:
    """The newest report, with its findings, the worst first."""
    return await stored.report(here.store, report, limit, after)


@commands.post("/integrity")
async def check_integrity(
    here: Here, actor: Actor, response: Response, request: IntegrityRequest | None = None
) -> IntegrityReport | IntegrityRepairs | Operation:
    """Checks everything now, or repairs what the newest report has; a dry run, unless it is not."""
    wanted = request or IntegrityRequest()
    found: IntegrityReport | IntegrityRepairs | Operation = await here.command(
        "integrity", wanted, actor
    )
    return answered(found, response)
