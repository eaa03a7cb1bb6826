"""Which file tree belongs to which checkpoint, and what restores displaced.

Here are digests of manifests only: what they hold is in the object store. A file tree becomes an
execution's with a restore point at its head, never without one; nothing here touches a disk.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from psycopg.rows import DictRow

from wtb_ray import errors, events
from wtb_ray.db import Connection, Database
from wtb_ray.model import Frozen
from wtb_ray.states import ExecutionStatus
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.holds import still_held
from wtb_ray.store.sql import SQL
from wtb_ray.store.transactions import in_order, transact

CHANGED: Final = "update"
"""The source of checkpoints that a user made by changing the state."""
MOVING: Final = frozenset({ExecutionStatus.PENDING, ExecutionStatus.RUNNING})
"""Statuses in which the files of an execution are a runner's, or about to be."""


class Restored(Protocol):
    """What a restore has done to a workspace."""

    @property
    def manifest(self) -> str: ...
    @property
    def restored(self) -> int: ...
    @property
    def removed(self) -> int: ...
    @property
    def displaced(self) -> str | None: ...
    @property
    def recovered(self) -> Sequence[str]: ...


class Restore(Frozen):
    """A restore that displaced something."""

    id: int
    execution_id: str
    epoch: int
    before: str
    """Manifest of what was there."""
    after: str | None
    """Manifest of what was brought back; None: nothing."""
    reason: str
    created_at: datetime


class Kept(NamedTuple):
    """A checkpoint and its file tree, if it has one."""

    checkpoint_id: str
    step: int
    source: str
    manifest: str | None


class Commit(Frozen):
    """A file tree with the place that it belongs to."""

    checkpoint_id: str
    thread_id: str
    number: int
    """Of the branch."""
    step: int
    seq: int
    """-1: the checkpoint's own; from 0 on: of a restore point at it."""
    reason: str
    manifest: str
    created_at: datetime
    files: int | None
    bytes: int | None
    """None: not weighed yet."""


Place = tuple[int, int, int]
"""Branch, step and restore point."""
NEWEST: Final[Place] = ((1 << 31) - 1,) * 3


