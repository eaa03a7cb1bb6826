"""Repairs of what was found to be wrong, as the bench itself would have done it.

Each is one part of the caller's transaction: it locks what it changes, in the order leases, batches,
executions, cells. The caller then looks again whether it is still wrong, under these locks, and has
it done. Every repair says what it did; done twice it does nothing more.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

import orjson
from psycopg.rows import DictRow

from wtb_ray import errors, events, states
from wtb_ray.db import Connection
from wtb_ray.model import ScorerSpec, canonical
from wtb_ray.states import TERMINAL_BATCH, TERMINAL_CELL, TERMINAL_EXECUTION, ExecutionStatus
from wtb_ray.store.branches import locked
from wtb_ray.store.changes import Change, apply, cancel_pending_cells, change_batch
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.leases import MAX_ATTEMPTS, after_death, bury_locked, lock_lease
from wtb_ray.store.sql import SQL
from wtb_ray.store.transactions import in_order


class By(NamedTuple):
    """Who repairs, and how often infrastructure may lose an execution before it fails."""

    actor: str
    max_attempts: int = MAX_ATTEMPTS


Ids = Mapping[str, str]
Action = Callable[[Connection, Ids, By], Awaitable[str]]
"""Connection, ids of the finding, who; gives what it did. Its rows are locked."""

REASON: Final = "integrity"


async def lock(conn: Connection, ids: Ids) -> None:
    """Locks the rows that a finding with these ids is about, as far as they are there."""
    if "runner" in ids:
        await lock_lease(conn, ids["runner"])
    batch = ids.get("batch_id")
    if batch is not None:
        await conn.execute(SQL["lock_batch"], {"id": batch})
    execution = ids.get("execution_id")
    if execution is None and "thread_id" in ids:
        execution = ids["thread_id"].rpartition(".")[0]
    if execution is None and "cell_id" in ids:
        row = await _cell(conn, ids["cell_id"], lock=False)
        execution = None if row is None else row["execution_id"]
    if execution is not None:
        rows = await conn.execute(SQL["lock_executions"], {"ids": [execution]})
        in_order(await rows.fetchall())
    if "cell_id" in ids:
        await _cell(conn, ids["cell_id"])


# --- what is missing ---


async def copy_checkpoint(conn: Connection, ids: Ids, by: By) -> str:
    """Copies a checkpoint back, with its values, from a branch that began with it."""
    return await _copy_to(conn, ids["thread_id"], ids["checkpoint_id"])


async def copy_to_parent(conn: Connection, ids: Ids, by: By) -> str:
    return await _copy_to(conn, ids["parent_thread"], ids["checkpoint_id"])


async def _copy_to(conn: Connection, thread: str, checkpoint_id: str) -> str:
    place = {"thread_id": thread, "checkpoint_id": checkpoint_id}
    donor = await _one(conn, "donor_of_checkpoint", place)
    if donor is None:
        raise _impossible("no branch has a copy of it")
    copied = {"from": donor["thread_id"], "to": thread, "checkpoint_id": checkpoint_id}
    await conn.execute(SQL["copy_checkpoint"], {**copied, "to": [thread]})
    await conn.execute(SQL["copy_missing_blobs"], copied)
    return f"copied from {donor['thread_id']}"


async def copy_blob(conn: Connection, ids: Ids, by: By) -> str:
    """Copies the value of a channel from a branch that shares it."""
    if await _one(conn, "copy_blob", ids) is None:
        raise _impossible("no branch shares the value")
    return "copied"


async def branch_from_log(conn: Connection, ids: Ids, by: By) -> str:
    """Makes a branch again as the event log tells."""
    if await _one(conn, "branch_from_log", ids) is None:
        raise _impossible("the log does not tell where it began")
    return "made as the log tells"


async def parent_from_log(conn: Connection, ids: Ids, by: By) -> str:
    """Sets the parent of a branch as the event log tells."""
    thread = ids["thread_id"]
    params = {"thread_id": thread, "execution_id": thread.rpartition(".")[0]}
    if await _one(conn, "parent_from_log", params) is None:
        raise _impossible("the log does not tell its parent")
    return "parent set as the log tells"


async def newest_version(conn: Connection, ids: Ids, by: By) -> str:
    """Sets a project's newest version to one that is there."""
    row = await _one(conn, "set_newest_version", ids)
    if row is None:
        raise _impossible("the project has no version")
    return f"set to {row['version']}"


