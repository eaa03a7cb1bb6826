"""The HTTP application: all routes over one context, its errors in one form, its OpenAPI text.

It knows nothing of Ray: `build_api` makes an ASGI application of any context.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Response

import wtb_ray
from wtb_ray import errors
from wtb_ray.api import Health
from wtb_ray.serve import (
    http_audit,
    http_batches,
    http_bundles,
    http_control,
    http_diff,
    http_environments,
    http_events,
    http_executions,
    http_files,
    http_integrity,
    http_limits,
    http_tracker,
    http_travel,
    http_workflows,
)
from wtb_ray.serve.context import Context
from wtb_ray.serve.http_errors import Entrance, ErrorAnswer, install
from wtb_ray.serve.http_requests import Here

BASE = "/api/v1"
READY_S = 2.0

health = APIRouter(tags=["health"])


@health.get("/health")
async def get_health() -> Health:
    """Whether this process answers."""
    return Health(status="ok", version=wtb_ray.__version__)


@health.get("/ready", responses={503: {"model": Health}})
async def get_ready(here: Here, response: Response) -> Health:
    """Whether requests can be served now; 503 names the part that is missing."""
    components = {"database": await _database(here)}
    ready = set(components.values()) == {"ok"}
    response.status_code = 200 if ready else 503
    return Health(
        status="ok" if ready else "unavailable",
        version=wtb_ray.__version__,
        components=components,
    )


ROUTERS: tuple[APIRouter, ...] = (
    health,
    http_workflows.commands,
    http_workflows.reads,
    http_executions.commands,
    http_executions.reads,
    http_control.commands,
    http_control.reads,
    http_control.operations,
    http_travel.commands,
    http_travel.reads,
    http_tracker.commands,
    http_tracker.reads,
    http_files.commands,
    http_files.reads,
    http_diff.reads,
    http_batches.commands,
    http_batches.reads,
    http_bundles.router,
    http_environments.commands,
    http_environments.reads,
    http_events.router,
    http_audit.router,
    http_integrity.commands,
    http_integrity.reads,
    http_limits.commands,
    http_limits.reads,
)
"""Everything below `/api/v1`."""


async def _database(here: Context) -> str:
    try:
        async with asyncio.timeout(READY_S):
            await here.db.row("SELECT 1")
    except (errors.Unavailable, TimeoutError):
        return "unavailable"
    return "ok"


@asynccontextmanager
async def _lifespan(api: FastAPI) -> AsyncIterator[None]:
    yield
    await api.state.context.close()


def build_api(context: Context) -> FastAPI:
    """The application over these parts; the server's shutdown closes them."""
    failed: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorAnswer} for status in ("4XX", "5XX")
    }
    api = FastAPI(
        title="wtb-ray",
        version=wtb_ray.__version__,
        description="A distributed test bench for LangGraph workflows.",
        redirect_slashes=False,
        lifespan=_lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    api.state.context = context
    install(api)
    api.add_middleware(Entrance, gate=context.gate, max_body_mb=context.settings.max_body_mb)
    api.include_router(health, include_in_schema=False)
    base = APIRouter(prefix=BASE, responses={**failed, 422: {"model": ErrorAnswer}})
    for router in ROUTERS:
        base.include_router(router)
    api.include_router(base)
    return api
