"""Reports as they are stored, made of what a check found and read back a page at a time."""

from collections import Counter
from datetime import datetime

from wtb_ray.integrity.checking import Result
from wtb_ray.integrity.reports import Finding, IntegrityReport
from wtb_ray.store import Store
from wtb_ray.store.integrity import NewFinding, NewReport


async def report(
    store: Store, id: str | None, limit: int, after: str | None = None
) -> IntegrityReport:
    """A report with a page of its findings; the newest, unless one is named.

    Raises:
        NotFound: There is none.
    """
    row = await store.integrity.report(id)
    rows, following = await store.integrity.findings(row["id"], limit, after)
    items = [Finding(**{**one["body"], "outcome": one["outcome"]}) for one in rows]
    only = row.pop("only_of")
    return IntegrityReport(**row, only=only, items=items, next=following)


def new_report(id: str, started: datetime, deep: bool, only: list[str], found: Result) -> NewReport:
    """The report of what a check found; the check ends when it is stored."""
    findings = [finding for finding, _ in found.findings]
    severities = Counter(finding.severity for finding in findings)
    return NewReport(
        id=id,
        started_at=started,
        deep=deep,
        only=only,
        healthy=not severities["critical"],
        kinds=dict(Counter(finding.kind for finding in findings)),
        severities={name: count for name, count in severities.items() if count},
        truncated=found.truncated,
        findings=[
            NewFinding(finding.id, finding.problem, list(place), finding.model_dump_json())
            for finding, place in found.findings
        ],
    )
