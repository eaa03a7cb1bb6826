"""Everything is stored once, whatever happens to the connection, the data or the order."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from langgraph.types import interrupt

from tests.integration.saver_bench import (
    State,
    again,
    chain,
    config_of,
    count,
    execution,
    follow,
    head,
    put,
    put_writes,
    run,
    says,
)
from tests.integration.socket_proxy import SocketProxy
from wtb_ray import commits, errors
from wtb_ray.db import Database
from wtb_ray.saver import Saver

TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes", "steps", "events")


@pytest_asyncio.fixture
async def proxy(url: str) -> AsyncIterator[SocketProxy]:
    async with SocketProxy(url).running() as proxy:
        yield proxy


@pytest_asyncio.fixture
async def far(proxy: SocketProxy) -> AsyncIterator[Database]:
    """A database behind the proxy."""
    async with Database(proxy.url) as database:
        yield database


@pytest.mark.parametrize("how", ["before", "after", "silent"])
async def test_a_connection_lost_in_commit_neither_loses_nor_doubles(
    how: str, proxy: SocketProxy, far: Database, db: Database
) -> None:
    saver = Saver(far)
    runs = [await execution(db) for _ in range(3)]
    for attachment in runs:
        saver.attach(attachment)
    await asyncio.gather(*(put(saver, attachment, "1", 1) for attachment in runs))
    proxy.lose_commits(how)
    await asyncio.gather(
        *(put(saver, attachment, "2", 2, parent="1", value=[1]) for attachment in runs)
    )
    assert proxy.lost == 1
    for attachment in runs:
        assert await head(db, attachment) == ("2", 2)
        assert [await count(db, table, attachment) for table in TABLES] == [2, 1, 0, 2, 2]
        assert not attachment.fenced


@pytest.mark.parametrize("given_again", [True, False])
async def test_a_number_lost_in_a_crash_of_the_server_is_no_proof(
    given_again: bool, db: Database
) -> None:
    # After its recovery the number may be another's, which did commit, or not be given yet.
    row = await db.row("SELECT pg_current_xact_id()::text AS xid")
    assert row is not None
    item = commits.Put(thread_id="e.0", ns="", checkpoint_id="1", claim=None)
    trial = commits._Trial([item])
    trial.outcomes = ["run"]
    trial.xid = row["xid"] if given_again else str(int(row["xid"]) + 1_000_000)
    assert not await commits.Commits(db)._is_committed(trial, time.monotonic() + 5)


async def test_commits_lost_again_and_again_leave_a_graph_as_it_would_be(
    proxy: SocketProxy, far: Database, db: Database
) -> None:
    saver = Saver(far)
    graph = chain({f"n{i}": says(f"n{i}") for i in range(4)}).compile(checkpointer=saver)
    runs = [follow(graph, await execution(db)) for _ in range(6)]
    for attachment in runs:
        saver.attach(attachment)
    seen = 0

    def every_other(data: bytes) -> str | None:
        nonlocal seen
        seen += b"COMMIT" in data
        return ("before", "after")[seen // 2 % 2] if b"COMMIT" in data and seen % 2 else None

    proxy.lose = every_other
    done = await asyncio.gather(*(run(graph, attachment, {"log": []}) for attachment in runs))
    assert proxy.lost > 2
    assert [result["log"] for result in done] == [["n0", "n1", "n2", "n3"]] * 6
    for attachment in runs:
        assert [await count(db, table, attachment) for table in ("checkpoints", "steps")] == [6, 6]
        assert await count(db, "events", attachment) == 4


async def test_a_database_that_is_away_for_a_while_is_waited_for(
    proxy: SocketProxy, far: Database, db: Database
) -> None:
    saver = Saver(far)
    attachment = await execution(db)
    saver.attach(attachment)
    await put(saver, attachment, "1", 1)
    proxy.lose_commits("before", times=3)
    await put(saver, attachment, "2", 2, parent="1")
    assert proxy.lost == 3
    assert await head(db, attachment) == ("2", 2)


async def test_a_database_that_stays_away_is_a_typed_error(
    proxy: SocketProxy, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "PATIENCE_S", 0.2)
    async with Database(proxy.url, timeout=0.2) as far:
        saver = Saver(far)
        attachment = await execution(db)
        saver.attach(attachment)
        await put(saver, attachment, "1", 1)
        proxy.lose_commits("before", times=1_000)
        proxy.refuse = True
        with pytest.raises(errors.DatabaseUnavailable):
            await put(saver, attachment, "2", 2, parent="1")
        with pytest.raises(errors.DatabaseUnavailable):
            await put_writes(saver, attachment, "2", [("value", 1)])
        with pytest.raises(errors.DatabaseUnavailable):
            await saver.flush(attachment.thread_id)
    assert await head(db, attachment) == ("1", 1)


async def test_a_bad_item_fails_alone(db: Database) -> None:
    saver = Saver(db)
    runs = [await execution(db) for _ in range(4)]
    for attachment in runs:
        saver.attach(attachment)
    bad: dict[str, Any] = {"metadata": {"nested": {"text": "a\x00b"}}}
    outcomes = await asyncio.gather(
        *(
            put(saver, attachment, "1", 1, value=[1], **(bad if number == 1 else {}))
            for number, attachment in enumerate(runs)
        ),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], errors.UnstorableValue)
    assert outcomes[1].details["thread_id"] == runs[1].thread_id
    assert [outcomes[i] for i in (0, 2, 3)] == [None] * 3
    assert [await count(db, "events", attachment) for attachment in runs] == [1, 0, 1, 1]
    await put(saver, runs[1], "2", 1)
    assert await head(db, runs[1]) == ("2", 1)


async def test_data_that_only_postgres_refuses_names_its_channel(db: Database) -> None:
    saver = Saver(db)
    attachment, other = await execution(db), await execution(db)
    saver.attach(attachment)
    saver.attach(other)
    outcomes = await asyncio.gather(
        put_writes(saver, attachment, "1", [("channel\x00", 1)]),
        put(saver, other, "1", 1),
        return_exceptions=True,
    )
    assert not any(outcomes)  # not its head: dropped
    await put(saver, attachment, "1", 1)
    outcomes = await asyncio.gather(
        put_writes(saver, attachment, "1", [("channel\x00", 1)]),
        put(saver, other, "2", 2, parent="1"),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], errors.UnstorableValue)
    assert outcomes[0].details["channel"] == "channel\x00"
    assert outcomes[1] is None


async def test_what_is_too_large_for_postgres_is_not_waited_for(db: Database) -> None:
    saver = Saver(db)
    attachment, other = await execution(db), await execution(db)
    saver.attach(attachment)
    saver.attach(other)
    channel = secrets.token_hex(8_000)  # more than an index entry may have
    large: dict[str, Any] = {channel: [1]}
    outcomes = await asyncio.gather(
        put(saver, attachment, "1", 1, **large),
        put(saver, other, "1", 1),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], errors.UnstorableValue)
    assert outcomes[0].details["channel"] == channel
    assert outcomes[1] is None


async def test_a_failed_pending_write_is_raised_by_the_next_checkpoint_and_by_flush(
    db: Database,
) -> None:
    saver = Saver(db)
    attachment = await execution(db)
    saver.attach(attachment)
    await put(saver, attachment, "1", 1)
    # Both are under way before either is stored, as in LangGraph.
    outcomes = await asyncio.gather(
        put_writes(saver, attachment, "1", [("channel\x00", 1)]),
        put(saver, attachment, "2", 2),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [errors.UnstorableValue] * 2
    assert await head(db, attachment) == ("1", 1)
    with pytest.raises(errors.UnstorableValue):
        await saver.flush(attachment.thread_id)


async def test_a_graph_stops_at_a_write_that_cannot_be_stored(db: Database) -> None:
    saver = Saver(db)
    ran: list[str] = []

    async def bad(state: State) -> dict[str, Any]:
        return {"log": ["bad"], "value": object()}

    async def after(state: State) -> dict[str, Any]:
        ran.append("after")
        return {}

    graph = chain({"good": says("good"), "bad": bad, "after": after}).compile(checkpointer=saver)
    attachment = follow(graph, await execution(db))
    saver.attach(attachment)
    with pytest.raises(errors.UnstorableValue) as refused:
        await run(graph, attachment, {"log": []})
    assert refused.value.details["channel"] == "value"
    assert refused.value.details["type"] == "builtins.object"
    assert ran == []
    assert (await head(db, attachment))[1] == 1


async def test_nothing_of_a_step_is_stored_without_the_rest(db: Database) -> None:
    saver = Saver(db)
    graph = chain({"a": says("a"), "b": says("b")}).compile(checkpointer=saver)
    attachment = follow(graph, await execution(db))
    saver.attach(attachment)
    await run(graph, attachment, {"log": []})
    rows = await db.rows(
        "SELECT c.xmin::text AS c, s.xmin::text AS s, coalesce(e.xmin::text, s.xmin::text) AS e"
        " FROM checkpoints c JOIN steps s USING (thread_id, checkpoint_id)"
        " LEFT JOIN events e ON e.payload::jsonb ->> 'checkpoint_id' = c.checkpoint_id"
    )
    assert len(rows) == 4
    assert all(row["c"] == row["s"] == row["e"] for row in rows)


async def test_pending_writes_are_left_out_when_their_step_is_stored_with_them(
    db: Database,
) -> None:
    saver = Saver(db)
    attachment = await execution(db)
    saver.attach(attachment)
    await put(saver, attachment, "1", 1)
    await asyncio.gather(
        put_writes(saver, attachment, "1", [("value", 1)]),
        put(saver, attachment, "2", 2, parent="1"),
    )
    assert await count(db, "checkpoint_writes", attachment) == 0
    await put_writes(saver, attachment, "2", [("value", 1)])
    assert await count(db, "checkpoint_writes", attachment) == 1


async def test_a_write_of_a_checkpoint_that_is_no_longer_the_head_is_dropped(
    db: Database,
) -> None:
    saver = Saver(db)
    attachment = await execution(db)
    saver.attach(attachment)
    await put(saver, attachment, "1", 1)
    await put(saver, attachment, "2", 2, parent="1")
    await put_writes(saver, attachment, "1", [("value", 1)])
    assert await count(db, "checkpoint_writes", attachment) == 0


async def test_writes_at_an_interrupt_and_at_an_error_are_stored(db: Database) -> None:
    saver = Saver(db)

    async def asks(state: State) -> dict[str, Any]:
        return {"log": [interrupt("well?")]}

    async def fails(state: State) -> dict[str, Any]:
        raise ValueError("no")

    for node in (asks, fails):
        graph = chain({"a": says("a"), "node": node}).compile(checkpointer=saver)
        attachment = follow(graph, await execution(db))
        saver.attach(attachment)
        if node is asks:
            await run(graph, attachment, {"log": []})
            assert [i.value for found in attachment.interrupts.values() for i in found] == ["well?"]
        else:
            with pytest.raises(ValueError, match="no"):
                await run(graph, attachment, {"log": []})
            assert [str(error) for error in attachment.errors.values()] == ["no"]
        found = await saver.aget_tuple(config_of(attachment))
        assert found is not None
        assert found.pending_writes is not None
        assert [channel for _, channel, _ in found.pending_writes] == [
            "__interrupt__" if node is asks else "__error__"
        ]


async def test_a_large_item_has_a_transaction_of_its_own_in_its_place(db: Database) -> None:
    saver = Saver(db)
    first, second = await execution(db), await execution(db)
    saver.attach(first)
    saver.attach(second)
    await put(saver, first, "0", 0)
    await asyncio.gather(
        put(saver, first, "1", 1, parent="0", value=["small"]),
        put(saver, second, "1", 1, value=["x" * 1_100_000]),
        put(saver, first, "2", 2, parent="1", value=["small"]),
        put(saver, second, "2", 2, parent="1", value=["small"]),
    )
    rows = await db.rows(
        "SELECT thread_id, checkpoint_id AS id, xmin::text::bigint AS xid FROM checkpoints"
    )
    xids = {(row["thread_id"], row["id"]): row["xid"] for row in rows}
    small = xids[first.thread_id, "1"]
    large = xids[second.thread_id, "1"]
    after = xids[first.thread_id, "2"]
    assert small < large < after == xids[second.thread_id, "2"]
    assert await head(db, second) == ("2", 2)


async def test_a_cancelled_run_is_stored_before_flush_returns(db: Database) -> None:
    saver = Saver(db)
    attachment = await execution(db)
    saver.attach(attachment)
    writing = asyncio.create_task(put(saver, attachment, "1", 1))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await saver.flush(attachment.thread_id)
    assert await head(db, attachment) == ("1", 1)


async def test_a_backend_that_is_ended_under_a_group_loses_nothing(db: Database, url: str) -> None:
    saver = Saver(db)
    attachment = await execution(db)
    saver.attach(attachment)
    await put(saver, attachment, "1", 1)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as rude:
        await rude.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    await put(saver, attachment, "2", 2, parent="1")
    assert await head(db, attachment) == ("2", 2)
    assert await count(db, "events", attachment) == 2


async def test_the_rows_of_a_taken_over_run_survive_its_own_return(db: Database) -> None:
    saver = Saver(db)
    graph = chain({"a": says("a"), "b": says("b")}).compile(checkpointer=saver)
    first = follow(graph, await execution(db))
    saver.attach(first)
    done = await run(graph, first, {"log": []})
    second = follow(graph, await again(db, first))
    saver.attach(second)
    assert (await graph.aget_state(config_of(second))).values == done
    assert (await graph.ainvoke(None, config_of(second)))["log"] == ["a", "b"]
    assert await count(db, "steps", first) == 4
