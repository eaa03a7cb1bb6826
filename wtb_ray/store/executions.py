"""Executions: made, admitted from cells, claimed by runners, settled, stopped.

A RUNNING execution belongs to one owner under one epoch. Only that pair may settle it, and what
it settles happens once, whole, with its cells, scores and events.
"""

import builtins
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import orjson
from psycopg.rows import DictRow

from wtb_ray import errors, events, sharing, states
from wtb_ray.api import Page
from wtb_ray.db import Connection, Database
from wtb_ray.fleet import Demand, Party, Share
from wtb_ray.model import (
    Assignment,
    Execution,
    InnerStep,
    ProjectVersion,
    Step,
    canonical,
    new_id,
    thread_id,
)
from wtb_ray.states import ExecutionStatus
from wtb_ray.store import history, projects, restore_points
from wtb_ray.store.abandonment import abandon
from wtb_ray.store.changes import legal
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.leases import MAX_ATTEMPTS, SOLO_SUSPECT
from wtb_ray.store.pages import newest_after, newest_token, page, where
from wtb_ray.store.settlements import Settlement, check_fence, settle_group
from wtb_ray.store.sql import SQL
from wtb_ray.store.stopping import stop
from wtb_ray.store.transactions import in_order, transact

__all__ = ["Executions", "Settlement"]

GROUP: Final = 512
"""Most settlements or admissions of one transaction."""
MOST_CELLS: Final = 16_384
"""Cells that one admission looks at, beside the rest of the last case."""


