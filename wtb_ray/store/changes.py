"""Status changes of many executions at once: rows, their cells, scores and events.

Whoever decides a change holds the lock of the execution's row and has checked its status. The
number of statements does not depend on the number of changes. Cells follow their execution, so
that holding its lock is enough to change them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from psycopg.rows import DictRow

from wtb_ray import errors, events, states
from wtb_ray.db import Connection
from wtb_ray.model import Fault, Score, ScorerSpec, canonical
from wtb_ray.states import CellStatus, ExecutionStatus
from wtb_ray.store import costs
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.sql import SQL

CELL_COMMANDS: Final = {
    ExecutionStatus.COMPLETED: ("score", "done"),
    ExecutionStatus.FAILED: ("fail",),
    ExecutionStatus.CANCELLED: ("cancel",),
}
"""What the end of an execution means for its cells; a fast scorer's cell passes SCORING within."""


TABLES: Final[dict[str, Any]] = {
    "execution": states.EXECUTION,
    "batch": states.BATCH,
    "runner": states.RUNNER,
}


@dataclass(frozen=True)
class Change:
    """The next status of one execution, decided while its row is locked."""

    row: DictRow
    command: str
    actor: str
    reason: str | None = None
    fault: Fault | None = None
    interrupts: Sequence[dict[str, Any]] = ()
    delay_s: float = 0.0
    latency_ms: float = 0.0
    node_runs: int = 0
    usage: Mapping[str, float] = field(default_factory=dict)
    """What nodes have used in a step that will not be stored."""
    epoch: int = 0
    """What is added to the epoch, to fence a writer that may still be there."""
    attempt: int = 0
    """What is added to the attempts: -1 gives back a start that was not lost."""
    suspect: int = 0
    scores: Sequence[tuple[ScorerSpec, Score]] = field(default=())

    @property
    def status(self) -> ExecutionStatus:
        return states.EXECUTION[self.command][1]


def legal(row: DictRow, kind: str, command: str) -> None:
    """Checks a command against the status found in a locked row.

    Raises:
        InvalidTransition: It does not apply; the state found is named.
    """
    sources = sorted(TABLES[kind][command][0])
    if row["status"] not in sources:
        raise errors.InvalidTransition(
            f"{kind} {row['id']} is {row['status']}: {command} needs {' or '.join(sources)}",
            field="status",
            reason=f"{command} does not apply",
            state=row["status"],
            command=command,
            allowed=[str(s) for s in sources],
        )


async def apply(conn: Connection, changes: Sequence[Change]) -> None:
    """Makes the changes, in their order in the log; an execution may be in them once."""
    if not changes:
        return
    measured = {row["id"]: row for row in await _change_executions(conn, changes)}
    cells: dict[str, list[DictRow]] = {}
    for cell in await _end_cells(conn, changes, measured):
        cells.setdefault(cell["execution_id"], []).append(cell)
    await _insert_scores(conn, changes, cells)
    entries: list[Entry] = []
    for change in changes:
        entries += _entries(change, measured[change.row["id"]], cells.get(change.row["id"], ()))
    await append_many(conn, entries)


async def change_batch(
    conn: Connection, row: DictRow, command: str, event: events.Event, actor: str
) -> None:
    """Changes a batch whose locked row was checked, and says so in the log."""
    params = {
        "id": row["id"],
        "status": str(states.BATCH[command][1]),
        "reason": getattr(event, "reason", None),
        "terminal": [str(s) for s in states.TERMINAL_BATCH],
    }
    await conn.execute(SQL["change_batch"], params)
    await append_many(conn, [Entry(actor, event, row["project"], None, row["id"])])


async def cancel_pending_cells(conn: Connection, batch_id: str) -> None:
    """Cancels the cells of a batch that have no execution yet; the batch is locked."""
    params = {"batch_id": batch_id, "status": str(states.CELL["cancel"][1])}
    await conn.execute(SQL["cancel_pending_cells"], params)


async def _change_executions(conn: Connection, changes: Sequence[Change]) -> list[DictRow]:
    measured = await costs.measure(conn, {c.row["id"]: c.usage for c in changes})
    found = [measured[c.row["id"]] for c in changes]
    await costs.spend(conn, found)
    cursor = await conn.execute(
        SQL["change_executions"],
        {
            "ids": [c.row["id"] for c in changes],
            "statuses": [str(c.status) for c in changes],
            "reasons": [c.reason for c in changes],
            "errors": [_fault(c.fault) for c in changes],
            "delays": [float(c.delay_s) for c in changes],
            "epochs": [c.epoch for c in changes],
            "attempts": [c.attempt for c in changes],
            "suspects": [c.suspect for c in changes],
            "measured": [c.status in CELL_COMMANDS for c in changes],
            "latencies": [
                m.path.duration_ms if m.stored else float(c.latency_ms)
                for c, m in zip(changes, found, strict=True)
            ],
            "node_runs": [
                m.path.node_runs if m.stored else c.node_runs
                for c, m in zip(changes, found, strict=True)
            ],
            "usages": [canonical(m.path.usage) for m in found],
            "spent": [canonical(m.spent._asdict()) for m in found],
            "tokens": [m.spent_tokens for m in found],
            "cut_off": [canonical(m.cut_off) for m in found],
            "terminal": [str(s) for s in states.TERMINAL_EXECUTION],
        },
    )
    return await cursor.fetchall()


