"""How checks are made: bounded walks along keys, and a second look at whatever seems wrong.

A check looks at the rows of a span of keys and says what seems wrong there. What transactions write
together is read by one statement, and so never in part. What is in flight elsewhere, in processes
or objects, is looked at again after a pause: only what is still so, under the same mark, is found.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString, NamedTuple, Protocol

from psycopg import sql
from psycopg.rows import DictRow

from wtb_ray.db import Connection, Database
from wtb_ray.integrity.findings import CATALOGUE
from wtb_ray.integrity.reports import Finding, finding_id, found
from wtb_ray.objects import ObjectStore
from wtb_ray.settings import Settings
from wtb_ray.store.idempotency import ABANDONED_S
from wtb_ray.store.operations import LOST_S

log = logging.getLogger(__name__)

ROWS_AT_ONCE: Final = 2000
MOST: Final = 1000
"""Findings of one problem in one report; there may be more."""
PAUSE_S: Final = 1.0
"""Before a second look."""
OVERDUE: Final = 10
"""Lengths of a lease after which nobody need be asked whether its process is dead."""
PENDING_S: Final = 900.0
"""An execution that has waited for this long should have been served, or its pool be busy."""
SCORING_S: Final = 3600.0
IDLE_S: Final = 60.0
"""How long the scheduler may take to close a batch."""
MOST_SEEN: Final = 200_000


class Span(NamedTuple):
    """A range of keys, both ends included."""

    first: Any
    last: Any


class Walk(NamedTuple):
    """A way along all keys of a table."""

    table: str
    column: str
    start: Any = ""
    """Less than every key."""


class Suspicion(NamedTuple):
    """What seems wrong at one look."""

    problem: str
    key: Any
    """Where the walk comes by it."""
    values: Mapping[str, Any]
    """Its ids and words."""
    able: bool = True
    """Whether its repair can be done."""
    mark: str = ""

    @property
    def id(self) -> str:
        return finding_id(
            self.problem, {name: str(self.values[name]) for name in CATALOGUE[self.problem].ids}
        )


class Processes(Protocol):
    """What is known of runner processes, whoever makes them."""

    async def listed(self) -> list[str]:
        """The ids of the runner processes that there are."""
        ...

    async def kill(self, runner_id: str) -> None:
        """Ends the process at once. Killing what is dead does nothing."""
        ...

    async def host(self) -> str:
        """The id of the host that this runs on, under which its environments are kept."""
        ...


RepairObject = Callable[[str], Awaitable[bool]]
"""Brings an object back from another copy, by its digest; whether there was one."""


class Seen:
    """Digests found sound in this check, the newest of them."""

    def __init__(self, most: int = MOST_SEEN):
        self._most = most
        self._digests: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, digest: str) -> bool:
        return digest in self._digests

    def add(self, digest: str) -> None:
        self._digests[digest] = None
        if len(self._digests) > self._most:
            self._digests.popitem(last=False)


@dataclass
class Here:
    """What one check works with."""

    db: Database
    objects: ObjectStore
    settings: Settings
    processes: Processes | None = None
    """None: nothing is said about processes."""
    repair_object: RepairObject | None = None
    """None: there are no other copies."""
    deep: bool = False
    pause_s: float = PAUSE_S
    seen: Seen = field(default_factory=Seen)

    @property
    def overdue_s(self) -> float:
        return OVERDUE * self.settings.lease_ttl_s

    def params(self, span: Span) -> dict[str, Any]:
        """The parameters of all statements of checks."""
        return {
            **span._asdict(),
            "ttl_s": self.settings.lease_ttl_s,
            "overdue_s": self.overdue_s,
            "grace_s": self.settings.integrity_grace_s,
            "pending_s": PENDING_S,
            "scoring_s": SCORING_S,
            "idle_s": IDLE_S,
            "lost_s": LOST_S,
            "unanswered_s": 4 * ABANDONED_S,
        }


Look = Callable[[Here, Connection, Span], Awaitable[list[Suspicion]]]


@dataclass(frozen=True)
class Check:
    """A look for some problems, along a walk; without one it looks at everything at once."""

    name: str
    problems: tuple[str, ...]
    look: Look
    walk: Walk | None = None
    patient: bool = False
    """The second look is a whole lease later: whoever was held up has renewed by then."""


class Place(NamedTuple):
    """Where a finding is found again."""

    check: str
    key: Any


class Result(NamedTuple):
    """What was found, the worst first."""

    findings: list[tuple[Finding, Place]]
    truncated: list[str]


def of_rows(
    statements: Mapping[str, LiteralString],
    walk: Walk,
    *names: str,
    patient: bool = False,
) -> tuple[Check, ...]:
    """The checks of these statements; a name is that of its problem, up to a double underscore."""
    return tuple(
        Check(name, (name.partition("__")[0],), _look(name, statements[name]), walk, patient)
        for name in names
    )


def _look(name: str, statement: LiteralString) -> Look:
    problem = name.partition("__")[0]

    async def look(here: Here, conn: Connection, span: Span) -> list[Suspicion]:
        rows = await (await conn.execute(statement, here.params(span))).fetchall()
        return [suspicion(problem, row) for row in rows]

    return look


def suspicion(problem: str, row: DictRow) -> Suspicion:
    """That of a row of a check's statement."""
    return Suspicion(
        problem, row["key"], row, bool(row.get("able", True)), str(row.get("mark") or "")
    )


