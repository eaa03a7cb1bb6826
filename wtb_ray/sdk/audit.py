"""What the audit log is asked for, and reports of several parts put together; for both benches."""

import abc
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Final, TypedDict, TypeVar, Unpack
from urllib.parse import quote

from pydantic import TypeAdapter

from wtb_ray import api, errors
from wtb_ray.events import EventRow
from wtb_ray.sdk import calls, flows
from wtb_ray.sdk.calls import Call
from wtb_ray.sdk.flows import Flow, ask

Answer = TypeVar("Answer")

MOST_PROBLEMS: Final = 100
TIMEOUT_S: Final = 120.0
"""Sums and checks read much of the log."""

OnPart = Callable[[api.AuditReport], None]
"""Called with what was found so far."""


class AuditFilter(TypedDict, total=False):
    """Which events; what is not given does not matter."""

    execution: str
    batch: str
    project: str
    actor: str
    """Who; `http:*` for all that begin with `http:`."""
    types: Sequence[str]
    since: datetime
    until: datetime


def params(given: AuditFilter) -> dict[str, Any]:
    """The filter as parameters of a request."""
    named: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    types = named.pop("types", ())
    for name in ("since", "until"):
        if name in named:
            named[name] = named[name].isoformat()
    return {**named, **({"type": ",".join(types)} if types else {})}


def _get(path: str, kind: type[Answer], **given: Any) -> Call[Answer]:
    adapter = _adapter(kind)
    return Call(
        "GET",
        f"/audit/{path}",
        lambda response: adapter.validate_json(response.content, extra="ignore"),
        params={name: value for name, value in given.items() if value is not None},
        timeout_s=TIMEOUT_S,
    )


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def summary(given: AuditFilter) -> Call[api.AuditSummary]:
    """Events counted by type and by actor."""
    return _get("summary", api.AuditSummary, **params(given))


def timeline(
    execution: str | None, batch: str | None, steps: bool
) -> Flow[list[api.TimelineEntry]]:
    """The whole story of one of the two."""
    if (execution is None) == (batch is None):
        raise errors.InvalidRequest(
            "a timeline is of an execution or of a batch", field="execution", reason="one of two"
        )
    path = quote(execution, safe="") if execution else f"batch/{quote(batch or '', safe='')}"
    more = {"steps": "true"} if batch and steps else {}
    kind = api.Page[api.TimelineEntry]
    return flows.listed(
        lambda after, limit: _get(f"timeline/{path}", kind, after=after, limit=limit, **more)
    )


def pages(
    given: AuditFilter, newest_first: bool, limit: int | None
) -> Generator[Call[api.Page[EventRow]], api.Page[EventRow], None]:
    """The calls for the pages of a listing, one after the other; each is sent the page it got."""
    wanted, after, left = params(given), None, limit
    if newest_first:
        wanted["newest_first"] = "true"
    while left is None or left > 0:
        room = calls.PAGE if left is None else min(calls.PAGE, left)
        kind = api.Page[EventRow]
        page = yield _get("events", kind, after=after, limit=room, **wanted)
        after = page.next
        left = None if left is None else left - len(page.items)
        if after is None:
            return


def verified(first: int, head: str | None, on_part: OnPart | None = None) -> Flow[api.AuditReport]:
    """The report on all seals from `first` on."""
    whole: api.AuditReport | None = None
    start: int | None = first
    while start is not None:
        part = yield from ask(_get("verify", api.AuditReport, head=head, **{"from": start}))
        whole = part if whole is None else _joined(whole, part)
        start = part.next
        if on_part is not None:
            on_part(whole)
    if whole is None:
        raise AssertionError("there is at least one part")
    return whole


