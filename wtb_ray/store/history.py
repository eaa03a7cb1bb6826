"""Reads of executions and of the super-steps that led to where they are."""

import orjson
from psycopg.rows import DictRow

from wtb_ray import errors
from wtb_ray.db import Connection
from wtb_ray.model import Cost, Execution, Fault, InnerStep, NodeRun, Parking, Step
from wtb_ray.store.sql import SQL


async def get_execution(conn: Connection, id: str) -> Execution:
    """The execution as it is now.

    Raises:
        UnknownExecution: There is none with this id.
    """
    sql = SQL["select_executions"] + " WHERE e.id = %(id)s"
    row = await (await conn.execute(sql, {"id": id})).fetchone()
    if row is None:
        raise unknown_execution(id)
    return execution_of(row)


async def steps_of(conn: Connection, id: str) -> list[Step]:
    """The super-steps that led to the present head, newest first, over all branches.

    Raises:
        UnknownExecution: There is none with this id.
    """
    rows = await (await conn.execute(SQL["chain_of_steps"], {"id": id})).fetchall()
    if not rows:
        await get_execution(conn, id)
    return [step_of(row) for row in rows]


async def find_step(conn: Connection, id: str, checkpoint_id: str) -> Step:
    """One step of the execution's history, abandoned ones included.

    Raises:
        UnknownExecution: There is no execution with this id.
        UnknownCheckpoint: It has no such checkpoint.
    """
    params = {"id": id, "checkpoint_id": checkpoint_id}
    row = await (await conn.execute(SQL["find_step"], params)).fetchone()
    if row is None:
        await get_execution(conn, id)
        raise errors.UnknownCheckpoint(
            f"execution {id} has no checkpoint {checkpoint_id}",
            field="checkpoint_id",
            reason="unknown",
        )
    return step_of(row)


def unknown_execution(id: str) -> errors.UnknownExecution:
    return errors.UnknownExecution(
        f"there is no execution {id}", field="execution_id", reason="unknown"
    )


def execution_of(row: DictRow) -> Execution:
    fault = None if row["error"] is None else Fault.model_validate_json(row["error"])
    parking = None if row["parking"] is None else Parking.model_validate_json(row["parking"])
    spent = None if row["spent"] is None else Cost.model_validate_json(row["spent"])
    texts = {name: orjson.loads(row[name]) for name in ("binding", "usage")}
    return Execution(**{**row, **texts, "error": fault, "parking": parking, "spent": spent})


def step_of(row: DictRow) -> Step:
    nodes = tuple(NodeRun(**node) for node in orjson.loads(row["nodes"]))
    return Step(**{**row, "nodes": nodes})


def inner_step_of(row: DictRow) -> InnerStep:
    """The names in a namespace are those of the nodes that led there, a graph's own number aside."""
    parts = [part for part in row["checkpoint_ns"].split("|") if not part.isdecimal()]
    return InnerStep(
        thread_id=row["thread_id"],
        root=row["root"],
        path="/".join(part.partition(":")[0] for part in parts),
        ran=tuple(row["ran"]),
        following=tuple(row["following"]),
    )
