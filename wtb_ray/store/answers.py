"""Answers to questions: rows that stand as soon as they are accepted, so that nobody is asked twice."""

from collections.abc import Mapping
from typing import Any

from psycopg.rows import DictRow

from wtb_ray import events
from wtb_ray.db import Connection
from wtb_ray.model import canonical
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.sql import SQL


async def take(
    conn: Connection,
    row: DictRow,
    answers: Mapping[str, Any],
    actor: str,
    *,
    prepared: bool = False,
) -> None:
    """Stores answers to open questions at the head of a locked execution, by interrupt id.

    Args:
        conn: The transaction that holds the lock.
        row: The execution.
        answers: Each to a question that is asked there and has no answer.
        actor: Who gives them.
        prepared: Whether they are those of its case.
    """
    values = [canonical(value) for value in answers.values()]
    params = {"id": row["id"], "interrupts": list(answers), "values": values}
    await conn.execute(SQL["insert_answers"], params)
    event = events.InterruptAnswered(interrupts=list(answers), prepared=prepared)
    await append_many(conn, [Entry(actor, event, row["project"], row["id"], row["batch_id"])])


async def count(conn: Connection, id: str) -> int:
    """How many questions on the way to its head an execution has answers to."""
    row = await (await conn.execute(SQL["count_answers"], {"id": id})).fetchone()
    answered: int = 0 if row is None else row["n"]
    return answered
