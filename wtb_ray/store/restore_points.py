"""Restore points: where the state, the finished tasks and the files of an execution belong together.

Each root checkpoint is one, with no finished tasks after it; others are taken when an execution
comes to rest within a super-step. A new owner goes on from the newest one. Where files are tracked,
what tasks wrote after it is dropped when the execution is claimed, since their files are gone too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from psycopg.rows import DictRow

from wtb_ray import events
from wtb_ray.db import Connection
from wtb_ray.store.answers import count
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.sql import SQL


@dataclass(frozen=True)
class Standing:
    """What an execution has at the head that it goes on from."""

    manifest: str | None = None
    """Its files."""
    ran: tuple[str, ...] = ()
    """The nodes that ended there."""
    answers: Mapping[str, Any] = field(default_factory=dict)
    """To questions asked there, by interrupt id."""
    answered: int = 0
    """Of one whose case has answers: how many questions so far have theirs."""


NOWHERE: Final = Standing()
"""Of an execution that has not begun."""


async def go_back(conn: Connection, rows: Sequence[DictRow]) -> dict[str, Standing]:
    """Takes claimed executions that have begun back to their newest restore points, by id.

    The rows are locked. Of those that do not track files, what finished tasks wrote stays.
    """
    return {row["id"]: await _go_back(conn, row) for row in rows if row["head"] is not None}


async def _go_back(conn: Connection, row: DictRow) -> Standing:
    place = {"id": row["id"], "thread_id": row["thread_id"], "head": row["head"]}
    manifest = None
    if row["tracking"]:
        await conn.execute(SQL["drop_unkept"], place)
        manifest = await _first(conn, "manifest_of_head", place)
    ran = await _first(conn, "nodes_before_head", place)
    answers = await (await conn.execute(SQL["answers_at"], place)).fetchall()
    return Standing(
        manifest,
        tuple(run["name"] for run in orjson.loads(ran or "[]")),
        {a["interrupt_id"]: orjson.loads(a["value"]) for a in answers},
        await count(conn, row["id"]) if row["case_answers"] is not None else 0,
    )


async def _first(conn: Connection, name: str, place: Mapping[str, Any]) -> str | None:
    row = await (await conn.execute(SQL[name], place)).fetchone()
    return None if row is None else str(next(iter(row.values())))


async def take(
    conn: Connection, row: DictRow, actor: str, reason: str, manifest: str | None
) -> None:
    """Takes a restore point at the head of a locked execution at which no node runs any more."""
    params: dict[str, Any] = {"id": row["id"], "manifest": manifest, "reason": reason}
    made = await (await conn.execute(SQL["insert_restore_point"], params)).fetchone()
    if made is not None:
        event = events.RestorePointCreated(**made, manifest=manifest, reason=reason)
        await append_many(conn, [Entry(actor, event, row["project"], row["id"], row["batch_id"])])
