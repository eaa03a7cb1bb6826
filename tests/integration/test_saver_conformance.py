"""`Saver(unfenced=True)` is a LangGraph checkpointer, and shares its tables with LangGraph's own."""

import collections
import math
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.postgres.base import BasePostgresSaver
from langgraph.types import Command, interrupt

from tests.integration.saver_bench import State, chain, config_of, execution, follow, run, says
from wtb_ray.db import Database
from wtb_ray.saver import Saver

LARGE = "x" * 2_000
GIVEN = {"log": ["in"], "text": "plain", "value": {"k": [1, "ü", None]}}


async def asks(state: State) -> dict[str, Any]:
    return {"log": [interrupt({"ask": "well?"})], "text": LARGE}


def builder() -> Any:
    return chain({"a": says("a", value=[1, {"x": 2.5}]), "asks": asks, "b": says("b", value=7)})


@pytest.fixture
async def stock(url: str) -> AsyncIterator[AsyncPostgresSaver]:
    async with AsyncPostgresSaver.from_conn_string(url) as saver:
        yield saver


async def test_langgraphs_conformance_suite_passes(db: Database) -> None:
    async def saver() -> AsyncIterator[Saver]:
        yield Saver(db, unfenced=True)

    report = await validate(checkpointer_test(name="wtb")(saver))
    assert report.passed_all_base(), report.to_dict()
    failures = {name: result.failures for name, result in report.results.items() if result.failures}
    assert failures == {}


@pytest.mark.parametrize("ours_first", [True, False])
async def test_a_thread_begun_with_one_saver_goes_on_with_the_other(
    ours_first: bool, db: Database, stock: AsyncPostgresSaver
) -> None:
    ours = Saver(db, unfenced=True)
    first, second = (ours, stock) if ours_first else (stock, ours)
    config: Any = {"configurable": {"thread_id": "t"}}
    began = builder().compile(checkpointer=first)
    await began.ainvoke(GIVEN, config, durability="sync")
    goes_on = builder().compile(checkpointer=second)

    assert await goes_on.aget_state(config) == await began.aget_state(config)
    assert (await goes_on.aget_state(config)).next == ("asks",)
    result = await goes_on.ainvoke(Command(resume="fine"), config, durability="sync")
    assert result["log"] == ["in", "a", "fine", "b"]
    assert (result["text"], result["value"]) == (LARGE, 7)

    histories = [
        [state async for state in graph.aget_state_history(config)] for graph in (began, goes_on)
    ]
    assert histories[0] == histories[1]
    assert len(histories[0]) == 5


async def test_an_executions_thread_is_read_by_langgraphs_saver(
    db: Database, stock: AsyncPostgresSaver
) -> None:
    saver = Saver(db)
    ours, theirs = (builder().compile(checkpointer=each) for each in (saver, stock))
    attachment = follow(ours, await execution(db))
    saver.attach(attachment)
    await run(ours, attachment, GIVEN)
    config = config_of(attachment)
    assert await theirs.aget_state(config) == await ours.aget_state(config)
    await run(ours, attachment, Command(resume="fine"))
    assert await theirs.aget_state(config) == await ours.aget_state(config)
    assert (await theirs.aget_state(config)).values["log"] == ["in", "a", "fine", "b"]


async def test_rows_are_split_as_langgraph_splits_them(
    db: Database, stock: AsyncPostgresSaver
) -> None:
    rows = []
    for saver in (Saver(db, unfenced=True), stock):
        thread = type(saver).__name__
        config: Any = {"configurable": {"thread_id": thread}}
        graph = builder().compile(checkpointer=saver)
        await graph.ainvoke(GIVEN, config, durability="sync")
        await graph.ainvoke(Command(resume="fine"), config, durability="sync")
        rows.append(
            (
                await db.rows(
                    "SELECT metadata, checkpoint -> 'channel_values' AS inline FROM checkpoints"
                    " WHERE thread_id = %s ORDER BY (metadata ->> 'step')::int",
                    (thread,),
                ),
                await db.rows(
                    "SELECT channel, type, blob, split_part(version, '.', 1) AS version"
                    " FROM checkpoint_blobs WHERE thread_id = %s ORDER BY channel, version",
                    (thread,),
                ),
                await db.rows(
                    "SELECT channel, type, idx, task_path FROM checkpoint_writes"
                    " WHERE thread_id = %s ORDER BY channel, idx, task_path",
                    (thread,),
                ),
            )
        )
    assert rows[0] == rows[1]


ODD = {
    "NUL": "a\x00b",
    "lone surrogate": "a\ud83d",
    "nested NUL": ["a\x00b"],
    "not a number": math.nan,
    "infinite": -math.inf,
    "negative zero": -0.0,
    "large float": 1e22,
    "tuple": (1, ("a",)),
    "set of tuples": {(1, 2)},
    "counter": collections.Counter("ab"),
    "numpy scalar": np.float64(1.5),
    "bytes": b"\x00\xff",
    "bytearray": bytearray(b"a"),
}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
async def test_what_jsonb_would_change_comes_back_as_it_was(
    value: Any, db: Database, stock: AsyncPostgresSaver
) -> None:
    saver = Saver(db)
    graph = chain({"a": says("a", value=value), "b": says("b")}).compile(checkpointer=saver)
    attachment = follow(graph, await execution(db))
    saver.attach(attachment)
    await run(graph, attachment, {"log": [], "text": "x"})
    state = await graph.aget_state(config_of(attachment))
    back = state.values["value"]
    assert type(back) is type(value)
    assert repr(back) == repr(value)
    theirs = (
        await chain({"a": says("a"), "b": says("b")})
        .compile(checkpointer=stock)
        .aget_state(config_of(attachment))
    )
    assert theirs.values["log"] == ["a", "b"]


async def test_checkpoints_of_old_langgraph_versions_keep_their_sends(
    db: Database, stock: AsyncPostgresSaver
) -> None:
    ours = Saver(db, unfenced=True)
    parent: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    old: Any = {"v": 2, "ts": "", "channel_values": {}, "versions_seen": {}}
    old |= {"channel_versions": {"x": "1"}, "updated_channels": None}
    about: Any = {"source": "loop", "step": 1, "parents": {}}
    parent = await stock.aput(parent, old | {"id": "1"}, about, {})
    await stock.aput_writes(parent, [("__pregel_tasks", ["sent"])], "task")
    child = await stock.aput(parent, old | {"id": "2"}, about, {})
    read = [await saver.aget_tuple(child) for saver in (ours, stock)]
    assert read[0] == read[1]
    assert read[0] is not None
    assert read[0].checkpoint["channel_values"] == {"__pregel_tasks": [["sent"]]}
    listed = [[found async for found in saver.alist(parent)] for saver in (ours, stock)]
    assert listed[0] == listed[1]


def test_what_we_take_from_langgraphs_saver_is_there() -> None:
    for private in ("_load_blobs", "_load_writes", "_migrate_pending_sends", "_search_where"):
        assert callable(getattr(BasePostgresSaver, private))
