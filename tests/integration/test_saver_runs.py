"""What a run of a graph leaves behind, and how another run finds its way from there."""

import asyncio
import pathlib
import random
import time
from typing import Annotated, Any, TypedDict

import orjson
import pytest
from langgraph.checkpoint.base import id as checkpoint_ids
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel

from tests.integration.saver_bench import (
    State,
    again,
    chain,
    checkpoint,
    config_of,
    count,
    execution,
    follow,
    head,
    joined,
    run,
    says,
)
from wtb_ray import errors
from wtb_ray.db import Database
from wtb_ray.events import EVENT, StepCompleted
from wtb_ray.model import NodeRun
from wtb_ray.saver import Attachment, Saver, read_state


async def asks(state: State) -> dict[str, Any]:
    return {"log": [f"asked:{interrupt('well?')}"]}


def attached(saver: Saver, graph: Any, attachment: Attachment) -> Attachment:
    saver.attach(follow(graph, attachment))
    return attachment


def another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on ids are made by a host that is five seconds behind."""
    now = time.time_ns
    monkeypatch.setattr(checkpoint_ids, "_last_v6_timestamp", None)
    monkeypatch.setattr(time, "time_ns", lambda: now() - 5_000_000_000)


async def test_every_step_has_its_row_and_event(db: Database) -> None:
    async def slow(state: State) -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return {"log": ["b"]}

    saver = Saver(db)
    graph = chain({"a": says("a"), "b": slow}).compile(checkpointer=saver)
    attachment = attached(saver, graph, await execution(db))
    await run(graph, attachment, {"log": []})
    rows = await db.rows("SELECT * FROM steps ORDER BY step")
    assert [(row["step"], row["source"], row["next_nodes"]) for row in rows] == [
        (-1, "input", ["__start__"]),
        (0, "loop", ["a"]),
        (1, "loop", ["b"]),
        (2, "loop", []),
    ]
    nodes = [[NodeRun(**node) for node in orjson.loads(row["nodes"])] for row in rows]
    assert [[node.name for node in step] for step in nodes] == [[], [], ["a"], ["b"]]
    assert 50 <= nodes[3][0].duration_ms <= rows[3]["duration_ms"]
    assert nodes[3][0].error is None
    assert attachment.steps == 2
    row = await db.row(
        "SELECT count(*) AS n FROM checkpoint_writes WHERE checkpoint_id = %s",
        (rows[0]["checkpoint_id"],),
    )
    assert row == {"n": 0}  # the input can be spread over the channels again
    assert (attachment.head, attachment.head_step) == (rows[3]["checkpoint_id"], 2)

    events = await db.rows("SELECT * FROM events ORDER BY xid, seq")
    assert [event["type"] for event in events] == ["step.completed"] * 2
    for event, row in zip(events, rows[2:], strict=True):
        told = EVENT.validate_python({"type": event["type"], **orjson.loads(event["payload"])})
        assert isinstance(told, StepCompleted)
        assert told.payload() == event["payload"]
        assert (told.step, told.checkpoint_id) == (row["step"], row["checkpoint_id"])
        assert told.next_nodes == row["next_nodes"]
        assert (event["project"], event["actor"]) == ("p", "runner-1")
        assert event["execution_id"] == attachment.execution_id


async def test_parallel_nodes_and_sends_are_told_apart(db: Database) -> None:
    def spread(state: State) -> list[Send]:
        return [Send("worker", {"log": [number]}) for number in range(3)]

    async def worker(state: State) -> dict[str, Any]:
        return {"log": [f"w{state['log'][0]}"]}

    builder: Any = StateGraph(State)
    for name in ("a", "b"):
        builder.add_node(name, says(name))
        builder.add_edge(START, name)
    builder.add_node("worker", worker)
    builder.add_conditional_edges("a", spread, ["worker"])
    saver = Saver(db)
    graph = builder.compile(checkpointer=saver)
    attachment = attached(saver, graph, await execution(db))
    assert (await run(graph, attachment, {"log": []}))["log"] == ["a", "b", "w0", "w1", "w2"]
    rows = await db.rows("SELECT nodes::jsonb AS nodes FROM steps WHERE step > 0 ORDER BY step")
    assert [[node["name"] for node in row["nodes"]] for row in rows] == [["a", "b"], ["worker"] * 3]
    assert len({node["task_id"] for node in rows[1]["nodes"]}) == 3


async def test_an_error_that_a_handler_took_is_shown_at_its_node(db: Database) -> None:
    async def fails(state: State) -> dict[str, Any]:
        raise ValueError("no \x00 \ud800")

    async def handler(state: State) -> dict[str, Any]:
        return {"log": ["handled"]}

    builder: Any = StateGraph(State)
    builder.add_node("fails", fails, error_handler=handler)
    builder.add_edge(START, "fails")
    saver = Saver(db)
    graph = builder.compile(checkpointer=saver)
    attachment = attached(saver, graph, await execution(db))
    assert (await run(graph, attachment, {"log": []}))["log"] == ["handled"]
    row = await db.row("SELECT nodes::jsonb AS nodes FROM steps WHERE step = 1")
    assert row is not None
    assert [node["name"] for node in row["nodes"]] == ["fails"]
    assert row["nodes"][0]["error"].startswith("ValueError('no")


async def test_another_process_goes_on_from_the_head(db: Database) -> None:
    dies = True

    async def fragile(state: State) -> dict[str, Any]:
        if dies:
            raise RuntimeError("gone")
        return {"log": ["fragile"]}

    graphs = []
    for saver in (Saver(db), Saver(db)):
        nodes = {"a": says("a"), "fragile": fragile, "b": says("b")}
        graphs.append((saver, chain(nodes).compile(checkpointer=saver)))
    (one, first), (two, second) = graphs
    attachment = attached(one, first, await execution(db))
    with pytest.raises(RuntimeError):
        await run(first, attachment, {"log": []})
    dies = False
    taken = attached(two, second, await again(db, attachment))
    assert (await run(second, taken, None))["log"] == ["a", "fragile", "b"]
    rows = await db.rows("SELECT nodes::jsonb AS nodes FROM steps WHERE step > 0 ORDER BY step")
    assert [[node["name"] for node in row["nodes"]] for row in rows] == [["a"], ["fragile"], ["b"]]
    assert await count(db, "events", attachment) == 3


async def test_the_writes_of_a_finished_sibling_are_kept(db: Database) -> None:
    ran: list[str] = []

    async def sibling(state: State) -> dict[str, Any]:
        ran.append("sibling")
        return {"log": ["sibling"]}

    builder: Any = StateGraph(State)
    builder.add_node("asks", asks)
    builder.add_node("sibling", sibling)
    builder.add_edge(START, "asks")
    builder.add_edge(START, "sibling")
    saver = Saver(db)
    graph = builder.compile(checkpointer=saver)
    attachment = attached(saver, graph, await execution(db))
    await run(graph, attachment, {"log": []})
    assert len(attachment.interrupts) == 1
    other = Saver(db)
    graph = builder.compile(checkpointer=other)
    taken = attached(other, graph, await again(db, attachment))
    done = await run(graph, taken, Command(resume="yes"))
    assert sorted(done["log"]) == ["asked:yes", "sibling"]
    assert ran == ["sibling"]


async def test_a_node_that_seeds_random_does_not_make_versions_repeat(db: Database) -> None:
    async def seeds(state: State) -> dict[str, Any]:
        random.seed(1)
        return {"log": ["seeds"]}

    saver = Saver(db)
    graph = chain({"seeds": seeds, "a": says("a")}).compile(checkpointer=saver)
    for _ in range(2):
        attachment = attached(saver, graph, await execution(db))
        await run(graph, attachment, {"log": []})
    rows = await db.rows(
        "SELECT version FROM checkpoint_blobs WHERE channel = 'log' ORDER BY version"
    )
    assert len({row["version"] for row in rows}) == len(rows) >= 4


async def test_a_host_whose_clock_is_behind_goes_on_from_the_head(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = {"a": says("a"), "ask1": asks, "b": says("b"), "ask2": asks, "c": says("c")}
    saver = Saver(db)
    graph = chain(nodes).compile(checkpointer=saver)
    first = attached(saver, graph, await execution(db))
    await run(graph, first, {"log": []})

    another_host(monkeypatch)
    second = attached(saver, graph, await again(db, first))
    await run(graph, second, Command(resume="1"))
    assert second.head is not None
    assert first.head is not None
    assert second.head < first.head

    third = attached(saver, graph, await again(db, first))
    state = await graph.aget_state(config_of(third))
    assert state.next == ("ask2",)
    done = await run(graph, third, Command(resume="2"))
    assert done["log"] == ["a", "asked:1", "b", "asked:2", "c"]
    assert await head(db, first) == (third.head, 5)


async def test_a_new_thread_is_not_read(url: str) -> None:
    closed = Saver(Database(url, timeout=0.05))
    attachment = Attachment("e", 1, "e.0")
    closed.attach(attachment)
    assert await closed.aget_tuple(config_of(attachment)) is None
    inner: Any = {"configurable": {"thread_id": "e.0", "checkpoint_ns": "node:task"}}
    assert await closed.aget_tuple(inner) is None


async def test_a_head_that_is_not_stored_is_an_error_not_a_new_start(db: Database) -> None:
    saver = Saver(db)
    attachment = await execution(db, head="missing", head_step=3)
    saver.attach(attachment)
    with pytest.raises(errors.UnknownCheckpoint):
        await saver.aget_tuple(config_of(attachment))
    assert await saver.aget_tuple(config_of(attachment, "other")) is None


class Inner(TypedDict, total=False):
    log: Annotated[list[Any], joined]


def nested(inner: Any) -> Any:
    builder: Any = StateGraph(State)
    builder.add_node("inner", inner)
    builder.add_node("after", says("after"))
    builder.add_edge(START, "inner")
    builder.add_edge("inner", "after")
    return builder


async def inner_asks(state: Inner) -> dict[str, Any]:
    return {"log": [f"inner:{interrupt('inner?')}"]}


def inner_graph(**options: Any) -> Any:
    builder: Any = StateGraph(Inner)
    builder.add_node("one", says("one"))
    builder.add_node("asks", inner_asks)
    builder.add_edge(START, "one")
    builder.add_edge("one", "asks")
    builder.add_edge("asks", END)
    return builder.compile(**options)


async def test_a_subgraph_goes_on_where_it_asked_although_the_clock_is_behind(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = Saver(db)
    graph = nested(inner_graph()).compile(checkpointer=saver)
    first = attached(saver, graph, await execution(db))
    await run(graph, first, {"log": []})
    assert (await head(db, first))[1] == 0

    another_host(monkeypatch)
    second = attached(saver, graph, await again(db, first))
    done = await run(graph, second, Command(resume="yes"))
    assert done["log"] == ["one", "inner:yes", "after"]


async def test_the_newest_of_a_subgraph_is_the_row_without_a_child(db: Database) -> None:
    saver = Saver(db)
    attachment = await execution(db, head="root", head_step=1)
    saver.attach(attachment)
    place = {"thread_id": attachment.thread_id, "checkpoint_ns": "node"}
    parent: dict[str, Any] = {}
    for step, id in enumerate(("5", "7", "6")):
        await saver.aput(
            {"configurable": {**place, **parent}},
            checkpoint(id),
            {"source": "loop", "step": step, "parents": {}},
            {},
        )
        parent = {"checkpoint_id": id}
    found = await saver.aget_tuple({"configurable": place})
    assert found is not None
    assert found.checkpoint["id"] == "6"


async def test_a_synchronous_node_may_invoke_a_graph_of_its_own(db: Database) -> None:
    def inner(state: State) -> dict[str, Any]:
        return {"log": compiled.invoke({"log": []})["log"]}

    compiled = chain({"x": lambda _: {"log": ["x"]}, "y": lambda _: {"log": ["y"]}}).compile()
    saver = Saver(db)
    graph = nested(inner).compile(checkpointer=saver)
    attachment = attached(saver, graph, await execution(db))
    assert (await run(graph, attachment, {"log": []}))["log"] == ["x", "y", "after"]
    row = await db.row("SELECT count(*) AS n FROM checkpoints WHERE checkpoint_ns <> ''")
    assert row is not None
    assert row["n"] == 4
    with pytest.raises(errors.ConfigurationError):
        saver.get_tuple(config_of(attachment))
    found = await asyncio.to_thread(lambda: list(saver.list(config_of(attachment))))
    assert len(found) == 4


async def test_a_branch_copied_from_another_knows_its_tasks(db: Database) -> None:
    saver = Saver(db)
    graph = chain({"a": says("a"), "b": says("b"), "c": says("c")}).compile(checkpointer=saver)
    first = attached(saver, graph, await execution(db))
    await run(graph, first, {"log": []})
    fork = await db.row("SELECT checkpoint_id AS id FROM steps WHERE step = 1")
    assert fork is not None
    thread = f"{first.execution_id}.1"
    async with db.transaction() as conn:
        await conn.execute(
            "INSERT INTO checkpoints SELECT (jsonb_populate_record(c, jsonb_build_object("
            "'thread_id', %s::text))).* FROM checkpoints c WHERE checkpoint_id = %s",
            (thread, fork["id"]),
        )
        await conn.execute(
            "INSERT INTO checkpoint_blobs SELECT %s, checkpoint_ns, channel, version, type, blob"
            " FROM checkpoint_blobs",
            (thread,),
        )
        await conn.execute(
            "INSERT INTO branches (thread_id, execution_id, number, parent_thread,"
            " parent_checkpoint, reason) VALUES (%s, %s, 1, %s, %s, 'rollback')",
            (thread, first.execution_id, first.thread_id, fork["id"]),
        )
        await conn.execute(
            "UPDATE executions SET thread_id = %s, head = %s, head_step = 1", (thread, fork["id"])
        )
    second = attached(saver, graph, await again(db, first))
    assert second.thread_id == thread
    assert (await run(graph, second, None))["log"] == ["a", "b", "c"]
    rows = await db.rows(
        "SELECT nodes::jsonb AS nodes FROM steps WHERE thread_id = %s ORDER BY step", (thread,)
    )
    assert [[node["name"] for node in row["nodes"]] for row in rows] == [["b"], ["c"]]


async def test_a_change_of_state_is_a_step_without_nodes(db: Database) -> None:
    saver = Saver(db)
    graph = chain({"a": says("a"), "b": says("b")}).compile(checkpointer=saver)
    attachment = attached(saver, graph, await execution(db))
    await run(graph, attachment, {"log": []})
    await graph.aupdate_state(config_of(attachment), {"text": "new"}, as_node="a")
    row = await db.row("SELECT * FROM steps WHERE step = 3")
    assert row is not None
    assert (row["source"], row["nodes"], row["next_nodes"]) == ("update", "[]", ["b"])
    assert await head(db, attachment) == (row["checkpoint_id"], 3)
    state = await graph.aget_state(config_of(attachment))
    assert (state.next, state.values["text"]) == (("b",), "new")


class Mine(BaseModel):
    x: int


class Typed(TypedDict, total=False):
    mine: Mine


async def test_savers_of_several_graphs_share_one_group_commit(db: Database) -> None:
    async def node(state: Typed) -> dict[str, Any]:
        return {"mine": Mine(x=1)}

    builder: Any = StateGraph(Typed)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    saver = Saver(db)
    graph = builder.compile(checkpointer=saver)
    assert graph.checkpointer is not saver  # LangGraph allows the types of its schema in a copy
    attachment = attached(saver, graph, await execution(db))
    assert await run(graph, attachment, {}) == {"mine": Mine(x=1)}
    await saver.flush(attachment.thread_id)
    with pytest.raises(errors.UnstorableValue):
        saver.serde.dumps_typed(Mine(x=1))


@pytest.mark.parametrize(
    "bad",
    [
        "/ws/e1/1/out.txt",
        "/ws/e1/1",
        {"deep": [("x", "/ws/e1/1/a")]},
        pathlib.Path("/ws/e1/1/out.txt"),
        {"/ws/e1/1/key": 1},
    ],
    ids=str,
)
async def test_a_path_inside_the_workspace_is_refused_with_its_channel(
    bad: Any, db: Database
) -> None:
    saver = Saver(db)
    graph = chain({"a": says("a", value=bad), "b": says("b")}).compile(checkpointer=saver)
    attachment = attached(saver, graph, await execution(db, forbidden_prefix="/ws/e1/1/"))
    with pytest.raises(errors.UnstorableValue, match="'value'"):
        await run(graph, attachment, {"log": []})
    assert (await head(db, attachment))[1] == 0


async def test_texts_that_only_mention_the_workspace_are_stored(db: Database) -> None:
    saver = Saver(db)
    fine = ["/ws/e1/10/out.txt", "see /ws/e1/1/out.txt", pathlib.Path("/other")]
    graph = chain({"a": says("a", value=fine, text="at /ws/e1/1/x")}).compile(checkpointer=saver)
    attachment = attached(saver, graph, await execution(db, forbidden_prefix="/ws/e1/1"))
    assert (await run(graph, attachment, {"log": []}))["value"] == fine


async def test_state_is_read_as_plain_json(db: Database) -> None:
    saver = Saver(db)
    graph = chain({"a": says("a", value=(1, {2}), text="t")}).compile(checkpointer=saver)
    attachment = attached(saver, graph, await execution(db))
    await run(graph, attachment, {"log": []})
    assert attachment.head is not None
    shown = {"__type__": "builtins.set", "value": [2]}
    thread, id = attachment.thread_id, attachment.head
    assert await read_state(db, thread, id) == {"log": ["a"], "text": "t", "value": [1, shown]}
    assert await read_state(db, thread, id, ["text"]) == {"text": "t"}
    assert await read_state(db, thread, id, ["value", "none"]) == {"value": [1, shown]}
    with pytest.raises(errors.UnknownCheckpoint):
        await read_state(db, thread, "none")