def _joined(whole: api.AuditReport, part: api.AuditReport) -> api.AuditReport:
    """Both together; the seal before a part was already reported on by the one before."""
    told = [p for p in part.problems if p.seal == part.first - 1]
    new = [p for p in part.problems if p not in told]
    count = whole.problem_count + part.problem_count - len(told)
    return part.model_copy(
        update={
            "first": whole.first,
            "seals": whole.seals + part.seals,
            "events": whole.events + part.events,
            "intact": count == 0,
            "problem_count": count,
            "problems": [*whole.problems, *new][:MOST_PROBLEMS],
            "head": part.head or whole.head,
        }
    )


class Auditing(abc.ABC):
    """A part of `WTBTestBench`."""

    @abc.abstractmethod
    def send(self, call: Call[Answer]) -> Answer:
        """The answer to one call."""

    @abc.abstractmethod
    def flow(self, flow: Flow[Answer]) -> Answer:
        """The result of several calls and of the pauses between them."""

    def audit_events(
        self,
        newest_first: bool = False,
        limit: int | None = None,
        **wanted: Unpack[AuditFilter],
    ) -> Generator[EventRow, None, None]:
        """The event log by who, what and when.

        Args:
            newest_first: Against the order of the log.
            limit: At most so many.
            wanted: `execution`, `batch`, `project`, `actor` (`http:*` for all that begin so),
                `types`, `since`, `until`.
        """
        calls_of = pages(wanted, newest_first, limit)
        try:
            call = next(calls_of)
            while True:
                page = self.send(call)
                yield from page.items
                call = calls_of.send(page)
        except StopIteration:
            return

    def audit_summary(self, **wanted: Unpack[AuditFilter]) -> api.AuditSummary:
        """Events counted by type, by actor and by failure; filters as of `audit_events`."""
        return self.send(summary(wanted))

    def audit_timeline(
        self, execution: str | None = None, batch: str | None = None, steps: bool = False
    ) -> list[api.TimelineEntry]:
        """What happened in an execution, or in a batch, with the time between.

        `steps` shows the steps of a batch's executions too.
        """
        return self.flow(timeline(execution, batch, steps))

    def verify_audit(
        self, first: int = 1, head: str | None = None, progress: OnPart | None = None
    ) -> api.AuditReport:
        """Whether the event log is as it was sealed, and what was changed if it is not.

        Args:
            first: The seal to begin at; those before were checked earlier.
            head: The `.head` of an earlier report: it must still be part of the chain.
            progress: Called with what was found so far, every now and then.
        """
        return self.flow(verified(first, head, progress))


class AsyncAuditing(abc.ABC):
    """A part of `AsyncTestBench`."""

    @abc.abstractmethod
    async def send(self, call: Call[Answer]) -> Answer:
        """The answer to one call."""

    @abc.abstractmethod
    async def flow(self, flow: Flow[Answer]) -> Answer:
        """The result of several calls and of the pauses between them."""

    async def audit_events(
        self,
        newest_first: bool = False,
        limit: int | None = None,
        **wanted: Unpack[AuditFilter],
    ) -> AsyncGenerator[EventRow, None]:
        """The event log by who, what and when; see `WTBTestBench.audit_events`."""
        calls_of = pages(wanted, newest_first, limit)
        try:
            call = next(calls_of)
            while True:
                page = await self.send(call)
                for row in page.items:
                    yield row
                call = calls_of.send(page)
        except StopIteration:
            return

    async def audit_summary(self, **wanted: Unpack[AuditFilter]) -> api.AuditSummary:
        """Events counted by type, by actor and by failure; filters as of `audit_events`."""
        return await self.send(summary(wanted))

    async def audit_timeline(
        self, execution: str | None = None, batch: str | None = None, steps: bool = False
    ) -> list[api.TimelineEntry]:
        """What happened in an execution, or in a batch, with the time between.

        `steps` shows the steps of a batch's executions too.
        """
        return await self.flow(timeline(execution, batch, steps))

    async def verify_audit(
        self, first: int = 1, head: str | None = None, progress: OnPart | None = None
    ) -> api.AuditReport:
        """Whether the event log is as it was sealed; see `WTBTestBench.verify_audit`."""
        return await self.flow(verified(first, head, progress))