class Files:
    """All changes and reads of the file trees of executions."""

    def __init__(self, db: Database):
        self._db = db

    async def manifest_at(self, execution_id: str, checkpoint_id: str | None = None) -> str | None:
        """The file tree of a checkpoint; without one, what the execution would go on with.

        None where no files were kept yet.

        Raises:
            UnknownExecution: There is none with this id.
            UnknownCheckpoint: It has no such checkpoint.
            NoConsistentFiles: No files were kept there; names the nearest checkpoints with files.
        """
        kept = await self.kept_at(execution_id, checkpoint_id)
        return kept.manifest if kept is not None else None

    async def kept_at(self, execution_id: str, checkpoint_id: str | None = None) -> Kept | None:
        """`manifest_at`, with the checkpoint that the file tree belongs to."""
        async with self._db.connection() as conn:
            return (await _history(conn, execution_id, checkpoint_id))[0]

    async def kept_before(self, execution_id: str, checkpoint_id: str | None = None) -> Kept | None:
        """The newest file tree that was kept before that of the checkpoint; None: there is none."""
        async with self._db.connection() as conn:
            _, earlier = await _history(conn, execution_id, checkpoint_id)
        return next((kept for kept in earlier if kept.manifest is not None), None)

    async def restores(self, execution_id: str) -> list[Restore]:
        """The restores that displaced something, newest first.

        Raises:
            UnknownExecution: There is none with this id.
        """
        async with self._db.connection() as conn:
            await _execution(conn, execution_id)
            cursor = await conn.execute(SQL["restores_of_execution"], {"id": execution_id})
            return [Restore(**row) for row in await cursor.fetchall()]

    async def commits(self, execution_id: str, limit: int, before: Place = NEWEST) -> list[Commit]:
        """The file trees of an execution's own branches, abandoned ones included, newest first.

        Raises:
            UnknownExecution: There is none with this id.
        """
        number, step, seq = before
        params = {"id": execution_id, "limit": limit, "number": number, "step": step, "seq": seq}
        async with self._db.connection() as conn:
            await _execution(conn, execution_id)
            rows = await (await conn.execute(SQL["commits_of_execution"], params)).fetchall()
        return [Commit(**row) for row in rows]

    async def record_restore(
        self,
        execution_id: str,
        epoch: int,
        restored: Restored,
        reason: str,
        *,
        actor: str,
        lease: str | None = None,
    ) -> list[int]:
        """Says that an owner brought its files back; gives an id for each tree that it displaced.

        Those are stored under `lease`.

        Raises:
            Fenced: The execution has been taken over since.
            Unavailable: The lease has run out.
        """

        async def work(conn: Connection) -> list[int]:
            row = await _locked(conn, execution_id)
            if row["epoch"] != epoch or row["status"] != ExecutionStatus.RUNNING:
                raise errors.Fenced(
                    f"execution {execution_id} is not held under epoch {epoch} any more",
                    field="epoch",
                    reason="taken over",
                    state=row["status"],
                    epoch=row["epoch"],
                )
            await still_held(conn, lease)
            ids = await _insert_restores(conn, row, restored, reason)
            event = events.FilesRestored(
                manifest=restored.manifest,
                restored=restored.restored,
                removed=restored.removed,
                displaced=restored.displaced,
                reason=reason,
            )
            await append_many(conn, [_entry(actor, event, row)])
            return ids

        return await transact(self._db, work)

    async def restore_trash(
        self,
        execution_id: str,
        expected_manifest: str | None,
        new_manifest: str,
        restore_id: int,
        paths: Sequence[str],
        *,
        actor: str,
        lease: str | None = None,
    ) -> str:
        """Gives a resting execution another file tree, unless it has it; the checkpoint that has it.

        That is stored under `lease`.

        Raises:
            Unavailable: The lease has run out.
            UnknownExecution: There is none with this id.
            InvalidTransition: It runs, or is about to; the state found is named.
            NoConsistentFiles: It has no checkpoint that files could belong to.
            Conflict: Its files are not those that were expected any more.
        """

        async def work(conn: Connection) -> str:
            row = await _locked(conn, execution_id)
            _check_rests(row)
            found = await _chain(conn, row["thread_id"])
            current = next((kept.manifest for kept in found if kept.manifest is not None), None)
            if row["head"] is None:
                raise errors.NoConsistentFiles(
                    f"execution {execution_id} has no checkpoint yet", field="execution_id"
                )
            if current != expected_manifest:
                raise errors.Conflict(
                    f"the files of execution {execution_id} have changed meanwhile: try again",
                    field="execution_id",
                    reason="changed meanwhile",
                )
            head: str = row["head"]
            if new_manifest == current:
                return head
            await still_held(conn, lease)
            point = {"thread_id": row["thread_id"], "head": head, "manifest": new_manifest}
            await conn.execute(SQL["insert_trash_point"], point)
            event = events.TrashRestored(
                restore_id=restore_id, paths=list(paths), manifest=new_manifest
            )
            await append_many(conn, [_entry(actor, event, row)])
            return head

        return await transact(self._db, work)


async def kept_there(conn: Connection, execution_id: str, checkpoint_id: str) -> None:
    """Checks that the files of a checkpoint are kept.

    Raises:
        NoConsistentFiles: They are not; names the nearest checkpoints with files.
    """
    await _history(conn, execution_id, checkpoint_id)


async def _insert_restores(
    conn: Connection, row: DictRow, restored: Restored, reason: str
) -> list[int]:
    """The newest displaced tree gets the highest id; those of cut-off restores are older."""
    newest = [] if restored.displaced is None else [restored.displaced]
    ids = []
    for before in (*restored.recovered, *newest):
        params = {
            "execution_id": row["id"],
            "epoch": row["epoch"],
            "before": before,
            "after": restored.manifest,
            "reason": reason,
        }
        rows = await (await conn.execute(SQL["insert_restore"], params)).fetchall()
        ids += [int(made["id"]) for made in rows]
    return ids


