"""Reports of checks and of repairs, as they are stored and sent.

A finding is one problem of the catalogue at one place; the same damage has the same id in every
report.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import Field

from wtb_ray import errors
from wtb_ray.api import Page
from wtb_ray.integrity.findings import CATALOGUE, KINDS, Kind, Severity
from wtb_ray.model import Frozen, digest

Outcome = Literal["repaired", "would_repair", "gone", "left", "manual", "failed"]

MOST_ASKED: Final = 10_000


class Finding(Frozen):
    """One problem at one place."""

    id: str
    """The same for the same damage in every report."""
    kind: Kind
    problem: str
    severity: Severity
    ids: dict[str, str]
    """What it concerns: `execution_id`, `thread_id`, `digest`, ..."""
    message: str
    repair: str | None
    """What a repair would do; null: a person is needed."""
    advice: str | None = None
    """What a person can do."""
    outcome: Outcome | None = None
    """What became of its repair."""


class IntegrityReport(Page[Finding]):
    """Answer of `GET integrity`: what one check found, a page of findings at a time."""

    id: str
    started_at: datetime
    ended_at: datetime
    deep: bool
    """Whether all objects were read and compared with their digests."""
    only: list[str]
    """The kinds or problems that were looked for; empty: all."""
    healthy: bool
    """Nothing critical was found."""
    findings: int
    kinds: dict[str, int]
    """Findings by kind."""
    severities: dict[str, int]
    """Findings by severity."""
    truncated: list[str]
    """Problems of which there may be more than the report has."""


class IntegrityRequest(Frozen):
    """Body of `POST integrity`."""

    action: Literal["check", "repair"] = "check"
    deep: bool = False
    """Check: also read every object, and compare it with its digest."""
    only: list[str] = Field(default_factory=list, max_length=len(CATALOGUE))
    """Check: these kinds or problems; empty: all."""
    findings: list[str] | None = Field(default=None, max_length=MOST_ASKED)
    """Repair: ids of findings of the newest report; null: all of them."""
    dry_run: bool = True
    """Repair: only say what would be done."""


class Repair(Frozen):
    """What became of the repair of one finding."""

    finding: str
    problem: str
    severity: Severity
    ids: dict[str, str]
    outcome: Outcome
    """`gone`: it is not there any more; `left`: it may not be touched yet."""
    message: str


class IntegrityRepairs(Frozen):
    """What a repair did, or would do."""

    report_id: str
    dry_run: bool
    counts: dict[str, int]
    """Repairs by outcome."""
    repairs: list[Repair]


def finding_id(problem: str, ids: dict[str, str]) -> str:
    """The id of this problem at this place."""
    return f"f{digest([problem, ids])[:16]}"


def found(problem: str, values: Mapping[str, Any], *, able: bool) -> Finding:
    """The finding of a problem with the values of its ids and of its words."""
    entry = CATALOGUE[problem]
    ids = {name: str(values[name]) for name in entry.ids}
    repair = entry.repair if able else None
    return Finding(
        id=finding_id(problem, ids),
        kind=entry.kind,
        problem=problem,
        severity=entry.severity,
        ids=ids,
        message=entry.says.format_map(values),
        repair=repair,
        advice=None if repair else entry.advice or None,
    )


def wanted(only: list[str]) -> frozenset[str]:
    """The problems of these kinds and names; of all, when none is given.

    Raises:
        InvalidRequest: One is neither a kind nor a problem.
    """
    for name in only:
        if name not in KINDS and name not in CATALOGUE:
            raise errors.InvalidRequest(
                f"there is no kind or problem {name!r}: kinds are {', '.join(KINDS)}",
                field="only",
                reason="unknown",
            )
    return frozenset(
        name for name, entry in CATALOGUE.items() if not only or name in only or entry.kind in only
    )