# --- what nobody needs ---


def deletion(*names: str) -> Action:
    """Deletes rows."""

    async def delete(conn: Connection, ids: Ids, by: By) -> str:
        count = 0
        for name in names:
            count += (await conn.execute(SQL[name], ids)).rowcount
        return f"{count} rows deleted"

    return delete


# --- executions ---


async def mend_owner(conn: Connection, ids: Ids, by: By) -> str:
    """Gives back what runs without an owner, and takes the owner from what does not run."""
    row = await locked(conn, ids["execution_id"])
    if row["status"] == ExecutionStatus.RUNNING:
        await apply(conn, [after_death(row, "nobody", by.actor, by.max_attempts)])
        return "given back"
    await conn.execute(SQL["clear_owner"], {"id": row["id"]})
    return "owner removed"


async def set_head(conn: Connection, ids: Ids, by: By) -> str:
    """Sets the head to the newest step of the branch."""
    row = await _one(conn, "set_head", {"id": ids["execution_id"]})
    if row is None:
        raise _impossible("it runs")
    return f"head set to {row['head']}"


async def reopen(conn: Connection, ids: Ids, by: By) -> str:
    """Takes back that an execution has completed: it pauses, or goes on in its batch."""
    row = await locked(conn, ids["execution_id"])
    batched = row["batch_id"] is not None
    await _reopen(conn, row, ExecutionStatus.PENDING if batched else ExecutionStatus.PAUSED, by)
    return "goes on in its batch" if batched else "paused at its head"


async def _reopen(conn: Connection, row: DictRow, status: ExecutionStatus, by: By) -> None:
    changed = await _one(conn, "reopen_execution", {"id": row["id"], "status": str(status)})
    if changed is None:
        raise _impossible("it is not COMPLETED")
    paused = status == ExecutionStatus.PAUSED
    told: events.Event = (
        events.ExecutionPaused(reason=REASON)
        if paused
        else events.ExecutionRequeued(reason=REASON, suspect=changed["suspect"])
    )
    await append_many(conn, [Entry(by.actor, told, row["project"], row["id"], row["batch_id"])])


async def take_back(conn: Connection, ids: Ids, by: By) -> str:
    """Takes an execution back from a runner that is dead, as if it were buried now."""
    row = await locked(conn, ids["execution_id"])
    change = after_death(row, str(row["owner"]), by.actor, by.max_attempts)
    await apply(conn, [change])
    return f"is {change.status}"


async def cancel(conn: Connection, ids: Ids, by: By) -> str:
    """Cancels an execution that waits in vain."""
    row = await locked(conn, ids["execution_id"])
    await apply(conn, [Change(row, "stop", by.actor, reason=REASON, epoch=1)])
    return "cancelled"


async def bury(conn: Connection, ids: Ids, by: By) -> str:
    """Declares a runner dead; what it held goes back."""
    lease = await lock_lease(conn, ids["runner"])
    if lease is None:
        raise _impossible("it has no lease")
    reason = "integrity: lease overdue"
    count = await bury_locked(conn, lease, ids["runner"], reason, by.actor, by.max_attempts)
    return f"buried, {count} executions go back"


# --- cells and batches ---


async def requeue_cell(conn: Connection, ids: Ids, by: By) -> str:
    """A cell whose execution is gone waits again; in an ended batch it is cancelled."""
    ended = await _batch_status(conn, ids) in TERMINAL_BATCH
    status = states.CELL["cancel"][1] if ended else states.CELL["rerun"][1]
    await _set_cell(conn, ids["cell_id"], str(status), ended=ended, adrift=True)
    return "cancelled" if ended else "waits again"


