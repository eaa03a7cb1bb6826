"""Rollback, roll forward and fork: one operation, a branch that begins with a stored checkpoint.

The checkpoint row is copied under its own id, with the values that it names, into a new thread; no
reducer runs and nothing of the past changes. What was done after it stays in the history and can be
gone back to in the same way. Files are not touched here: whoever claims the execution next gets
those of the checkpoint.
"""

import builtins
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from psycopg.rows import DictRow

from wtb_ray import errors, events
from wtb_ray.db import Connection, Database
from wtb_ray.model import Branch, Execution, ProjectVersion, Step, canonical, new_id, thread_id
from wtb_ray.states import TERMINAL_EXECUTION, ExecutionStatus
from wtb_ray.store import projects
from wtb_ray.store.changes import legal
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.files import kept_there
from wtb_ray.store.history import (
    execution_of,
    find_step,
    get_execution,
    step_of,
    steps_of,
    unknown_execution,
)
from wtb_ray.store.sql import SQL
from wtb_ray.store.transactions import in_order, transact

Mode = Literal["clean", "as_it_stands"]
Where = Literal["entry", "exit"]
RESET: Final = "reset"


class Origin(NamedTuple):
    """Where a branch begins."""

    thread_id: str
    checkpoint_id: str
    step: int
    next_nodes: tuple[str, ...]


class Branches:
    """The branches of executions: made, and read."""

    def __init__(self, db: Database):
        self._db = db

    async def list(self, id: str) -> builtins.list[Branch]:
        """The execution's branches, oldest first.

        Raises:
            UnknownExecution: There is none with this id.
        """
        rows = await self._db.rows(SQL["branches_of_execution"], {"id": id})
        if not rows:
            raise unknown_execution(id)
        return [Branch(**row) for row in rows]

    async def steps(self, id: str) -> builtins.list[Step]:
        """All steps that were made on the execution's own branches, by branch, oldest first."""
        rows = await self._db.rows(SQL["steps_of_branches"], {"id": id})
        return [step_of(row) for row in rows]

    async def forks(self, id: str) -> builtins.list[Execution]:
        """The executions that were forked from this one, oldest first."""
        sql = SQL["select_executions"] + "\n" + SQL["forked_from"]
        return [execution_of(row) for row in await self._db.rows(sql, {"id": id})]

    async def channels(self, step: Step) -> builtins.list[str]:
        """The channels of the user's state that have a value at this step's checkpoint."""
        place = {"thread_id": step.thread_id, "checkpoint_id": step.checkpoint_id}
        return [row["channel"] for row in await self._db.rows(SQL["channels_at"], place)]

    async def place_of_node(self, id: str, node: str, where: Where = "exit") -> str:
        """The newest checkpoint right before a node began, or right after it ended.

        Raises:
            UnknownExecution: There is no execution with this id.
            UnknownNode: The node did not get there on the current branch.
        """
        async with self._db.connection() as conn:
            await get_execution(conn, id)
            for step in await steps_of(conn, id):
                nodes = step.next_nodes if where == "entry" else [run.name for run in step.nodes]
                if node in nodes:
                    return step.checkpoint_id
        raise errors.UnknownNode(
            f"execution {id} has no {where} of node {node!r}",
            field="node",
            reason=f"it has not {'begun' if where == 'entry' else 'ended'} on the current branch",
        )

    async def roll_back(
        self,
        id: str,
        checkpoint_id: str,
        *,
        mode: Mode = "clean",
        reason: str = "rollback",
        actor: str,
    ) -> Execution:
        """Puts an execution back, or forward, to a checkpoint of its history; it is PAUSED then.

        Raises:
            UnknownExecution: There is no execution with this id.
            UnknownCheckpoint: It has no such checkpoint.
            InvalidTransition: It runs, or waits to run.
            ProjectRemoved: Its project was removed.
        """

        async def work(conn: Connection) -> Execution:
            row = await locked(conn, id)
            legal(row, "execution", "rollback")
            if row["batch_id"] is not None and row["status"] in TERMINAL_EXECUTION:
                raise errors.Conflict(
                    f"execution {id} belongs to batch {row['batch_id']}, whose cell has ended"
                    " with it: fork it",
                    field="execution_id",
                    reason="of a batch",
                )
            await projects.may_go_on(conn, row["project"])
            origin = await _origin(conn, row, checkpoint_id, mode)
            thread = await _branch(conn, id, origin, mode, reason)
            params = {
                "id": id,
                "status": str(ExecutionStatus.PAUSED),
                "reason": reason,
                "clean": reason == RESET,
                "thread_id": thread,
                "head": checkpoint_id,
                "head_step": origin.step,
            }
            await conn.execute(SQL["roll_back"], params)
            told = events.ExecutionRolledBack(
                thread_id=thread,
                checkpoint_id=checkpoint_id,
                step=origin.step,
                left=row["head"],
            )
            made = branch_event(thread, origin, reason)
            await _tell(conn, actor, row, made, told)
            return await get_execution(conn, id)

        return await transact(self._db, work)

    async def reset(self, id: str, *, actor: str) -> Execution:
        """Puts an execution back to where it had its input and nothing else; it is PAUSED then.

        It goes on in a new workspace, also where files are not tracked; its history stays.

        Raises:
            UnknownExecution: There is no execution with this id.
            InvalidTransition: It runs, or waits to run, or has not begun.
        """
        async with self._db.connection() as conn:
            steps = await steps_of(conn, id)
            execution = await get_execution(conn, id)
        start = next((step for step in steps if step.step == 0), None)
        if start is None:
            raise errors.InvalidTransition(
                f"execution {id} has not begun",
                field="status",
                reason="not begun",
                state=execution.status,
                command="reset",
            )
        return await self.roll_back(id, start.checkpoint_id, reason=RESET, actor=actor)

    async def fork(
        self,
        source: str,
        checkpoint_id: str,
        *,
        version: ProjectVersion,
        binding: Mapping[str, str],
        run: bool = False,
        mode: Mode = "clean",
        breakpoints: Sequence[str] = (),
        recursion_limit: int | None = None,
        actor: str,
        id: str | None = None,
    ) -> Execution:
        """Makes an execution that goes on from a checkpoint of another; PENDING with `run`, else PAUSED.

        With the `id` of an execution that is there already, nothing is made: it is that one.

        Raises:
            UnknownExecution: There is no execution with this id.
            UnknownCheckpoint: It has no such checkpoint.
            ProjectInactive: Nothing new of its project may start.
            ProjectRemoved: Its project was removed.
        """
        id = id or new_id("e")
        params: dict[str, Any] = {
            "id": id,
            "source": source,
            "version": version.version,
            "binding": canonical(binding),
            "status": str(ExecutionStatus.PENDING if run else ExecutionStatus.PAUSED),
            "recursion_limit": recursion_limit,
            "breakpoints": list(breakpoints),
            "thread_id": thread_id(id, 0),
            "head": checkpoint_id,
            "passed": checkpoint_id if run else None,
        }

        async def work(conn: Connection) -> Execution:
            origin = await _origin(conn, await locked(conn, source), checkpoint_id, mode)
            cursor = await conn.execute(SQL["insert_fork"], {**params, "head_step": origin.step})
            made = await cursor.fetchone()
            if made is not None:
                await projects.may_start(conn, made["project"])
                thread = await _branch(conn, id, origin, mode, "fork")
                told = events.ExecutionForked(
                    source=source,
                    checkpoint_id=checkpoint_id,
                    step=origin.step,
                    version=version.version,
                    binding=dict(binding),
                )
                await _tell(conn, actor, made, told, branch_event(thread, origin, "fork"))
            return await get_execution(conn, id)

        return await transact(self._db, work)


