"""`/audit`: who did what, read from the event log, and whether the log is as it was sealed."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse

from wtb_ray import errors, timeline
from wtb_ray.api import AuditReport, AuditSummary, Page, TimelineEntry
from wtb_ray.audit.keys import read_keys
from wtb_ray.audit.objects import SealObjects
from wtb_ray.audit.verifying import Anchor, Verifier
from wtb_ray.events import Cursor, EventRow
from wtb_ray.serve.context import Context
from wtb_ray.serve.http_events import types_of
from wtb_ray.serve.http_requests import MAX_PAGE, After, Here, Limit
from wtb_ray.store.audit import Filter

router = APIRouter(tags=["audit"])

MOST_SEALS = 1000
_ANCHOR = re.compile(r"([1-9][0-9]{0,17}):([0-9a-f]{64})")


async def _filter(
    execution: str | None = None,
    batch: str | None = None,
    project: str | None = None,
    actor: Annotated[
        str | None, Query(description="Who; `http:*` for all that begin with `http:`.")
    ] = None,
    type: Annotated[
        list[str] | None, Query(description="Event types; several, or separated by commas.")
    ] = None,
    since: Annotated[datetime | None, Query(description="From this time on.")] = None,
    until: Annotated[datetime | None, Query(description="Before this time.")] = None,
) -> Filter:
    types = types_of(type)
    return Filter(
        execution_id=execution,
        batch_id=batch,
        project=project,
        actor=actor,
        types=tuple(sorted(types)) if types else None,
        since=_utc(since),
        until=_utc(until),
    )


def _utc(at: datetime | None) -> datetime | None:
    """A time without a zone is meant as UTC, as all times of the bench."""
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


Wanted = Annotated[Filter, Depends(_filter)]


@router.get("/audit/events")
async def list_audit_events(
    here: Here,
    wanted: Wanted,
    limit: Limit = 50,
    after: After = None,
    newest_first: bool = False,
    format: Annotated[
        Literal["json", "jsonl"], Query(description="`jsonl`: all of them, one a line.")
    ] = "json",
) -> Page[EventRow]:
    """The event log, filtered, in its order or against it."""
    start = None if after is None else Cursor.parse(after)
    if format == "jsonl":
        lines = _json_lines(here, wanted, start, newest_first)
        return StreamingResponse(lines, media_type="application/jsonl")  # type: ignore[return-value]
    return await here.store.audit.events(wanted, limit, start, newest_first=newest_first)


async def _json_lines(
    here: Context, wanted: Filter, after: Cursor | None, newest_first: bool
) -> AsyncIterator[bytes]:
    async for page in _pages(here, wanted, after, newest_first):
        yield "".join(f"{row.model_dump_json()}\n" for row in page.items).encode()


async def _pages(
    here: Context, wanted: Filter, after: Cursor | None, newest_first: bool = False
) -> AsyncIterator[Page[EventRow]]:
    while True:
        page = await here.store.audit.events(wanted, MAX_PAGE, after, newest_first=newest_first)
        yield page
        if page.next is None:
            return
        after = Cursor.parse(page.next)


@router.get("/audit/summary")
async def get_audit_summary(here: Here, wanted: Wanted) -> AuditSummary:
    """Events counted by type and by actor, first and last, and what failed."""
    return await here.store.audit.summary(wanted)


@router.get("/audit/timeline/batch/{batch_id}")
async def get_batch_timeline(
    batch_id: str,
    here: Here,
    limit: Limit = 50,
    after: After = None,
    steps: Annotated[bool, Query(description="The steps of all executions too.")] = False,
    format: Literal["json", "text"] = "json",
) -> Page[TimelineEntry]:
    """What happened in a batch, with the time between; as text, all of it."""
    await here.store.batches.get(batch_id)
    wanted = Filter(batch_id=batch_id, without=() if steps else timeline.STEP_TYPES)
    return await _timeline(here, wanted, limit, after, format)


@router.get("/audit/timeline/{execution_id}")
@router.get("/executions/{execution_id}/audit", name="get_execution_audit")
async def get_execution_timeline(
    execution_id: str,
    here: Here,
    limit: Limit = 50,
    after: After = None,
    format: Literal["json", "text"] = "json",
) -> Page[TimelineEntry]:
    """What happened to an execution, with the time between; as text, all of it."""
    await here.store.executions.get(execution_id)
    return await _timeline(here, Filter(execution_id=execution_id), limit, after, format)


async def _timeline(
    here: Context, wanted: Filter, limit: int, after: str | None, format: str
) -> Page[TimelineEntry]:
    start = None if after is None else Cursor.parse(after)
    if format == "text":
        return StreamingResponse(  # type: ignore[return-value]
            _text_lines(here, wanted, start), media_type="text/plain; charset=utf-8"
        )
    began, before = await _times(here, wanted, start)
    page = await here.store.audit.events(wanted, limit, start)
    return Page(items=list(timeline.entries(page.items, began, before)), next=page.next)


async def _times(
    here: Context, wanted: Filter, after: Cursor | None
) -> tuple[datetime | None, datetime | None]:
    """When the story began, and when the event at the cursor was."""
    if after is None:
        return None, None
    first = await here.store.audit.events(wanted, 1)
    behind = Cursor(xid=after.xid, seq=after.seq + 1)
    last = await here.store.audit.events(wanted, 1, behind, newest_first=True)
    return (
        first.items[0].at if first.items else None,
        last.items[0].at if last.items else None,
    )


async def _text_lines(here: Context, wanted: Filter, after: Cursor | None) -> AsyncIterator[bytes]:
    start, before = await _times(here, wanted, after)
    of_batch = wanted.batch_id is not None
    async for page in _pages(here, wanted, after):
        if not page.items:
            continue
        start = start or page.items[0].at
        entries = timeline.entries(page.items, start, before)
        lines = [timeline.line(entry, with_execution=of_batch) for entry in entries]
        before = page.items[-1].at
        yield "".join(f"{line}\n" for line in lines).encode()


@router.get("/audit/verify")
async def verify_audit(
    here: Here,
    first: Annotated[
        int, Query(alias="from", ge=1, lt=1 << 62, description="The seal to begin at.")
    ] = 1,
    limit: Annotated[int, Query(ge=1, le=MOST_SEALS, description="Most seals to look at.")] = 200,
    head: Annotated[
        str | None,
        Query(description="A `head` that was kept elsewhere: it must still be part of the chain."),
    ] = None,
) -> AuditReport:
    """Whether events and seals are as they were sealed. Go on at `next` until it is null.

    Beginning behind 1 relies on the seals before having been checked.
    """
    anchor = None if head is None else _anchor(head)
    async with SealObjects(here.settings.objects()) as objects:
        verifier = Verifier(here.store.audit, objects, read_keys(here.settings))
        return await verifier.verify(first, limit, anchor)


def _anchor(text: str) -> Anchor:
    match = _ANCHOR.fullmatch(text)
    if match is None:
        raise errors.InvalidRequest(
            f"head={text!r} is not the head of a report",
            field="head",
            reason="form is <number>:<64 hex digits>",
        )
    return Anchor(int(match[1]), match[2])