async def settle_cell(conn: Connection, ids: Ids, by: By) -> str:
    """Makes a cell what its execution is; without its scores, that is to be scored once more."""
    cell = await _cell(conn, ids["cell_id"])
    if cell is None:
        raise _impossible("it is gone")
    execution = await locked(conn, cell["execution_id"])
    status = ExecutionStatus(execution["status"])
    if status not in TERMINAL_EXECUTION:
        await _set_cell(conn, cell["id"], str(states.CELL["start"][1]), ended=False)
        await conn.execute(SQL["unseal_open_cells"], {"id": cell["batch_id"]})
        return "runs with its execution"
    if cell["status"] in TERMINAL_CELL:
        raise _impossible("both have ended")
    if status == ExecutionStatus.COMPLETED:
        return await _score(conn, cell, execution, by)
    command = "fail" if status == ExecutionStatus.FAILED else "cancel"
    await _end_cell(conn, cell, str(states.CELL[command][1]))
    return f"is {states.CELL[command][1]} as its execution"


async def _score(conn: Connection, cell: DictRow, execution: DictRow, by: By) -> str:
    declared = {ScorerSpec(**one).digest() for one in orjson.loads(cell["scorers"])}
    if declared <= set(cell["scored"]):
        await _end_cell(conn, cell, str(states.CELL["done"][1]))
        return "is DONE, with the scores that it has"
    if await _batch_status(conn, cell) in TERMINAL_BATCH:
        raise _impossible("it has no scores, and its batch has ended")
    await _set_cell(conn, cell["id"], str(states.CELL["start"][1]), ended=False)
    await _reopen(conn, execution, ExecutionStatus.PENDING, by)
    return "is scored again"


async def recount(conn: Connection, ids: Ids, by: By) -> str:
    """Counts the cells and cases of a batch again."""
    await conn.execute(SQL["recount"], {"id": ids["batch_id"]})
    return "counted again"


async def reopen_batch(conn: Connection, ids: Ids, by: By) -> str:
    """A batch that was closed too early goes on."""
    row = await _batch(conn, ids)
    await change_batch(conn, row, "reopen", events.BatchResumed(), by.actor)
    return "goes on"


async def close_batch(conn: Connection, ids: Ids, by: By) -> str:
    """Completes a batch whose cells have all ended."""
    row = await _batch(conn, ids)
    counts = await (await conn.execute(SQL["count_cells"], {"ids": [row["id"]]})).fetchall()
    event = events.BatchCompleted(counts={one["status"]: one["n"] for one in counts})
    await change_batch(conn, row, "complete", event, by.actor)
    return "completed"


async def cancel_cells(conn: Connection, ids: Ids, by: By) -> str:
    """Cancels the cells that wait in an ended batch."""
    await cancel_pending_cells(conn, ids["batch_id"])
    return "cancelled"


async def unseal(conn: Connection, ids: Ids, by: By) -> str:
    """Takes cells that have not ended out of the result parts."""
    await conn.execute(SQL["unseal_open_cells"], {"id": ids["batch_id"]})
    return "taken out"


# --- environments ---


async def forget_venv(conn: Connection, ids: Ids, by: By) -> str:
    """Forgets a built environment whose directory is gone."""
    await conn.execute(SQL["evict_venv"], ids)
    event = events.VenvEvicted(**ids, bytes=0, reason="missing")
    await append_many(conn, [Entry(by.actor, event)])
    return "forgotten"


