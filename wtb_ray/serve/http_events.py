"""`/events`: the event log as server-sent events, resumable behind any of them."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from wtb_ray import errors
from wtb_ray.events import TYPES, Cursor
from wtb_ray.serve.context import Context
from wtb_ray.serve.http_requests import Here
from wtb_ray.serve.stream import Wanted, sse

router = APIRouter(tags=["events"])

RECONNECT = b"retry: 1000\n\n"
NOW = "now"


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def stream_events(
    here: Here,
    after: Annotated[
        str | None, Query(description="A cursor, or `now`; absent: from the first event.")
    ] = None,
    execution: str | None = None,
    batch: str | None = None,
    type: Annotated[
        list[str] | None, Query(description="Event types; several, or separated by commas.")
    ] = None,
    follow: Annotated[bool, Query(description="Stay open for what comes.")] = True,
    last_event_id: Annotated[str | None, Header()] = None,
) -> StreamingResponse:
    """Events in the order of the log: `id` is the cursor, `event` the type, `data` the event.

    `Last-Event-ID`, which a browser sends when it reconnects, goes before `after`. An `id` without
    data moves the cursor on over events that were not asked for.
    """
    wanted = Wanted(execution, batch, types_of(type))
    start = await cursor_of(here, last_event_id or after)
    if execution is not None:
        await here.store.executions.get(execution)
    if batch is not None:
        await here.store.batches.get(batch)
    return StreamingResponse(
        _lines(here, start, wanted, follow),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _lines(
    here: Context, start: Cursor, wanted: Wanted, follow: bool
) -> AsyncIterator[bytes]:
    yield RECONNECT
    read = here.feed.follow if follow else here.feed.history
    async with aclosing(read(start, wanted)) as parts:
        async for part in parts:
            yield sse(part)


async def cursor_of(here: Context, after: str | None) -> Cursor:
    """Where a stream starts.

    Raises:
        InvalidRequest: The text is no cursor.
    """
    if not after:
        return Cursor.START
    return await here.store.events.latest() if after == NOW else Cursor.parse(after)


def types_of(given: list[str] | None) -> frozenset[str] | None:
    """The event types asked for; None for all.

    Raises:
        InvalidRequest: There is no such type.
    """
    names = frozenset(name for text in given or () for name in text.split(",") if name)
    for name in names - TYPES.keys():
        raise errors.InvalidRequest(
            f"there is no event type {name!r}", field="type", reason=f"one of {sorted(TYPES)}"
        )
    return names or None