async def _end_cells(
    conn: Connection, changes: Sequence[Change], measured: dict[str, DictRow]
) -> list[DictRow]:
    changes = [c for c in changes if c.status in CELL_COMMANDS and c.row["batch_id"] is not None]
    if not changes:
        return []
    ends = [(source, to) for s in CELL_COMMANDS for source, to in _cell_moves(s)]
    cursor = await conn.execute(
        SQL["end_cells"],
        {
            "ids": [c.row["id"] for c in changes],
            "statuses": [str(_cell_end(c.status)) for c in changes],
            "errors": [_fault(c.fault) for c in changes],
            "latencies": [measured[c.row["id"]]["latency_ms"] for c in changes],
            "node_runs": [measured[c.row["id"]]["node_runs"] for c in changes],
            "usages": [measured[c.row["id"]]["usage"] for c in changes],
            "from": [str(source) for source, _ in ends],
            "to": [str(to) for _, to in ends],
        },
    )
    return await cursor.fetchall()


def _cell_end(status: ExecutionStatus) -> CellStatus:
    return states.CELL[CELL_COMMANDS[status][-1]][1]


def _cell_moves(status: ExecutionStatus) -> Iterable[tuple[CellStatus, CellStatus]]:
    for command in CELL_COMMANDS[status]:
        for source in states.CELL[command][0] - states.TERMINAL_CELL:
            yield source, _cell_end(status)


async def _insert_scores(
    conn: Connection, changes: Sequence[Change], cells: dict[str, list[DictRow]]
) -> None:
    rows = [
        (cell, scorer, score)
        for change in changes
        for cell in cells.get(change.row["id"], ())
        for scorer, score in change.scores
    ]
    if not rows:
        return
    await conn.execute(
        SQL["insert_scores"],
        {
            "batch_ids": [cell["batch_id"] for cell, _, _ in rows],
            "cells": [cell["id"] for cell, _, _ in rows],
            "scorers": [scorer.name for _, scorer, _ in rows],
            "digests": [scorer.digest() for _, scorer, _ in rows],
            "metrics": [score.metric for _, _, score in rows],
            "values": [score.value for _, _, score in rows],
            "explanations": [score.explanation for _, _, score in rows],
        },
    )


def _fault(fault: Fault | None) -> str | None:
    return None if fault is None else canonical(fault.model_dump(mode="json"))


def _entries(change: Change, measured: DictRow, cells: Sequence[DictRow]) -> list[Entry]:
    row = change.row
    ids = (row["project"], row["id"], row["batch_id"])
    entries = [Entry(change.actor, _event(change, measured), *ids)]
    told = (_cell_event(change, cell) for cell in cells)
    entries += [Entry(change.actor, event, *ids) for event in told if event is not None]
    return entries


def _event(change: Change, measured: DictRow) -> events.Event:
    match change.status:
        case ExecutionStatus.COMPLETED:
            return events.ExecutionCompleted(
                latency_ms=measured["latency_ms"], node_runs=measured["node_runs"]
            )
        case ExecutionStatus.FAILED if change.fault is not None:
            return events.ExecutionFailed(error=change.fault)
        case ExecutionStatus.PAUSED:
            return events.ExecutionPaused(
                reason=change.reason or "", interrupts=list(change.interrupts)
            )
        case ExecutionStatus.PENDING if change.command == "retry":
            return events.ExecutionRetried()
        case ExecutionStatus.PENDING if change.command == "resume":
            return events.ExecutionResumed(one_step=change.reason == "step")
        case ExecutionStatus.PENDING:
            return events.ExecutionRequeued(reason=change.reason or "", suspect=measured["suspect"])
        case ExecutionStatus.CANCELLED:
            return events.ExecutionCancelled(reason=change.reason)
        case _:
            raise errors.InvalidRequest(
                f"{change.command} of {change.row['id']} lacks its fault",
                field="fault",
                reason="missing",
            )


def _cell_event(change: Change, cell: DictRow) -> events.Event | None:
    place = {
        "cell": cell["id"],
        "variant": cell["variant"],
        "case": cell["case_id"],
        "repetition": cell["repetition"],
    }
    match cell["status"]:
        case CellStatus.DONE:
            scores = {score.metric: score.value for _, score in change.scores}
            return events.CellScored(**place, scores=scores)
        case CellStatus.FAILED:
            return events.CellFailed(
                **place, error=change.fault, shared_failure=cell["shared_failure"]
            )
        case _:
            return None
