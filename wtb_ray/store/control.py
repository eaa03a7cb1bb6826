"""What users ask of executions: pause, resume, step, retry, answers, breakpoints, another binding.

Each command is one compare-and-set on the execution's row with its event. A running execution is
asked through `wanted`, which comes back to its owner with the next commit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.rows import DictRow

from wtb_ray import errors, events, parking, views
from wtb_ray.db import Connection, Database
from wtb_ray.model import Assignment, Execution, ProjectVersion, canonical
from wtb_ray.states import TERMINAL_EXECUTION, ExecutionStatus, PauseReason, PauseStrategy, Wanted
from wtb_ray.store import projects
from wtb_ray.store.answers import take
from wtb_ray.store.branches import locked
from wtb_ray.store.changes import Change, apply, legal
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.executions import assignment_of
from wtb_ray.store.history import get_execution, unknown_execution
from wtb_ray.store.restore_points import NOWHERE
from wtb_ray.store.sql import SQL
from wtb_ray.store.transactions import in_order, transact

GOES_ON = {"resume": Wanted.RUN, "step": Wanted.STEP, "retry": Wanted.RUN}


class Control:
    """Commands on single executions."""

    def __init__(self, db: Database):
        self._db = db

    async def pause(
        self,
        id: str,
        *,
        actor: str,
        reason: str | None = None,
        strategy: PauseStrategy | str | None = None,
        expected_s: float | None = None,
        gpus: float = 0.0,
    ) -> Execution:
        """Pauses a waiting execution at once; a running one pauses at its next boundary.

        Args:
            id: The execution.
            actor: Who does it.
            reason: Why.
            strategy: What it keeps meanwhile; None: chosen by how long that will be.
            expected_s: How long that will be; None: nobody knows.
            gpus: What its nodes hold of them.

        Raises:
            UnknownExecution: There is none with this id.
            InvalidTransition: It neither waits nor runs.
            InvalidRequest: There is no such strategy, or no such duration.
        """
        chosen = parking.choose(expected_s, gpus=gpus, explicit=strategy)

        async def work(conn: Connection) -> Execution:
            row = await locked(conn, id)
            legal(row, "execution", "pause")
            if row["status"] == ExecutionStatus.RUNNING:
                if row["wanted"] not in (Wanted.PAUSE, Wanted.STOP):
                    await conn.execute(SQL["want"], {"id": id, "wanted": "pause", "reason": reason})
                    await _tell(conn, actor, row, events.PauseRequested(reason=reason))
            else:
                why = str(PauseReason.REQUESTED)
                await apply(conn, [Change(row, "pause", actor, reason=why, epoch=1)])
            await conn.execute(
                SQL["set_strategy"], {"id": id, "strategy": str(chosen), "expected_s": expected_s}
            )
            return await get_execution(conn, id)

        return await transact(self._db, work)

    async def kill(self, id: str, *, actor: str, reason: str | None = None) -> Execution:
        """Cancels an execution at once, whatever its nodes are doing; its runner finds out later.

        Raises:
            UnknownExecution: There is none with this id.
            InvalidTransition: It has ended.
        """

        async def work(conn: Connection) -> Execution:
            row = await locked(conn, id)
            legal(row, "execution", "stop")
            await apply(conn, [Change(row, "stop", actor, reason=reason or "killed", epoch=1)])
            return await get_execution(conn, id)

        return await transact(self._db, work)

    async def withdraw_pause(self, id: str, *, actor: str) -> Execution:
        """Takes a pause back that its owner has not met yet; where none is asked for, nothing happens.

        Raises:
            UnknownExecution: There is none with this id.
        """

        async def work(conn: Connection) -> Execution:
            row = await locked(conn, id)
            if row["status"] == ExecutionStatus.RUNNING and row["wanted"] == Wanted.PAUSE:
                await conn.execute(SQL["want"], {"id": id, "wanted": "run", "reason": None})
                nothing = {"id": id, "strategy": None, "expected_s": None}
                await conn.execute(SQL["set_strategy"], nothing)
                await _tell(conn, actor, row, events.PauseWithdrawn())
            return await get_execution(conn, id)

        return await transact(self._db, work)

    async def resume(self, id: str, *, recursion_limit: int | None = None, actor: str) -> Execution:
        """Sends a paused execution on, past the breakpoint that it stands at.

        Raises:
            UnknownExecution: There is none with this id.
            InvalidTransition: It is not PAUSED.
            Conflict: It waits for answers; names the questions.
        """
        return await self._go_on(id, "resume", recursion_limit, actor)

    async def step(self, id: str, *, actor: str) -> Execution:
        """Lets a paused execution run one super-step; errors are those of `resume`."""
        return await self._go_on(id, "step", None, actor)

    async def retry(self, id: str, *, recursion_limit: int | None = None, actor: str) -> Execution:
        """Lets a failed execution go on from its head.

        Raises:
            UnknownExecution: There is none with this id.
            InvalidTransition: It has not failed.
            Conflict: It is a batch's: its cell has been scored with the failure.
            ProjectRemoved: Its project was removed.
        """
        return await self._go_on(id, "retry", recursion_limit, actor)

    async def _go_on(
        self, id: str, command: str, recursion_limit: int | None, actor: str
    ) -> Execution:
        async def work(conn: Connection) -> Execution:
            row = await locked(conn, id)
            legal(row, "execution", "retry" if command == "retry" else "resume")
            if command == "retry" and row["batch_id"] is not None:
                raise errors.Conflict(
                    f"execution {id} belongs to batch {row['batch_id']}, whose cell has failed"
                    " with it: fork it, or run the failed cells of the batch again",
                    field="execution_id",
                    reason="of a batch",
                )
            if command == "retry":
                await projects.may_go_on(conn, row["project"])
            await _refuse_unanswered(conn, row)
            await _send_on(conn, row, command, recursion_limit, actor)
            return await get_execution(conn, id)

        return await transact(self._db, work)

    async def send_late_on(self, limit: int, *, actor: str) -> list[str]:
        """Sends on paused executions whose deadline is over, so that they fail; gives their ids.

        Those that wait for answers too: nobody's answer helps them any more.
        """

        async def work(conn: Connection) -> list[str]:
            cursor = await conn.execute(SQL["lock_late"], {"limit": limit})
            rows = in_order(await cursor.fetchall())
            for row in rows:
                await _send_on(conn, row, "resume", None, actor)
            return [row["id"] for row in rows]

        return await transact(self._db, work)

    async def hold(self, id: str) -> Assignment:
        """Takes the next epoch of a paused execution that has begun, to change its state.

        It stays PAUSED; a command that comes meanwhile takes another epoch and so fences the holder.

        Raises:
            UnknownExecution: There is none with this id.
            InvalidTransition: It is not PAUSED, or has not begun.
        """

        async def work(conn: Connection) -> Assignment:
            row = await locked(conn, id)
            legal(row, "execution", "resume")
            if row["head"] is None:
                raise errors.InvalidTransition(
                    f"execution {id} has no state yet: start another one with the state wanted",
                    field="status",
                    reason="not begun",
                    state=row["status"],
                    command="change_state",
                )
            held = await (await conn.execute(SQL["hold"], {"id": id})).fetchone()
            if held is None:
                raise unknown_execution(id)
            return assignment_of(held, NOWHERE)

        return await transact(self._db, work)

    async def asked(self, id: str) -> list[dict[str, Any]]:
        """Questions at the head: `{"id", "value", "answered", "answer_schema"}` each.

        Raises:
            UnknownExecution: There is none with this id.
        """
        async with self._db.connection() as conn:
            execution = await get_execution(conn, id)
            place = {"thread_id": execution.thread_id, "head": execution.head}
            return await _asked(conn, place)

    async def answer(
        self,
        id: str,
        answers: Mapping[str, Any],
        *,
        resume: bool = True,
        recursion_limit: int | None = None,
        actor: str,
    ) -> Execution:
        """Takes answers to questions at the head, and sends the execution on.

        Raises:
            UnknownExecution: There is none with this id.
            InvalidTransition: It is not PAUSED.
            Conflict: One of the questions is not asked there, or has its answer already.
        """

        async def work(conn: Connection) -> Execution:
            row = await locked(conn, id)
            legal(row, "execution", "resume")
            place = {"thread_id": row["thread_id"], "head": row["head"]}
            questions = {q["id"]: q for q in await _asked(conn, place)}
            for name in answers:
                if name not in questions or questions[name]["answered"]:
                    reason = "answered" if name in questions else "not asked"
                    raise errors.Conflict(
                        f"interrupt {name} of execution {id} is {reason}",
                        field=f"answers.{name}",
                        reason=reason,
                        asked=[q for q in questions if not questions[q]["answered"]],
                    )
            await take(conn, row, answers, actor)
            if resume:
                await _send_on(conn, row, "resume", recursion_limit, actor)
            return await get_execution(conn, id)

        return await transact(self._db, work)

    async def set_breakpoints(
        self, id: str, breakpoints: Sequence[str], *, actor: str
    ) -> Execution:
        """Replaces an execution's breakpoints; a running one learns of them with its next commit.

        Raises:
            UnknownExecution: There is none with this id.
            InvalidTransition: It has ended.
        """

        async def work(conn: Connection) -> Execution:
            row = await locked(conn, id)
            if row["status"] in TERMINAL_EXECUTION:
                raise errors.InvalidTransition(
                    f"execution {id} is {row['status']}: it has no breakpoints any more",
                    field="status",
                    reason="ended",
                    state=row["status"],
                    command="breakpoints",
                )
            await conn.execute(SQL["set_breakpoints"], {"id": id, "breakpoints": list(breakpoints)})
            await _tell(conn, actor, row, events.BreakpointsSet(breakpoints=list(breakpoints)))
            return await get_execution(conn, id)

        return await transact(self._db, work)

    async def swap(
        self,
        id: str,
        version: ProjectVersion,
        binding: Mapping[str, str],
        *,
        fingerprints: Mapping[str, tuple[str | None, str | None]],
        actor: str,
    ) -> Execution:
        """Gives a paused execution other implementations, from its next super-step on.

        Args:
            id: The execution.
            version: The project version that it runs from now on.
            binding: Its whole new binding.
            fingerprints: What changes: by node, that of the old and of the new implementation.
            actor: Who does it.

        Raises:
            UnknownExecution: There is none with this id.
            InvalidTransition: It is not PAUSED.
        """

        async def work(conn: Connection) -> Execution:
            row = await locked(conn, id)
            legal(row, "execution", "resume")
            params = {"id": id, "binding": canonical(binding), "version": version.version}
            await conn.execute(SQL["set_binding"], params)
            told = [
                events.NodeSwapped(
                    node=node,
                    before=before,
                    after=after,
                    version=version.version,
                    binding=dict(binding),
                )
                for node, (before, after) in fingerprints.items()
            ]
            await _tell(conn, actor, row, *told)
            return await get_execution(conn, id)

        return await transact(self._db, work)


async def _send_on(
    conn: Connection, row: DictRow, command: str, recursion_limit: int | None, actor: str
) -> None:
    change = "retry" if command == "retry" else "resume"
    await apply(conn, [Change(row, change, actor, reason=command)])
    params = {
        "id": row["id"],
        "wanted": str(GOES_ON[command]),
        "recursion_limit": recursion_limit,
        "anew": command == "retry",
    }
    await conn.execute(SQL["send_on"], params)


async def _refuse_unanswered(conn: Connection, row: DictRow) -> None:
    questions = await _asked(conn, {"thread_id": row["thread_id"], "head": row["head"]})
    open_ones = [q["id"] for q in questions if not q["answered"]]
    if questions and len(open_ones) == len(questions):
        raise errors.Conflict(
            f"execution {row['id']} waits for answers to {', '.join(open_ones)}",
            field="answers",
            reason="unanswered",
            asked=open_ones,
        )


async def _asked(conn: Connection, place: Mapping[str, Any]) -> list[dict[str, Any]]:
    cursor = await conn.execute(SQL["answers_at"], place)
    answered = {row["interrupt_id"] for row in await cursor.fetchall()}
    rows = await (await conn.execute(SQL["asked_at"], place)).fetchall()
    return [
        {
            "id": asked["id"],
            "value": asked.get("value"),
            "answered": asked["id"] in answered,
            "answer_schema": _answer_schema(asked),
        }
        for row in rows
        for asked in views.view(row["type"], row["blob"])
    ]


def _answer_schema(asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the node gave as `response_schema`, else as `schema` in the value that it shows."""
    value = asked.get("value")
    beside = value.get("schema") if isinstance(value, dict) else None
    schema = asked.get("response_schema") or beside
    return schema if isinstance(schema, dict) else None


async def _tell(conn: Connection, actor: str, row: DictRow, *told: events.Event) -> None:
    entries = [Entry(actor, event, row["project"], row["id"], row["batch_id"]) for event in told]
    await append_many(conn, entries)
