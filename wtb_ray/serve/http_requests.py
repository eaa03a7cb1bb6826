"""How requests are read: strict JSON, commands once per key, and what handlers ask for."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Query, Request, Response
from fastapi.routing import APIRoute

from wtb_ray import errors
from wtb_ray.api import Checkpoint, Page
from wtb_ray.model import Step, request_digest
from wtb_ray.serve import auth
from wtb_ray.serve.context import Context
from wtb_ray.serve.idempotency import Answer, once
from wtb_ray.serve.strict_json import parse

Item = TypeVar("Item")

MAX_PAGE = 500


class StrictRequest(Request):
    """A request whose JSON is what the standard calls so."""

    async def json(self) -> Any:
        return parse(await self.body())


class CommandRoute(APIRoute):
    """A route that changes something: done to its end, and once per `Idempotency-Key`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def command(raw: Request) -> Response:
            request = StrictRequest(raw.scope, raw.receive)
            body = await request.body()

            async def perform() -> Answer:
                response = await handle(request)
                return Answer(response.status_code, bytes(response.body).decode())

            answer = await once(
                request.app.state.context,
                request.headers.get("idempotency-key"),
                request_digest(request.method, request.url.path, request.url.query, body),
                perform,
            )
            headers = {"Idempotent-Replayed": "true"} if answer.replayed else None
            return Response(answer.body, answer.status, headers, "application/json")

        return command


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


async def _actor(x_actor: Annotated[str | None, Header()] = None) -> str:
    return auth.actor("http", x_actor)


def sliced(
    items: Sequence[Item], cursors: Sequence[str], limit: int, after: str | None
) -> Page[Item]:
    """A page of a list that is at hand; each item has the cursor that the next page begins after.

    Raises:
        InvalidRequest: No item has this cursor.
    """
    if after is not None and after not in cursors:
        raise errors.InvalidRequest(
            f"after={after!r} is not a cursor of this list",
            field="after",
            reason="take it from `next` of the page before",
        )
    start = 0 if after is None else cursors.index(after) + 1
    end = start + limit
    following = cursors[end - 1] if end < len(items) else None
    return Page(items=list(items[start:end]), next=following)


def shown(step: Step) -> Checkpoint:
    """The step as clients see it."""
    return Checkpoint(
        id=step.checkpoint_id,
        thread_id=step.thread_id,
        step=step.step,
        source=step.source,
        nodes=list(step.nodes),
        next_nodes=list(step.next_nodes),
        duration_ms=step.duration_ms,
        manifest=step.manifest,
        environment=step.environment,
        created_at=step.created_at,
    )


Here = Annotated[Context, Depends(_context)]
Actor = Annotated[str, Depends(_actor)]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Most items of the page.")]
After = Annotated[str | None, Query(description="`next` of the page before.")]