class Executions:
    """All changes and reads of executions."""

    def __init__(self, db: Database):
        self._db = db

    async def create(
        self,
        version: ProjectVersion,
        binding: Mapping[str, str],
        input: Any,
        *,
        recursion_limit: int,
        breakpoints: Sequence[str] = (),
        priority: int = 0,
        deadline_s: float | None = None,
        actor: str,
        id: str | None = None,
    ) -> Execution:
        """Makes a PENDING execution with its first branch.

        With the `id` of an execution that is there already, nothing is made: it is that one.

        Raises:
            InvalidState: The input is no JSON.
            ProjectInactive: Nothing new of its project may start.
            ProjectRemoved: Its project was removed.
        """
        id = id or new_id("e")
        params = {
            "id": id,
            "project": version.project,
            "version": version.version,
            "binding": canonical(binding),
            "input": _input(input),
            "recursion_limit": recursion_limit,
            "breakpoints": list(breakpoints),
            "priority": priority,
            "deadline_s": deadline_s,
            "thread_id": thread_id(id, 0),
        }
        event = events.ExecutionCreated(version=version.version, binding=dict(binding))

        async def work(conn: Connection) -> Execution:
            if await (await conn.execute(SQL["insert_execution"], params)).fetchone() is None:
                return await history.get_execution(conn, id)
            await projects.may_start(conn, version.project)
            await append_many(conn, [Entry(actor, event, version.project, id)])
            return await history.get_execution(conn, id)

        return await transact(self._db, work)

    async def get(self, id: str) -> Execution:
        """The execution as it is now.

        Raises:
            UnknownExecution: There is none with this id.
        """
        async with self._db.connection() as conn:
            return await history.get_execution(conn, id)

    async def list(
        self,
        limit: int = 50,
        after: str | None = None,
        project: str | None = None,
        status: ExecutionStatus | None = None,
        batch_id: str | None = None,
    ) -> Page[Execution]:
        """Executions, newest first."""
        conditions = where(
            "(e.created_at, e.id) < (%(at)s, %(last)s)" if after is not None else None,
            "e.project = %(project)s" if project is not None else None,
            "e.status = %(status)s" if status is not None else None,
            "e.batch_id = %(batch_id)s" if batch_id is not None else None,
        )
        rows = await self._db.rows(
            SQL["select_executions"] + conditions + SQL["newest_executions"],
            {
                "limit": limit + 1,
                "project": project,
                "status": None if status is None else str(status),
                "batch_id": batch_id,
                **newest_after(after),
            },
        )
        return page(rows, limit, history.execution_of, newest_token)

    async def demand(self, most: int) -> builtins.list[Demand]:
        """What waits for runners, by version; cells are counted up to `most` a batch."""
        params = {"solo_suspect": SOLO_SUSPECT, "most": most}
        return [Demand(**row) for row in await self._db.rows(SQL["demand"], params)]

    async def parties(self, owner: str, version: str, most: int) -> builtins.list[Party]:
        """Whose work of a version waits for this runner; cells are counted up to `most` a batch."""
        params = {"owner": owner, "version": version, "most": most, "solo_suspect": SOLO_SUSPECT}
        return [Party(**row) for row in await self._db.rows(SQL["parties"], params)]

    async def admit(self, batch_id: str, limit: int, *, actor: str) -> int:
        """Makes up to `limit` executions for the next PENDING cells of a RUNNING batch; gives how many.

        Cells of the same case and repetition begin in one, unless the batch shares nothing. A batch
        that is not RUNNING admits none.
        """
        admitted = 0
        while admitted < limit:
            size = min(GROUP, limit - admitted)

            async def work(conn: Connection, size: int = size) -> int:
                return await _admit(conn, batch_id, size, actor)

            count = await transact(self._db, work)
            admitted += count
            if count < size:
                break
        return admitted

    async def claim(
        self,
        owner: str,
        owner_epoch: int,
        version: str,
        limit: int,
        solo: bool = False,
        *,
        shares: Sequence[Share] | None = None,
        actor: str | None = None,
    ) -> builtins.list[Assignment]:
        """Gives a runner PENDING executions of one version, by priority and age, each to one only.

        With `shares` each party gets so many of them, and `limit` does not count. A runner whose lease has run out, drains or is of another epoch gets none. Executions that
        track files go back to their newest restore point.
        """
        params = {
            "owner": owner,
            "owner_epoch": owner_epoch,
            "version": version,
            "any": [True] if shares is None else [False] * len(shares),
            "batches": [None] if shares is None else [share.batch_id for share in shares],
            "priorities": [0] if shares is None else [share.priority for share in shares],
            "shares": [limit] if shares is None else [share.count for share in shares],
            "solo": solo,
            "solo_suspect": SOLO_SUSPECT,
            "status": str(states.EXECUTION["start"][1]),
        }

        async def work(conn: Connection) -> builtins.list[Assignment]:
            cursor = await conn.execute(SQL["claim_executions"], params)
            rows = list(in_order(await cursor.fetchall()))
            standing = await restore_points.go_back(conn, rows)
            entries = [_started(row, owner, actor or owner) for row in rows]
            await append_many(conn, entries)
            nowhere = restore_points.NOWHERE
            return [assignment_of(row, standing.get(row["id"], nowhere)) for row in rows]

        return await transact(self._db, work)

    async def owned(self, owner: str) -> set[tuple[str, int]]:
        """Id and epoch of everything that this owner holds."""
        rows = await self._db.rows(SQL["owned_executions"], {"owner": owner})
        return {(row["id"], row["epoch"]) for row in rows}

    async def standing(self, ids: Sequence[str]) -> dict[str, tuple[ExecutionStatus, int]]:
        """Status and epoch of those of these executions that there are."""
        rows = await self._db.rows(SQL["standing"], {"ids": list(ids)})
        return {row["id"]: (ExecutionStatus(row["status"]), row["epoch"]) for row in rows}

    async def wishes(self, owner: str) -> builtins.list[tuple[str, int, str]]:
        """Id, epoch and wish of everything that this owner holds."""
        rows = await self._db.rows(SQL["wishes"], {"owner": owner})
        return [(row["id"], row["epoch"], row["wanted"]) for row in rows]

    async def settle(
        self,
        items: Sequence[Settlement],
        *,
        actor: str | None = None,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> builtins.list[Exception | None]:
        """Ends the claims of a group: one answer for each, None where it is settled.

        Saying the same again is settled too. `Fenced` stands for those that are not this owner's
        any more, `UnstorableValue` for those whose data the database refuses; others go on.
        """
        answers: builtins.list[Exception | None] = []
        for start in range(0, len(items), GROUP):
            group = items[start : start + GROUP]
            answers += await settle_group(self._db, group, actor, max_attempts)
        return answers

    async def abandon(self, version: str, error: errors.WTBError, *, actor: str) -> int:
        """Fails what waits for runners of a version that cannot run; gives how many executions.

        Its open batches fail, their cells without an execution are cancelled, and what runs in them
        stops at its next boundary. What runs without a batch goes on.
        """
        return await abandon(self._db, version, error, actor)

    async def forget_files(self, id: str, keep: int) -> None:
        """Forgets the file trees of all but the newest `keep` steps; branching points keep theirs."""
        async with self._db.transaction() as conn:
            await conn.execute(SQL["trim_manifests"], {"id": id, "keep": keep})

    async def scoring(self, id: str, epoch: int, owner: str) -> None:
        """Cells of a finished run become SCORING while their scorers work; twice does nothing.

        Raises:
            Fenced: The execution is not this owner's any more.
        """
        sources, to = states.CELL["score"]
        params = {"execution_id": id, "from": [str(s) for s in sources], "status": str(to)}

        async def work(conn: Connection) -> None:
            rows = await (await conn.execute(SQL["lock_executions"], {"ids": [id]})).fetchall()
            check_fence(rows[0] if rows else None, id, epoch, owner)
            await conn.execute(SQL["score_cells"], params)

        await transact(self._db, work)

    async def request_stop(self, id: str, *, actor: str, reason: str | None = None) -> Execution:
        """Cancels a waiting execution at once; a running one stops at its next boundary.

        Raises:
            UnknownExecution: There is none with this id.
            InvalidTransition: It has ended.
        """

        async def work(conn: Connection) -> Execution:
            cursor = await conn.execute(SQL["lock_executions"], {"ids": [id]})
            rows = in_order(await cursor.fetchall())
            if not rows:
                raise history.unknown_execution(id)
            legal(rows[0], "execution", "stop")
            await stop(conn, rows, reason, actor)
            return await history.get_execution(conn, id)

        return await transact(self._db, work)

    async def steps(self, id: str) -> builtins.list[Step]:
        """The super-steps that led to the present head, newest first, over all its branches.

        Raises:
            UnknownExecution: There is none with this id.
        """
        async with self._db.connection() as conn:
            return await history.steps_of(conn, id)

    async def inner_steps(self, places: Collection[tuple[str, str]]) -> builtins.list[InnerStep]:
        """What subgraphs did after these root checkpoints, each in its thread."""
        threads, roots = zip(*places, strict=True) if places else ((), ())
        params = {"threads": list(threads), "roots": list(roots)}
        rows = await self._db.rows(SQL["inner_steps"], params)
        return [history.inner_step_of(row) for row in rows]

    async def step(self, id: str, checkpoint_id: str) -> Step:
        """One step of the execution's history, abandoned ones included.

        Raises:
            UnknownExecution: There is no execution with this id.
            UnknownCheckpoint: It has no such checkpoint.
        """
        async with self._db.connection() as conn:
            return await history.find_step(conn, id, checkpoint_id)


def _input(value: Any) -> str:
    try:
        return canonical(value)
    except (TypeError, ValueError) as e:
        raise errors.InvalidState(
            f"the initial state is no JSON: {e}", field="initial_state", reason=str(e)
        ) from e


async def _admit(conn: Connection, batch_id: str, limit: int, actor: str) -> int:
    batch = await (await conn.execute(SQL["admitting_batch"], {"id": batch_id})).fetchone()
    if batch is None:
        return 0
    bindings = orjson.loads(batch["bindings"])
    shared = batch["share_prefix"]
    params = {
        "batch_id": batch_id,
        "groups": limit,
        "most": min(limit * len(bindings), MOST_CELLS) if shared else limit,
        "cells": None if shared else limit,
    }
    cells = await (await conn.execute(SQL["pick_cells"], params)).fetchall()
    groups = _groups(cells, bindings, shared=shared)[:limit]
    if batch["limited"]:
        row = await (await conn.execute(SQL["room_of_batch"], {"id": batch_id})).fetchone()
        groups = list(_within(groups, 0 if row is None else row["room"]))
    if not groups:
        return 0
    ids = [new_id("e") for _ in groups]
    taken = [bindings[group[0]["variant"]] for group in groups]
    await conn.execute(
        SQL["insert_admitted"],
        {
            "ids": ids,
            "bindings": [canonical(binding) for binding in taken],
            "cases": [group[0]["case_ordinal"] for group in groups],
            "repetitions": [group[0]["repetition"] for group in groups],
            "cells": [cell["id"] for group in groups for cell in group],
            "executions": [id for id, group in zip(ids, groups, strict=True) for _ in group],
            "project": batch["project"],
            "version": batch["version"],
            "recursion_limit": batch["recursion_limit"],
            "priority": batch["priority"],
            "batch_id": batch_id,
            "status": str(states.CELL["start"][1]),
        },
    )
    version, project = batch["version"], batch["project"]
    made = (events.ExecutionCreated(version=version, binding=binding) for binding in taken)
    entries = (Entry(actor, e, project, id, batch_id) for id, e in zip(ids, made, strict=True))
    await append_many(conn, list(entries))
    return len(groups)


def _groups(
    cells: Sequence[DictRow], bindings: Sequence[Mapping[str, str]], *, shared: bool
) -> list[list[DictRow]]:
    """The cells by the execution that they begin in, in the order of work."""
    if not shared:
        return [[cell] for cell in cells]
    places: dict[tuple[int, int], dict[int, DictRow]] = {}
    for cell in cells:
        case = (cell["case_ordinal"], cell["repetition"])
        places.setdefault(case, {})[cell["variant"]] = cell
    return [
        [found[variant] for variant in part]
        for found in places.values()
        for part in sharing.together(bindings, found)
    ]


def _within(groups: Iterable[list[DictRow]], room: int) -> Iterator[list[DictRow]]:
    """The first of the groups, with so many cells in all."""
    for group in groups:
        if room > 0:
            yield group[:room]
        room -= len(group)


def _started(row: DictRow, owner: str, actor: str) -> Entry:
    event = events.ExecutionStarted(owner=owner, epoch=row["epoch"], attempt=row["attempt"])
    return Entry(actor, event, row["project"], row["id"], row["batch_id"])


def assignment_of(row: DictRow, standing: restore_points.Standing) -> Assignment:
    return Assignment(
        execution_id=row["id"],
        epoch=row["epoch"],
        thread_id=row["thread_id"],
        head=row["head"],
        head_step=row["head_step"],
        version=row["version"],
        project=row["project"],
        binding=orjson.loads(row["binding"]),
        input=None if row["input"] is None else orjson.loads(row["input"]),
        recursion_limit=row["recursion_limit"],
        breakpoints=tuple(row["breakpoints"]),
        batch_id=row["batch_id"],
        case_id=row["case_id"],
        repetition=row["repetition"] or 0,
        attempt=row["attempt"],
        suspect=row["suspect"],
        expected=None if row["expected"] is None else orjson.loads(row["expected"]),
        metadata={} if row["metadata"] is None else orjson.loads(row["metadata"]),
        case_answers=orjson.loads(row["case_answers"] or "[]"),
        answered=standing.answered,
        manifest=standing.manifest,
        ran=standing.ran,
        answers=dict(standing.answers),
        wanted=row["wanted"],
        passed=row["passed"],
        clean_from=row["clean_from"],
        environment=row.get("environment"),
        members=tuple(row.get("members") or ()),
        left_s=row.get("left_s"),
    )
