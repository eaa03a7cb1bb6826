"""What the saver's tests stand on: executions as rows, graphs, and single checkpoints."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint
from langgraph.graph import START, StateGraph
from langgraph.pregel._algo import prepare_next_tasks
from langgraph.pregel._checkpoint import channels_from_checkpoint

from wtb_ray.db import Database
from wtb_ray.saver import Attachment, Boundary, Saver

_numbers = itertools.count()


def joined(left: list[Any], right: list[Any]) -> list[Any]:
    return [*left, *right]


class State(TypedDict, total=False):
    log: Annotated[list[Any], joined]
    value: Any
    text: str


Node = Callable[[State], Awaitable[dict[str, Any]]]


def says(name: str, **update: Any) -> Node:
    """A node that adds its name to the log."""

    async def node(state: State) -> dict[str, Any]:
        return {"log": [name], **update}

    return node


def chain(nodes: dict[str, Any]) -> Any:
    """The builder of a graph of these nodes, one after the other."""
    builder: Any = StateGraph(State)
    for before, (name, node) in zip([START, *nodes], nodes.items(), strict=False):
        builder.add_node(name, node)
        builder.add_edge(before, name)
    return builder


async def execution(db: Database, name: str | None = None, **columns: Any) -> Attachment:
    """A RUNNING execution of epoch 1 with one branch, as rows, and the attachment that fits it."""
    name = name or f"e{next(_numbers)}"
    thread = f"{name}.0"
    async with db.transaction() as conn:
        await conn.execute("INSERT INTO projects VALUES ('p', 'v') ON CONFLICT DO NOTHING")
        await conn.execute(
            "INSERT INTO project_versions (version, project, spec, graph)"
            " VALUES ('v', 'p', '{}', '{}') ON CONFLICT DO NOTHING"
        )
        await conn.execute(
            "INSERT INTO executions (id, project, version, status, owner, epoch, thread_id,"
            " recursion_limit) VALUES (%s, 'p', 'v', 'RUNNING', 'r', 1, %s, 25)",
            (name, thread),
        )
        await conn.execute(
            "INSERT INTO branches (thread_id, execution_id, number, reason)"
            " VALUES (%s, %s, 0, 'start')",
            (thread, name),
        )
    return Attachment(name, 1, thread, project="p", actor="runner-1", **columns)


async def again(db: Database, attachment: Attachment) -> Attachment:
    """The execution taken over by another owner: its rows, and the attachment that fits them."""
    row = await db.row(
        "UPDATE executions SET epoch = epoch + 1 WHERE id = %s"
        " RETURNING epoch, thread_id, head, head_step",
        (attachment.execution_id,),
    )
    assert row is not None
    return Attachment(attachment.execution_id, project="p", actor="runner-2", **row)


def follow(graph: Any, attachment: Attachment) -> Attachment:
    """Gives the attachment the boundary of this graph, as a runner does."""

    def boundary(checkpoint: Checkpoint, metadata: Any, config: RunnableConfig) -> Boundary:
        channels, managed = channels_from_checkpoint(graph.channels, checkpoint)
        step = metadata["step"] + 1
        found: Any = prepare_next_tasks(
            checkpoint,
            [],
            graph.nodes,
            channels,
            managed,
            config,
            step,
            step + 2,
            for_execution=False,
            trigger_to_nodes=graph.trigger_to_nodes,
        )
        tasks = tuple((task.id, task.name) for task in found.values())
        return Boundary(tuple(name for _, name in tasks), tasks)

    attachment.boundary = boundary
    return attachment


def config_of(attachment: Attachment, checkpoint_id: str | None = None) -> RunnableConfig:
    """The config by which LangGraph names the thread, or one of its checkpoints."""
    place = {"thread_id": attachment.thread_id, "checkpoint_ns": ""}
    return {"configurable": place | ({"checkpoint_id": checkpoint_id} if checkpoint_id else {})}


async def run(graph: Any, attachment: Attachment, given: Any) -> Any:
    """Runs an attached thread as a runner does."""
    return await graph.ainvoke(given, config_of(attachment), durability="sync")


def checkpoint(id: str, **values: Any) -> Checkpoint:
    """A checkpoint with these channel values."""
    return {
        "v": 4,
        "id": id,
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": values,
        "channel_versions": {channel: f"{id}.{channel}" for channel in values},
        "versions_seen": {},
        "updated_channels": list(values),
    }


async def put(
    saver: Saver,
    attachment: Attachment,
    id: str,
    step: int,
    *,
    parent: str | None = None,
    metadata: dict[str, Any] | None = None,
    **values: Any,
) -> None:
    """Stores one root checkpoint."""
    made = checkpoint(id, **values)
    about: Any = {"source": "loop", "step": step, "parents": {}, **(metadata or {})}
    await saver.aput(config_of(attachment, parent), made, about, made["channel_versions"])


async def put_writes(
    saver: Saver,
    attachment: Attachment,
    id: str,
    writes: Sequence[tuple[str, Any]],
    task: str = "task",
) -> None:
    """Stores what a task of the checkpoint wrote."""
    await saver.aput_writes(config_of(attachment, id), writes, task)


async def count(db: Database, table: str, attachment: Attachment) -> int:
    """How many rows of a table belong to the attachment's thread or execution."""
    column = {"events": "execution_id"}.get(table, "thread_id")
    key = attachment.execution_id if column == "execution_id" else attachment.thread_id
    row = await db.row(f"SELECT count(*) AS n FROM {table} WHERE {column} = %s", (key,))
    return int(row["n"]) if row else 0


async def head(db: Database, attachment: Attachment) -> tuple[str | None, int | None]:
    """The head in the execution's row."""
    row = await db.row(
        "SELECT head, head_step FROM executions WHERE id = %s", (attachment.execution_id,)
    )
    assert row is not None
    return row["head"], row["head_step"]


async def until(reached: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    """Returns when the condition holds; fails when it does not within the time."""
    deadline = time.monotonic() + seconds
    while not await reached():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.01)