def _check_rests(row: DictRow) -> None:
    if row["status"] in MOVING:
        allowed = sorted(str(status) for status in set(ExecutionStatus) - MOVING)
        raise errors.InvalidTransition(
            f"execution {row['id']} is {row['status']}: its files can be changed when it rests",
            field="status",
            reason="restore_trash does not apply",
            state=row["status"],
            command="restore_trash",
            allowed=allowed,
        )


async def _history(
    conn: Connection, execution_id: str, checkpoint_id: str | None
) -> tuple[Kept | None, list[Kept]]:
    """What was kept at a checkpoint, or last; and the steps before it, newest first."""
    row = await _execution(conn, execution_id)
    if not row["tracking"]:
        raise errors.NoConsistentFiles(
            f"execution {execution_id} does not track files: register its project with"
            " file_tracking=FileTrackingConfig()",
            field="execution_id",
            reason="not tracked",
            nearest=[],
        )
    chain = await _chain(conn, row["thread_id"])
    if checkpoint_id is None:
        places = (i for i, kept in enumerate(chain) if kept.manifest is not None)
        place = next(places, None)
        return (None, []) if place is None else (chain[place], chain[place + 1 :])
    place = _place(chain, checkpoint_id)
    if place is None:
        chain = await _chain(conn, await _abandoned(conn, execution_id, checkpoint_id))
        place = _place(chain, checkpoint_id) or 0
    while chain[place].source == CHANGED and chain[place].manifest is None:
        place += 1  # a change of state leaves the files as they were
    if chain[place].manifest is None:
        raise _none_kept(chain, place)
    return chain[place], chain[place + 1 :]


def _place(chain: Sequence[Kept], checkpoint_id: str) -> int | None:
    return next((i for i, kept in enumerate(chain) if kept.checkpoint_id == checkpoint_id), None)


def _none_kept(chain: Sequence[Kept], place: int) -> errors.NoConsistentFiles:
    """The refusal of a checkpoint without files, with the next later and earlier ones that have."""
    around = (reversed(chain[:place]), chain[place + 1 :])
    firsts = (next((kept for kept in side if kept.manifest is not None), None) for side in around)
    nearest = [kept for kept in firsts if kept is not None]
    named = " and ".join(f"{kept.checkpoint_id} (step {kept.step})" for kept in nearest)
    return errors.NoConsistentFiles(
        f"no files were kept at checkpoint {chain[place].checkpoint_id} (step {chain[place].step});"
        f" the nearest with files: {named or 'none'}",
        field="checkpoint_id",
        reason="no files kept there",
        nearest=[kept.checkpoint_id for kept in nearest],
    )


async def _chain(conn: Connection, thread_id: str) -> list[Kept]:
    rows = await conn.execute(SQL["files_of_chain"], {"thread_id": thread_id})
    return [Kept(**row) for row in await rows.fetchall()]


async def _abandoned(conn: Connection, execution_id: str, checkpoint_id: str) -> str:
    """The thread of a checkpoint that the present head did not come from."""
    params = {"id": execution_id, "checkpoint_id": checkpoint_id}
    row = await (await conn.execute(SQL["find_step"], params)).fetchone()
    if row is None:
        raise errors.UnknownCheckpoint(
            f"execution {execution_id} has no checkpoint {checkpoint_id}",
            field="checkpoint_id",
            reason="unknown",
        )
    return str(row["thread_id"])


async def _execution(conn: Connection, id: str) -> DictRow:
    return _known(await (await conn.execute(SQL["files_execution"], {"id": id})).fetchone(), id)


async def _locked(conn: Connection, id: str) -> DictRow:
    rows = await (await conn.execute(SQL["lock_files_execution"], {"id": id})).fetchall()
    return _known(next(iter(in_order(rows)), None), id)


def _known(row: DictRow | None, id: str) -> DictRow:
    if row is None:
        raise errors.UnknownExecution(
            f"there is no execution {id}", field="execution_id", reason="unknown"
        )
    return row


def _entry(actor: str, event: events.Event, row: DictRow) -> Entry:
    return Entry(actor, event, row["project"], row["id"], row["batch_id"])