async def locked(conn: Connection, id: str) -> DictRow:
    """The execution's row, locked for a command.

    Raises:
        UnknownExecution: There is none with this id.
    """
    rows = await (await conn.execute(SQL["lock_controlled"], {"id": id})).fetchall()
    if not rows:
        raise unknown_execution(id)
    return in_order(rows)[0]


async def _origin(conn: Connection, row: DictRow, checkpoint_id: str, mode: Mode) -> Origin:
    """Where the checkpoint is; as it stands at the head, that is the present branch.

    Raises:
        UnknownCheckpoint: The execution has no such checkpoint.
        NoConsistentFiles: Only the newest files are kept, and those of the checkpoint are gone.
    """
    step: Step = await find_step(conn, row["id"], checkpoint_id)
    found = await (await conn.execute(SQL["keeps_few"], {"id": row["id"]})).fetchone()
    if found is not None and step.step > 0:
        await kept_there(conn, row["id"], checkpoint_id)
    stands = mode == "as_it_stands" and checkpoint_id == row["head"]
    thread = row["thread_id"] if stands else step.thread_id
    return Origin(thread, step.checkpoint_id, step.step, step.next_nodes)


async def _branch(conn: Connection, id: str, origin: Origin, mode: Mode, reason: str) -> str:
    """Begins the next branch of an execution; gives its thread."""
    found = await (await conn.execute(SQL["next_branch"], {"id": id})).fetchone()
    number = 0 if found is None else found["number"]
    await begin(conn, origin, [(id, number)], mode, reason)
    return thread_id(id, number)


async def begin(
    conn: Connection,
    origin: Origin,
    branches: Sequence[tuple[str, int]],
    mode: Mode,
    reason: str,
) -> None:
    """Inserts branches, as (execution, number), and copies what each of them begins with.

    Raises:
        UnknownCheckpoint: It is not stored any more.
    """
    params = {
        "from": origin.thread_id,
        "checkpoint_id": origin.checkpoint_id,
        "ids": [id for id, _ in branches],
        "numbers": [number for _, number in branches],
        "to": [thread_id(id, number) for id, number in branches],
        "reason": reason,
    }
    await conn.execute(SQL["insert_branches"], params)
    if await (await conn.execute(SQL["copy_checkpoint"], params)).fetchone() is None:
        raise errors.UnknownCheckpoint(
            f"checkpoint {origin.checkpoint_id} of {origin.thread_id} is not stored any more",
            field="checkpoint_id",
            reason="not stored",
        )
    await conn.execute(SQL["copy_blobs"], params)
    stands = ("copy_inner", "copy_points", "copy_answers") if mode == "as_it_stands" else ()
    for name in (*stands, "copy_memories"):
        await conn.execute(SQL[name], params)


def branch_event(thread: str, origin: Origin, reason: str) -> events.Event:
    return events.BranchCreated(
        thread_id=thread,
        parent_thread=origin.thread_id,
        parent_checkpoint=origin.checkpoint_id,
        reason=reason,
    )


async def _tell(conn: Connection, actor: str, row: DictRow, *told: events.Event) -> None:
    entries = [Entry(actor, event, row["project"], row["id"], row["batch_id"]) for event in told]
    await append_many(conn, entries)