async def check(here: Here, checks: Iterable[Check], problems: frozenset[str]) -> Result:
    """Looks for these problems, and again at what seems wrong.

    Raises:
        Unavailable: Database or object store do not answer.
    """
    wanted = [check for check in checks if problems & set(check.problems)]
    first = _Found(problems)
    for walk in dict.fromkeys(check.walk for check in wanted):
        along = [check for check in wanted if check.walk == walk]
        if walk is None:
            await first.look(here, along, Span(None, None))
        else:
            await _walk(here, walk, along, first)
    sure = await _confirmed(here, first)
    findings = [
        (found(s.problem, s.values, able=s.able), Place(check.name, s.key)) for check, s in sure
    ]
    return Result(sorted(findings, key=lambda item: _rank(item[0])), sorted(first.truncated))


class _Found:
    """The suspicions of a first look, each once."""

    def __init__(self, problems: frozenset[str]):
        self._problems = problems
        self._counts: dict[str, int] = {}
        self.suspicions: dict[str, tuple[Check, Suspicion]] = {}
        self.truncated: set[str] = set()

    async def look(self, here: Here, checks: Iterable[Check], span: Span) -> None:
        for check in checks:
            if self._problems & set(check.problems) <= self.truncated:
                continue
            async with here.db.connection() as conn:
                looked = await check.look(here, conn, span)
            for one in looked:
                self._add(check, one)

    def _add(self, check: Check, one: Suspicion) -> None:
        if one.problem not in self._problems or one.id in self.suspicions:
            return
        count = self._counts[one.problem] = self._counts.get(one.problem, 0) + 1
        if count > MOST:
            self.truncated.add(one.problem)
        else:
            self.suspicions[one.id] = (check, one)


async def _walk(here: Here, walk: Walk, checks: list[Check], into: _Found) -> None:
    after = walk.start
    while (span := await _next(here.db, walk, after)) is not None:
        await into.look(here, checks, span)
        after = span.last


async def _next(db: Database, walk: Walk, after: Any) -> Span | None:
    """The span of the next rows; a key with more rows than that is a span of its own."""
    column, table = sql.Identifier(walk.column), sql.Identifier(walk.table)
    statement = sql.SQL(
        "SELECT min(k) AS first, max(k) AS last FROM ("
        "SELECT {c} AS k FROM {t} WHERE {c} > %(after)s ORDER BY {c} LIMIT %(size)s) part"
    ).format(c=column, t=table)
    async with db.connection() as conn:
        cursor = await conn.execute(statement, {"after": after, "size": ROWS_AT_ONCE})
        row = await cursor.fetchone()
    return None if row is None or row["first"] is None else Span(row["first"], row["last"])


async def _confirmed(here: Here, first: _Found) -> list[tuple[Check, Suspicion]]:
    """Those that are still so after a pause."""
    suspected = list(first.suspicions.values())
    if not suspected:
        return []
    patient = any(check.patient for check, _ in suspected)
    await asyncio.sleep(max(here.pause_s, here.settings.lease_ttl_s if patient else 0.0))
    looks: dict[Place, dict[str, Suspicion]] = {}
    sure = []
    for check, one in suspected:
        place = Place(check.name, one.key)
        if place not in looks:
            async with here.db.connection() as conn:
                looks[place] = await again(here, conn, check, one.key)
        second = looks[place].get(one.id)
        if second is not None and second.mark == one.mark:
            sure.append((check, second))
    return sure


async def again(here: Here, conn: Connection, check: Check, key: Any) -> dict[str, Suspicion]:
    """Another look at one key; what seems wrong there, by the ids of findings."""
    return {one.id: one for one in await check.look(here, conn, Span(key, key))}


_WORST: Final = ("critical", "warning", "info")


def _rank(finding: Finding) -> tuple[int, str, str]:
    return _WORST.index(finding.severity), finding.problem, finding.message