async def fail_venv(conn: Connection, ids: Ids, by: By) -> str:
    """Says that nobody builds an environment any more; it may be built again."""
    gone = errors.Unavailable("the process that built it is gone", reason="lost")
    sources, to = states.VENV["fail"]
    params = {"from": [str(s) for s in sources], "status": str(to), "permanent": False}
    await conn.execute(SQL["fail_venv"], {**ids, **params, "error": canonical(gone.body())})
    event = events.VenvFailed(**ids, error=gone.body(), permanent=False)
    await append_many(conn, [Entry(by.actor, event)])
    return "failed as lost"


# --- commands ---


async def fail_operation(conn: Connection, ids: Ids, by: By) -> str:
    """Fails an operation whose carrier is gone."""
    gone = errors.Unavailable("the process that carried it out is gone", reason="lost")
    params = {"id": ids["operation_id"], "status": "FAILED", "result": None}
    await conn.execute(SQL["end_operation"], {**params, "error": canonical(gone.body())})
    return "failed as lost"


async def forget_key(conn: Connection, ids: Ids, by: By) -> str:
    """Frees the key of a request that never ended."""
    await conn.execute(SQL["forget_request"], {"key": ids["idempotency_key"]})
    return "forgotten"


ACTIONS: Final[dict[str, Action]] = {
    "head_missing": copy_checkpoint,
    "parent_missing": copy_to_parent,
    "branch_missing": branch_from_log,
    "step_without_checkpoint": copy_checkpoint,
    "blobs_missing": copy_blob,
    "answer_dangling": deletion("delete_answer"),
    "point_dangling": deletion("delete_point"),
    "version_missing": newest_version,
    "open_cell_adrift": requeue_cell,
    "orphan_checkpoint": deletion(
        "delete_thread_writes", "delete_thread_blobs", "delete_thread_checkpoints"
    ),
    "orphan_commit": deletion("delete_thread_steps", "delete_thread_points"),
    "orphan_restore": deletion("delete_restore"),
    "missing_part": deletion("delete_part"),
    "lineage_cycle": parent_from_log,
    "head_stale": set_head,
    "completed_unfinished": reopen,
    "owner_mismatch": mend_owner,
    "cell_mismatch": settle_cell,
    "batch_counts": recount,
    "batch_ended_early": reopen_batch,
    "cells_left_waiting": cancel_cells,
    "part_outdated": unseal,
    "running_without_lease": take_back,
    "lease_overdue": bury,
    "drain_overdue": bury,
    "lease_without_actor": bury,
    "pending_in_ended_batch": cancel,
    "batch_not_closed": close_batch,
    "venv_missing": forget_venv,
    "venv_abandoned": fail_venv,
    "operation_lost": fail_operation,
    "key_unfinished": forget_key,
}
"""By problem; those of processes, objects and workspaces are no rows, and not here."""


async def _one(conn: Connection, name: str, params: Mapping[str, Any]) -> DictRow | None:
    return await (await conn.execute(SQL[name], params)).fetchone()


async def _batch(conn: Connection, ids: Mapping[str, Any]) -> DictRow:
    row = await _one(conn, "lock_batch", {"id": ids["batch_id"]})
    if row is None:
        raise _impossible("its batch is gone")
    return row


async def _batch_status(conn: Connection, ids: Mapping[str, Any]) -> str:
    return str((await _batch(conn, ids))["status"])


async def _cell(conn: Connection, id: Any, *, lock: bool = True) -> DictRow | None:
    name = "lock_cell" if lock else "peek_cell"
    return await _one(conn, name, {"id": int(id)})


async def _set_cell(
    conn: Connection, id: Any, status: str, *, ended: bool, adrift: bool = False
) -> None:
    params = {"id": int(id), "status": status, "ended": ended, "adrift": adrift}
    await conn.execute(SQL["set_cell"], params)


async def _end_cell(conn: Connection, cell: DictRow, status: str) -> None:
    """With the error and the latency of its execution."""
    await conn.execute(SQL["end_cell"], {"id": cell["id"], "status": status})


def _impossible(reason: str) -> errors.Conflict:
    return errors.Conflict(f"not repaired: {reason}", reason=reason)
