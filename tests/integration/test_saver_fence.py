"""Only the run that holds an execution writes its checkpoints, whatever else happens at once."""

import asyncio
import itertools
import logging

import psycopg
import pytest

from tests.integration.saver_bench import (
    again,
    chain,
    checkpoint,
    config_of,
    count,
    execution,
    follow,
    head,
    put,
    put_writes,
    run,
    says,
    until,
)
from wtb_ray import errors
from wtb_ray.db import Connection, Database, ended
from wtb_ray.saver import Attachment, Saver
from wtb_ray.store import transactions
from wtb_ray.store.sql import SQL


async def test_a_zombie_writes_nothing_after_a_takeover(db: Database) -> None:
    saver, other = Saver(db), Saver(db)
    zombie = await execution(db)
    saver.attach(zombie)
    await put(saver, zombie, "1", 1)

    owner = await again(db, zombie)
    other.attach(owner)
    with pytest.raises(errors.Fenced):
        await put(saver, zombie, "2", 2, parent="1", value=[1])
    assert zombie.fenced
    assert await head(db, zombie) == ("1", 1)
    assert [
        await count(db, table, zombie)
        for table in ("checkpoints", "checkpoint_blobs", "steps", "events")
    ] == [1, 0, 1, 1]

    await put(other, owner, "3", 2, parent="1")
    assert await head(db, owner) == ("3", 2)
    with pytest.raises(errors.Fenced):
        await saver.aget_tuple(config_of(zombie))


async def test_a_zombies_pending_writes_are_lost_and_it_is_told(db: Database) -> None:
    saver = Saver(db)
    zombie = await execution(db)
    saver.attach(zombie)
    await put(saver, zombie, "1", 1)
    await again(db, zombie)
    with pytest.raises(errors.Fenced):
        await put_writes(saver, zombie, "1", [("value", 1)])
    assert await count(db, "checkpoint_writes", zombie) == 0
    with pytest.raises(errors.Fenced):
        await saver.flush(zombie.thread_id)


