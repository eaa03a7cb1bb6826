"""Integrity checks and repairs: their requests, and the part of both benches that sends them."""

import abc
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from wtb_ray.control import Operation
from wtb_ray.integrity.reports import IntegrityRepairs, IntegrityReport, IntegrityRequest
from wtb_ray.sdk import calls
from wtb_ray.sdk.calls import Call, get
from wtb_ray.sdk.flows import Flow, ask, made
from wtb_ray.sdk.steering import operated
from wtb_ray.sdk.steering_calls import operating

Answer = TypeVar("Answer")
PATH: Final = "/integrity"


def _page(report: str | None, after: str | None) -> Call[IntegrityReport]:
    return get(PATH, IntegrityReport, report=report, after=after, limit=calls.MOST)


def report(id: str | None) -> Flow[IntegrityReport]:
    """A whole report; the newest, unless one is named."""
    first = yield from ask(_page(id, None))
    return (yield from _whole(first))


def _whole(part: IntegrityReport) -> Flow[IntegrityReport]:
    items, following = list(part.items), part.next
    while following is not None:
        more = yield from ask(_page(part.id, following))
        items, following = [*items, *more.items], more.next
    return part.model_copy(update={"items": items, "next": None})


def _asked(kind: type[Answer], **request: Any) -> Flow[Answer]:
    call: Call[Answer | Operation] = operating(
        "POST", PATH, made(IntegrityRequest, **request), kind
    )
    return operated(call, kind)


def check(deep: bool, only: Iterable[str]) -> Flow[IntegrityReport]:
    """A whole new report."""
    first = yield from _asked(IntegrityReport, action="check", deep=deep, only=list(only))
    return (yield from _whole(first))


def repair(findings: Iterable[str] | None, dry_run: bool) -> Flow[IntegrityRepairs]:
    """What became of the findings of the newest report."""
    ids = None if findings is None else list(findings)
    return _asked(IntegrityRepairs, action="repair", findings=ids, dry_run=dry_run)


class Integrity(abc.ABC):
    """What holds the bench together: a part of `WTBTestBench`."""

    @abc.abstractmethod
    def flow(self, flow: Flow[Answer]) -> Answer:
        """The result of several calls and of the pauses between them."""

    def check_integrity(self, deep: bool = False, only: Iterable[str] = ()) -> IntegrityReport:
        """Hold rows, checkpoints, files, processes and workspaces against each other, now.

        Args:
            deep: Also read every object, and compare it with its digest.
            only: Only these kinds or problems, as `missing_blob` or `cell_mismatch`.

        Raises:
            InvalidRequest: There is no such kind or problem.
        """
        return self.flow(check(deep, only))

    def get_integrity(self, report_id: str | None = None) -> IntegrityReport:
        """The newest report, or the one with this id, with all of its findings.

        Raises:
            NotFound: No check has ended yet.
        """
        return self.flow(report(report_id))

    def repair_integrity(
        self, findings: Iterable[str] | None = None, dry_run: bool = True
    ) -> IntegrityRepairs:
        """Repair what the newest report has, or say what would be done.

        Args:
            findings: Ids of findings; unset: all.
            dry_run: Change nothing.

        Raises:
            NotFound: No check has ended yet.
            InvalidRequest: The newest report has no such finding.
        """
        return self.flow(repair(findings, dry_run))


class AsyncIntegrity(abc.ABC):
    """What holds the bench together: a part of `AsyncTestBench`."""

    @abc.abstractmethod
    async def flow(self, flow: Flow[Answer]) -> Answer:
        """The result of several calls and of the pauses between them."""

    async def check_integrity(
        self, deep: bool = False, only: Iterable[str] = ()
    ) -> IntegrityReport:
        """Hold everything against each other; see `WTBTestBench.check_integrity`."""
        return await self.flow(check(deep, only))

    async def get_integrity(self, report_id: str | None = None) -> IntegrityReport:
        """A report with all of its findings; see `WTBTestBench.get_integrity`."""
        return await self.flow(report(report_id))

    async def repair_integrity(
        self, findings: Iterable[str] | None = None, dry_run: bool = True
    ) -> IntegrityRepairs:
        """Repair what the newest report has; see `WTBTestBench.repair_integrity`."""
        return await self.flow(repair(findings, dry_run))
