"""Settlements: how owners end their claims, decided item by item, written as a group.

An item is judged against the locked row: only the owner of its epoch may settle, a stop that was
asked for meanwhile is not lost, and data that the database refuses fails its own item only.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import orjson
import psycopg
from psycopg.rows import DictRow

from wtb_ray import errors, states
from wtb_ray.db import Connection, Database
from wtb_ray.model import Fault, Parking, Score, ScorerSpec
from wtb_ray.sharing import Part
from wtb_ray.states import ExecutionStatus, PauseReason, Wanted
from wtb_ray.store import answers as answering
from wtb_ray.store import parking, restore_points, splits
from wtb_ray.store.changes import Change, apply
from wtb_ray.store.holds import still_held
from wtb_ray.store.sql import SQL
from wtb_ray.store.transactions import in_order, transact

log = logging.getLogger(__name__)

Kind = Literal["complete", "fail", "pause", "requeue", "split", "cancel"]

COMMANDS: Final[dict[Kind, str]] = {
    "complete": "complete",
    "fail": "fail",
    "pause": "pause",
    "requeue": "requeue",
    "split": "requeue",
    "cancel": "stop",
}
RESTS: Final = (ExecutionStatus.PAUSED, ExecutionStatus.PENDING)
"""Where it goes on from its restore point later."""
DRAINED: Final = "drained"
"""The reason of a requeue that lost nothing: it does not count as an attempt."""
WAITING: Final = "waiting: "
"""Beginning of the reason of one that waits for what is not there yet; it does not count either."""
ANSWERED: Final = "answered"
"""The reason of one whose questions its case has answered; it does not count either."""
REFUSED: Final = (
    psycopg.DataError,
    psycopg.IntegrityError,
    orjson.JSONEncodeError,
    UnicodeError,
)


@dataclass(frozen=True)
class Settlement:
    """The end of one claim. `latency_ms` and `node_runs` count only when no step was stored."""

    execution_id: str
    epoch: int
    owner: str
    kind: Kind
    fault: Fault | None = None
    """Why it fails; of a requeue, if it has been started too often."""
    reason: str | None = None
    interrupts: list[dict[str, Any]] = field(default_factory=list)
    answers: Mapping[str, Any] = field(default_factory=dict)
    """Of a requeue: those of its case to what it asks, by interrupt id."""
    delay_s: float = 0.0
    latency_ms: float = 0.0
    node_runs: int = 0
    usage: Mapping[str, float] = field(default_factory=dict)
    """What nodes have used in a super-step that was not stored."""
    scores: list[tuple[ScorerSpec, Score]] = field(default_factory=list)
    restore_point: bool = False
    """Whether it rests within a super-step, so that what tasks have written so far is to be kept."""
    manifest: str | None = None
    """The files of that restore point."""
    lease: str | None = None
    """Under which they are stored."""
    parts: Sequence[Part] = ()
    """Of a split: the variants that go on together."""
    parking: Parking | None = None
    """What a pause keeps of what the execution had for itself."""


def check_fence(row: DictRow | None, id: str, epoch: int, owner: str) -> DictRow:
    """The locked row, if this owner holds it under this epoch.

    Raises:
        Fenced: It does not.
    """
    if row is not None and row["epoch"] == epoch and row["owner"] == owner:
        return row
    state = None if row is None else row["status"]
    raise errors.Fenced(
        f"execution {id} is not held by {owner} under epoch {epoch} any more",
        field="epoch",
        reason="taken over" if row is not None else "unknown",
        state=state,
        epoch=None if row is None else row["epoch"],
    )


async def settle_group(
    db: Database, items: Sequence[Settlement], actor: str | None, max_attempts: int
) -> list[Exception | None]:
    """Settles all items in one transaction; refused data halves the group until it stands alone."""

    async def work(conn: Connection) -> list[Exception | None]:
        return await _settle(conn, items, actor, max_attempts)

    try:
        return await transact(db, work)
    except REFUSED as e:
        log.warning("%d settlements refused: %s", len(items), e, extra={"action": "settle_refused"})
        if len(items) == 1:
            return [_refused(items[0], e)]
    half = len(items) // 2
    answers = await settle_group(db, items[:half], actor, max_attempts)
    return answers + await settle_group(db, items[half:], actor, max_attempts)


def _refused(item: Settlement, cause: Exception) -> errors.UnstorableValue:
    error = errors.UnstorableValue(
        f"the outcome of execution {item.execution_id} cannot be stored: {cause}",
        field=item.kind,
        reason=str(cause),
    )
    error.__cause__ = cause
    return error


async def _settle(
    conn: Connection, items: Sequence[Settlement], actor: str | None, max_attempts: int
) -> list[Exception | None]:
    ids = sorted({item.execution_id for item in items})
    cursor = await conn.execute(SQL["lock_executions"], {"ids": ids})
    rows = {row["id"]: row for row in in_order(await cursor.fetchall())}
    answers: list[Exception | None] = []
    changes = []
    for item in items:
        row = rows.get(item.execution_id)
        try:
            if not _settled(row, item):
                row = check_fence(row, item.execution_id, item.epoch, item.owner)
                change = _decide(row, item, actor or item.owner, max_attempts)
                change = replace(change, usage=item.usage)
                if item.restore_point and change.status in RESTS:
                    await _check_lease(conn, item)
                changes.append(change)
                if item.restore_point and change.status in RESTS:
                    reason = item.reason or change.command
                    await restore_points.take(conn, row, change.actor, reason, item.manifest)
                if item.answers and change.status in RESTS:
                    await answering.take(conn, row, item.answers, change.actor, prepared=True)
                if item.parts and change.status == ExecutionStatus.PENDING:
                    await splits.split(conn, row, item.parts, change.actor)
                rows[item.execution_id] = {
                    **row,
                    "status": change.status,
                    "owner": None,
                    "epoch": row["epoch"] + change.epoch,
                }
            answers.append(None)
        except errors.Fenced as e:
            answers.append(e)
    await apply(conn, changes)
    parked = {item.execution_id: item.parking for item in items if item.parking is not None}
    for change in changes:
        if change.status == ExecutionStatus.PAUSED and change.row["id"] in parked:
            await parking.report(conn, change.row, parked[change.row["id"]], change.actor)
    return answers


async def _check_lease(conn: Connection, item: Settlement) -> None:
    """Its execution is given back then, and goes on from the restore point before."""
    try:
        await still_held(conn, item.lease)
    except errors.Unavailable as e:
        raise errors.Fenced(
            f"the files of {item.execution_id} took so long that some may be gone again",
            reason="lease",
        ) from e


def _settled(row: DictRow | None, item: Settlement) -> bool:
    """Whether this very settlement is in the row already: its answer was lost, not it."""
    if row is None:
        return False
    epoch = item.epoch + (item.kind == "cancel")
    status: ExecutionStatus = states.EXECUTION[COMMANDS[item.kind]][1]
    return bool(row["status"] == status and row["epoch"] == epoch)


def _decide(row: DictRow, item: Settlement, actor: str, max_attempts: int) -> Change:
    match item.kind:
        case "complete":
            return Change(
                row,
                "complete",
                actor,
                latency_ms=item.latency_ms,
                node_runs=item.node_runs,
                scores=item.scores,
            )
        case "fail":
            fault = item.fault or Fault(
                code=errors.WTBError.code, type="WTBError", message=item.reason or "no reason given"
            )
            return _fail(row, item, actor, fault)
        case "cancel":
            return _cancel(row, actor, item.reason)
        case _ if row["wanted"] == Wanted.STOP:
            return _cancel(row, actor, row["reason"])
        case "pause":
            return Change(
                row, "pause", actor, reason=item.reason, interrupts=item.interrupts, attempt=-1
            )
        case "requeue" | "split" if row["wanted"] == Wanted.PAUSE:
            return Change(row, "pause", actor, reason=str(PauseReason.REQUESTED), attempt=-1)
        case "requeue":
            return _requeue(row, item, actor, max_attempts)
        case "split":
            return Change(row, "requeue", actor, reason=splits.REASON, attempt=-1)


def _fail(row: DictRow, item: Settlement, actor: str, fault: Fault) -> Change:
    return Change(
        row,
        "fail",
        actor,
        reason=item.reason,
        fault=fault,
        latency_ms=item.latency_ms,
        node_runs=item.node_runs,
    )


def _cancel(row: DictRow, actor: str, reason: str | None) -> Change:
    """The epoch moves: a node that would not end may still be there."""
    return Change(row, "stop", actor, reason=reason or row["reason"], epoch=1)


def _requeue(row: DictRow, item: Settlement, actor: str, max_attempts: int) -> Change:
    reason = item.reason or "requeued"
    if item.answers or reason == DRAINED or reason.startswith(WAITING):
        return Change(row, "requeue", actor, reason=reason, delay_s=item.delay_s, attempt=-1)
    if row["attempt"] >= max_attempts:
        message = f"started {row['attempt']} times, given back the last time: {reason}"
        fault = Fault(code="infrastructure", type="Infrastructure", message=message)
        return _fail(row, item, actor, item.fault or fault)
    return Change(row, "requeue", actor, reason=reason, delay_s=item.delay_s)