async def test_a_zombie_in_a_group_does_not_hold_up_the_others(db: Database) -> None:
    saver = Saver(db)
    runs = [await execution(db) for _ in range(5)]
    for attachment in runs:
        saver.attach(attachment)
    await again(db, runs[2])
    outcomes = await asyncio.gather(
        *(put(saver, attachment, "1", 1, value=[1]) for attachment in runs),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [
        *(type(None), type(None), errors.Fenced, type(None), type(None))
    ]
    assert [await head(db, attachment) for attachment in runs] == [
        *(("1", 1), ("1", 1), (None, None), ("1", 1), ("1", 1))
    ]
    assert [await count(db, "steps", attachment) for attachment in runs] == [1, 1, 0, 1, 1]


async def test_a_change_of_branch_fences_too(db: Database) -> None:
    saver = Saver(db)
    attachment = await execution(db)
    saver.attach(attachment)
    await put(saver, attachment, "1", 1)
    async with db.transaction() as conn:
        await conn.execute(
            "UPDATE executions SET thread_id = id || '.1' WHERE id = %s", (attachment.execution_id,)
        )
    with pytest.raises(errors.Fenced):
        await put(saver, attachment, "2", 2, parent="1")


async def test_a_commit_that_meets_a_takeover_in_flight_loses(db: Database, url: str) -> None:
    saver = Saver(db)
    zombie = await execution(db)
    saver.attach(zombie)
    await put(saver, zombie, "1", 1)
    async with await psycopg.AsyncConnection.connect(url) as taker:
        await taker.execute(
            "UPDATE executions SET epoch = epoch + 1 WHERE id = %s", (zombie.execution_id,)
        )
        late = asyncio.create_task(put(saver, zombie, "2", 2, parent="1"))
        await until(lambda: _waits_for_lock(db))
        await taker.commit()
    with pytest.raises(errors.Fenced):
        await late
    assert await head(db, zombie) == ("1", 1)
    assert await count(db, "checkpoints", zombie) == 1


async def test_an_older_run_of_the_same_process_does_not_write_as_the_newer_one(
    db: Database,
) -> None:
    saver = Saver(db)
    first = await execution(db)
    taken = asyncio.Event()

    async def abandoned() -> None:
        saver.attach(first)
        await put(saver, first, "1", 1)
        await taken.wait()
        try:
            await put(saver, first, "zombie", 2, parent="1")
        finally:
            saver.detach(first.thread_id)

    zombie = asyncio.create_task(abandoned())
    await until(lambda: _is_head(db, first, "1"))
    second = await again(db, first)
    saver.attach(second)
    taken.set()
    with pytest.raises(errors.Fenced):
        await zombie
    await put(saver, second, "2", 2, parent="1")
    assert await head(db, first) == ("2", 2)
    assert await count(db, "checkpoints", first) == 2


async def test_threads_without_an_attachment_are_refused(db: Database) -> None:
    saver = Saver(db)
    attachment = await execution(db)
    with pytest.raises(errors.Fenced, match="not attached"):
        await put(saver, attachment, "1", 1)
    with pytest.raises(errors.Fenced, match="not attached"):
        await put_writes(saver, attachment, "1", [("value", 1)])
    with pytest.raises(errors.Fenced, match="not attached"):
        await saver.aget_tuple(config_of(attachment))
    with pytest.raises(errors.Fenced, match="not attached"):
        [found async for found in saver.alist(config_of(attachment))]
    with pytest.raises(errors.Fenced):
        [found async for found in saver.alist(None)]
    with pytest.raises(errors.Refused):
        await saver.adelete_thread(attachment.thread_id)
    saver.attach(attachment)
    await put(saver, attachment, "1", 1)
    saver.detach(attachment.thread_id)
    with pytest.raises(errors.Fenced, match="not attached"):
        await put(saver, attachment, "2", 2)


async def test_what_is_wanted_comes_back_with_a_commit(db: Database) -> None:
    saver = Saver(db)
    told: list[str] = []
    attachment = await execution(db, on_wanted=told.append)
    saver.attach(attachment)
    await put(saver, attachment, "1", 1)
    assert (attachment.wanted, told) == ("run", [])
    async with db.transaction() as conn:
        await conn.execute("UPDATE executions SET wanted = 'pause'")
    await put_writes(saver, attachment, "1", [("value", 1)])
    assert (attachment.wanted, told) == ("pause", ["pause"])


async def test_commands_over_many_executions_do_not_deadlock_with_commits(
    db: Database, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    graph = chain({f"n{i}": says(f"n{i}") for i in range(3)})
    saver = Saver(db)
    compiled = graph.compile(checkpointer=saver)
    runs = [follow(compiled, await execution(db)) for _ in range(24)]
    ids = [attachment.execution_id for attachment in runs]
    commands = 0

    async def command(conn: psycopg.AsyncConnection) -> None:
        nonlocal commands
        await conn.execute(
            "WITH locked AS (SELECT id FROM executions WHERE id = ANY (%s)"
            " ORDER BY id FOR NO KEY UPDATE)"
            " UPDATE executions e SET priority = priority + 1 FROM locked WHERE e.id = locked.id",
            (ids,),
        )
        await conn.commit()
        commands += 1

    async def keep_commanding() -> None:
        async with await psycopg.AsyncConnection.connect(url) as conn:
            while not done.is_set():
                await command(conn)

    done = asyncio.Event()
    commander = asyncio.create_task(keep_commanding())
    for attachment in reversed(runs):
        saver.attach(attachment)
    with caplog.at_level(logging.WARNING, "wtb_ray.commits"):
        await asyncio.gather(*(run(compiled, a, {"log": []}) for a in runs))
    done.set()
    await commander
    assert commands > 0
    assert caplog.messages == []
    assert [await count(db, "events", attachment) for attachment in runs] == [3] * len(runs)


@pytest.mark.parametrize("patient", [transactions.PATIENT, transactions.ATTEMPTS])
async def test_a_slow_command_on_what_commits_all_the_time_takes_its_turn(
    db: Database, monkeypatch: pytest.MonkeyPatch, patient: int
) -> None:
    monkeypatch.setattr(transactions, "PATIENT", patient)
    saver, attachment = Saver(db), await execution(db)
    saver.attach(attachment)
    tries = 0

    async def command(conn: Connection) -> None:
        nonlocal tries
        tries += 1
        await conn.execute("SELECT pg_current_xact_id()")  # its place in the log
        await asyncio.sleep(0.05)
        locked = await conn.execute(SQL["lock_executions"], {"ids": [attachment.execution_id]})
        transactions.in_order(await locked.fetchall())

    async def keep_committing() -> None:
        for step in itertools.count():
            await put(saver, attachment, f"1ef{step:09}", step, x=step)

    committing = asyncio.create_task(keep_committing())
    await until(lambda: _has_head(db, attachment))
    try:
        if patient < transactions.ATTEMPTS:
            await transactions.transact(db, command)
            assert tries == patient + 1
        else:  # what would be without it
            with pytest.raises(errors.Unavailable, match="races"):
                await transactions.transact(db, command)
        before = await head(db, attachment)
        await until(lambda: _has_moved(db, attachment, before))
        assert not committing.done()
    finally:
        await ended(committing)


async def _has_head(db: Database, attachment: Attachment) -> bool:
    return (await head(db, attachment))[0] is not None


async def _has_moved(
    db: Database, attachment: Attachment, before: tuple[str | None, int | None]
) -> bool:
    return await head(db, attachment) != before


async def test_a_group_that_is_the_victim_of_a_deadlock_is_tried_again(
    db: Database, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    saver = Saver(db)
    first, second = sorted(
        [await execution(db, name="a1"), await execution(db, name="a2")],
        key=lambda attachment: attachment.execution_id,
    )
    saver.attach(first)
    saver.attach(second)
    touch = "UPDATE executions SET priority = 1 WHERE id = %s"
    async with await psycopg.AsyncConnection.connect(url) as rude:
        await rude.execute("SET deadlock_timeout = '60s'")
        await rude.execute(touch, (second.execution_id,))
        both = asyncio.gather(put(saver, first, "1", 1), put(saver, second, "1", 1))
        await until(lambda: _waits_for_lock(db))
        await rude.execute(touch, (first.execution_id,))  # our group is the one that gives way
        await rude.commit()
    await both
    assert any("tried again" in message for message in caplog.messages)
    assert await head(db, first) == await head(db, second) == ("1", 1)
    assert await count(db, "events", first) == await count(db, "events", second) == 1


async def test_several_steps_of_a_thread_in_one_group_leave_the_last_as_head(db: Database) -> None:
    saver = Saver(db)
    attachment = await execution(db)
    saver.attach(attachment)
    await asyncio.gather(
        *(
            put(saver, attachment, str(step), step, parent=str(step - 1) if step else None)
            for step in range(5)
        )
    )
    assert await head(db, attachment) == ("4", 4)
    rows = await db.rows("SELECT payload::jsonb ->> 'step' AS step FROM events ORDER BY xid, seq")
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]


async def test_a_subgraphs_checkpoint_leaves_the_head_and_is_fenced(db: Database) -> None:
    saver = Saver(db)
    attachment = await execution(db)
    saver.attach(attachment)
    await put(saver, attachment, "1", 1)
    await _put_inner(saver, attachment, "9")
    assert await head(db, attachment) == ("1", 1)
    assert await count(db, "steps", attachment) == 1
    await again(db, attachment)
    with pytest.raises(errors.Fenced):
        await _put_inner(saver, attachment, "10")


async def _put_inner(saver: Saver, attachment: Attachment, id: str) -> None:
    place = {"thread_id": attachment.thread_id, "checkpoint_ns": "node:task"}
    await saver.aput(
        {"configurable": place}, checkpoint(id), {"source": "loop", "step": 7, "parents": {}}, {}
    )


async def _waits_for_lock(db: Database) -> bool:
    row = await db.row(
        "SELECT count(*) AS n FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return bool(row and row["n"])


async def _is_head(db: Database, attachment: Attachment, id: str) -> bool:
    return (await head(db, attachment))[0] == id
