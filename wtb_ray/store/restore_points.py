"""Restore points: where the state, the finished tasks and the files of an execution belong together.

Each root checkpoint is one, with no finished tasks after it; others are taken when an execution
comes to rest within a super-step. A new owner goes on from the newest one. Where files are tracked,
what tasks wrote after it is dropped when the execution is claimed, since their files are gone too.
"""

from collections.abc import Sequence
from typing import Any

from psycopg.rows import DictRow

from wtb_ray import events
from wtb_ray.db import Connection
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.sql import SQL


async def go_back(conn: Connection, rows: Sequence[DictRow]) -> dict[str, str | None]:
    """Takes claimed executions back to their newest restore points; gives the manifests by id.

    The rows are locked. Those that do not track files, or have not begun, are left as they are.
    """
    manifests: dict[str, str | None] = {}
    for row in rows:
        if row["tracking"] and row["head"] is not None:
            await conn.execute(
                SQL["drop_unkept"], {"thread_id": row["thread_id"], "head": row["head"]}
            )
            found = await (
                await conn.execute(SQL["manifest_of_head"], {"id": row["id"]})
            ).fetchone()
            manifests[row["id"]] = None if found is None else found["manifest"]
    return manifests


async def take(
    conn: Connection, row: DictRow, actor: str, reason: str, manifest: str | None
) -> None:
    """Takes a restore point at the head of a locked execution at which no node runs any more."""
    params: dict[str, Any] = {"id": row["id"], "manifest": manifest, "reason": reason}
    made = await (await conn.execute(SQL["insert_restore_point"], params)).fetchone()
    if made is not None:
        event = events.RestorePointCreated(**made, manifest=manifest, reason=reason)
        await append_many(conn, [Entry(actor, event, row["project"], row["id"], row["batch_id"])])
