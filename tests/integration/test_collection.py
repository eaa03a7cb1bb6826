"""Garbage goes and nothing else: each way in which writers, readers and collectors may get between."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.collecting_bench import CollectingBench, Gate, collecting
from tests.integration.files_bench import point, step, tree
from tests.integration.object_bench import moto
from tests.integration.store_bench import StoreBench
from wtb_ray import errors, manifests
from wtb_ray.manifests import EMPTY
from wtb_ray.objects import GUARD
from wtb_ray.store.holds import still_held

FILES = {"a": b"one", "d/b": b"two", "d/e/c": b"three"}
OTHERS = {"a": b"one", "d/b": b"four"}


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    with moto() as options:
        yield options


@pytest_asyncio.fixture(params=["file", "s3"])
async def gc(
    request: pytest.FixtureRequest, bench: StoreBench, tmp_path: Path
) -> AsyncIterator[CollectingBench]:
    """On a disk and on S3."""
    url, options = f"file://{tmp_path}/objects", {}
    if request.param == "s3":
        url, options = f"s3://wtb-objects/{secrets.token_hex(4)}", request.getfixturevalue("s3")
    async with collecting(bench, url, options, tmp_path) as made:
        yield made


@pytest_asyncio.fixture
async def local(bench: StoreBench, tmp_path: Path) -> AsyncIterator[CollectingBench]:
    """On a disk alone."""
    async with collecting(bench, f"file://{tmp_path}/objects", {}, tmp_path) as made:
        yield made


# --- what goes and what stays ---


async def test_what_no_row_names_goes_and_all_else_stays(gc: CollectingBench) -> None:
    made, manifest = await gc.named(FILES)
    garbage = await tree(gc.objects, {"x": b"nobody", "y/z": b"needs this"})
    kept = await manifests.objects_of(gc.objects, manifest)
    report = await gc.collect()
    assert (report.status, report.marked, report.listed) == ("DONE", len(kept), len(kept) + 4)
    assert (report.garbage, report.swept, report.pardoned) == (4, 4, 0)
    assert report.swept_bytes == report.garbage_bytes > 0
    assert await gc.digests() == kept
    with pytest.raises(errors.UnknownObject):
        await gc.whole(garbage)
    await gc.forget(made.thread_id)
    assert (await gc.collect()).swept == len(kept)
    assert await gc.digests() == set()
    assert (await gc.bench.types()).count("objects.collected") == 2


async def test_everything_that_names_objects_keeps_them(local: CollectingBench) -> None:
    made = await local.bench.execution()
    roots = [await tree(local.objects, {"name": b"%d" % n}) for n in range(5)]
    bundle, part = await local.objects.put(b"bundle"), await local.objects.put(b"part")
    batch = await local.bench.batch()
    await step(local.bench, made.thread_id, 0, roots[0])
    await point(local.bench, made.thread_id, "c0", 0, roots[1])
    await step(local.bench, "no branch", 0, roots[4])
    async with local.bench.db.connection() as conn:
        await conn.execute(
            "INSERT INTO restores (execution_id, epoch, before, after, reason)"
            " VALUES (%s, 1, %s, %s, 'restart')",
            (made.id, roots[2], roots[3]),
        )
        await conn.execute(
            "UPDATE project_versions SET spec = jsonb_set(spec::jsonb, '{bundle}', to_jsonb(%s::text))",
            (bundle,),
        )
        await conn.execute(
            "INSERT INTO result_parts (batch_id, number, digest, rows, bytes, cell_ids)"
            " VALUES (%s, 1, %s, 1, 1, '{}')",
            (batch.id, part),
        )
    assert (await local.collect()).status == "DONE"
    for manifest in roots[:4]:
        assert await local.whole(manifest)
    assert {bundle, part} <= await local.digests()
    assert roots[4] not in await local.digests(), "its branch is gone"


async def test_a_survey_tells_what_would_go_and_changes_nothing(local: CollectingBench) -> None:
    await local.named(FILES)
    await tree(local.objects, {"x": b"nobody"})
    before = await local.digests()
    report = await local.collector().survey(0.0)
    assert (report.dry_run, report.garbage, report.swept, report.id) == (True, 2, 0, None)
    assert await local.digests() == before
    assert await local.bench.store.collections.newest(10) == []


async def test_what_was_written_within_the_grace_stays(gc: CollectingBench) -> None:
    await tree(gc.objects, {"x": b"nobody"})
    before = await gc.digests()
    report = await gc.collector().collect(3600.0)
    assert (report.young, report.garbage, report.swept) == (len(before), 0, 0)
    assert await gc.digests() == before


async def test_the_empty_tree_needs_no_object(local: CollectingBench) -> None:
    made = await local.bench.execution()
    await step(local.bench, made.thread_id, 0, EMPTY)
    assert (await local.collect()).status == "DONE"


async def test_a_tree_that_cannot_be_walked_ends_the_collection(local: CollectingBench) -> None:
    made, manifest = await local.named(FILES)
    await tree(local.objects, {"x": b"nobody"})
    (inner,) = [
        e.value for e in await manifests.entries(local.objects, manifest) if e.kind == "dir"
    ]
    await local.objects.delete([inner])
    before = await local.digests()
    report = await local.collect()
    assert report.status == "FAILED"
    assert list(report.damaged) == [inner]
    assert await local.digests() == before, "what the lost directory named is unknown"
    assert [d["digest"] for d in await local.bench.store.collections.all_damaged(10)] == [inner]
    assert "objects.damaged" in await local.bench.types()
    assert "objects.collected" not in await local.bench.types()
    await local.forget(made.thread_id)
    assert (await local.collect()).status == "DONE"


# --- writers between ---


async def test_a_writer_that_pauses_between_its_objects_and_its_row_is_waited_for(
    local: CollectingBench,
) -> None:
    writer, made = local.writer(), await local.bench.execution()
    async with writer.holds.writing() as session:
        manifest = await tree(writer.objects, FILES)
        gate = Gate("wait")
        collecting = asyncio.create_task(local.collector(gate).collect(0.0))
        await gate.reached.wait()
        gate.open.set()
        await asyncio.sleep(3 * 0.6)  # its lease is renewed beside it
        assert not collecting.done()
        await writer.name(made.thread_id, 0, manifest, session.id)
    report = await collecting
    assert (report.swept, report.garbage) == (0, report.pardoned)
    assert await local.whole(manifest)


async def test_a_writer_that_sleeps_for_too_long_cannot_commit(local: CollectingBench) -> None:
    writer, made = local.writer(), await local.bench.execution()
    async with writer.holds.writing() as session:
        manifest = await tree(writer.objects, FILES)
        assert writer.holds._keeper is not None
        writer.holds._keeper.cancel()  # as if the process were stopped
        await asyncio.sleep(0.8)
        assert (await local.collect()).swept > 0
        with pytest.raises(errors.Unavailable):
            await writer.name(made.thread_id, 0, manifest, session.id)


async def test_a_commit_under_way_is_waited_for(local: CollectingBench) -> None:
    writer, made = local.writer(), await local.bench.execution()
    async with writer.holds.writing() as session:
        manifest = await tree(writer.objects, FILES)
        assert writer.holds._keeper is not None
        writer.holds._keeper.cancel()
        async with local.bench.db.transaction() as conn:
            await still_held(conn, session.id)
            await asyncio.sleep(0.8)  # it runs out meanwhile
            collecting = asyncio.create_task(local.collect())
            await asyncio.sleep(1.0)
            assert not collecting.done()
            await conn.execute(
                "INSERT INTO steps (thread_id, checkpoint_id, step, source, nodes, next_nodes,"
                " next_tasks, duration_ms, manifest) VALUES (%s, 'c0', 0, 'loop', '[]', '{}', '[]',"
                " 1, %s)",
                (made.thread_id, manifest),
            )
    assert (await collecting).swept == 0
    assert await local.whole(manifest)


@pytest.mark.parametrize("stage", ["wait", "mark again", "doom"])
async def test_what_a_later_writer_finds_there_is_taken_back(
    gc: CollectingBench, stage: str
) -> None:
    writer, made = gc.writer(), await gc.bench.execution()
    await tree(gc.objects, FILES)  # garbage that is just what the writer is about to put
    gate = Gate(stage)
    collecting = asyncio.create_task(gc.collector(gate).collect(0.0))
    await gate.reached.wait()
    async with writer.holds.writing() as session:
        assert session.careful
        manifest = await tree(writer.objects, FILES)
        gate.open.set()
        report = await collecting
        await writer.name(made.thread_id, 0, manifest, session.id)
    assert (report.garbage, report.swept) == (report.pardoned, 0)
    assert await gc.whole(manifest)


async def test_what_is_being_deleted_is_waited_for_and_put_again(gc: CollectingBench) -> None:
    writer, made = gc.writer(), await gc.bench.execution()
    garbage = await tree(gc.objects, FILES)
    for stage in ("delete", "deleted"):
        gate = Gate(stage)
        collecting = asyncio.create_task(gc.collector(gate, ttl_s=15).collect(0.0))
        await gate.reached.wait()
        writing = asyncio.create_task(writer.keep(made.thread_id, len(stage), FILES))
        await asyncio.sleep(0.3)
        assert not writing.done(), "it may be deleted any moment"
        gate.open.set()
        assert await writing == garbage
        assert (await collecting).swept > 0
        assert await gc.whole(garbage)
        await gc.forget(made.thread_id)
        await asyncio.sleep(0.5)


async def test_what_a_process_knows_to_be_stored_is_looked_at_after_a_collection(
    gc: CollectingBench,
) -> None:
    writer, made = gc.writer(), await gc.bench.execution()
    manifest = await writer.keep(made.thread_id, 0, FILES)
    await gc.forget(made.thread_id)
    assert (await gc.collect()).swept > 0
    assert await writer.keep(made.thread_id, 1, FILES) == manifest
    assert await gc.whole(manifest)


async def test_old_work_of_a_process_does_not_vouch_for_its_new_work(gc: CollectingBench) -> None:
    """Both generations at once in one process, with one cache."""
    writer, made = gc.writer(), await gc.bench.execution()
    old = await writer.holds.begin()
    garbage = await tree(gc.objects, FILES)
    gate = Gate("wait")
    collecting = asyncio.create_task(gc.collector(gate).collect(0.0))
    await gate.reached.wait()
    async with asyncio.timeout(10):
        while writer.holds._current is old:
            await asyncio.sleep(0.05)
    new = await writer.holds.begin()
    assert (old.careful, new.careful) == (False, True)
    token = GUARD.set(old)
    await tree(writer.objects, FILES)  # relied on by work that will never commit
    GUARD.reset(token)
    token = GUARD.set(new)
    manifest = await tree(writer.objects, FILES)
    await writer.name(made.thread_id, 0, manifest, new.id)
    GUARD.reset(token)
    writer.holds.release(old)
    writer.holds.release(new)
    gate.open.set()
    assert (await collecting).status == "DONE"
    assert manifest == garbage
    assert await gc.whole(manifest)


async def test_a_large_file_is_claimed_behind_the_fact(gc: CollectingBench) -> None:
    writer, made = gc.writer(), await gc.bench.execution()
    path = gc.path / "large"
    path.write_bytes(secrets.token_bytes(9 << 20))
    digest = await gc.objects.put_file(path)
    gate = Gate("delete")
    collecting = asyncio.create_task(gc.collector(gate, ttl_s=15).collect(0.0))
    await gate.reached.wait()

    async def write() -> None:
        async with writer.holds.writing() as session:
            assert await writer.objects.put_file(path) == digest
            entry = manifests.Entry("", "file", digest, 9 << 20, 0o644)
            manifest = await manifests.replaced(writer.objects, EMPTY, {"large": entry})
            await writer.name(made.thread_id, 0, manifest, session.id)

    writing = asyncio.create_task(write())
    await asyncio.sleep(0.5)
    gate.open.set()
    await asyncio.gather(collecting, writing)
    assert await gc.objects.verify(digest) == 9 << 20


# --- workspaces that remember ---


@pytest.mark.parametrize("lost", ["all", "file", "directory"])
async def test_a_kept_workspace_never_vouches_for_objects_that_were_collected(
    gc: CollectingBench, lost: str
) -> None:
    """What it remembers was never named: its process died between the snapshot and the row."""
    first, second, made = gc.writer("r1"), gc.writer("r2"), await gc.bench.execution()
    root = gc.path / "ws" / "files"
    before = gc.tracked("ws", first.objects)
    (root / "d").mkdir()
    (root / "d" / "b").write_bytes(b"two")
    (root / "a").write_bytes(b"one")
    await asyncio.sleep(0.1)  # older than what a snapshot does not trust
    async with first.holds.writing():
        unnamed = (await before.snapshot()).manifest
    await before.save()
    await first.holds.close()
    named = {"all": {}, "file": {"d/b": b"two"}, "directory": {"a": b"one", "x/b": b"two"}}[lost]
    await gc.named(named)
    assert (await gc.collect()).swept > 0
    after = gc.tracked("ws", second.objects)
    await after.load()
    async with second.holds.writing() as session:
        manifest = (await after.snapshot()).manifest
        await second.name(made.thread_id, 0, manifest, session.id)
    assert manifest == unnamed
    assert len(await gc.whole(manifest)) == 3


async def test_a_workspace_that_is_open_all_the_while_notices_a_collection(
    local: CollectingBench,
) -> None:
    writer, made = local.writer(), await local.bench.execution()
    tree_ = local.tracked("ws", writer.objects)
    (local.path / "ws" / "files" / "a").write_bytes(b"one")
    async with writer.holds.writing():
        await tree_.snapshot()
    await writer.holds.close()
    assert (await local.collect()).swept == 2
    async with writer.holds.writing() as session:
        manifest = (await tree_.snapshot()).manifest
        await writer.name(made.thread_id, 0, manifest, session.id)
    assert await local.whole(manifest)


async def test_a_directory_that_was_only_read_is_taken_back_too(gc: CollectingBench) -> None:
    """What a process has read it need not put again; but what it has read may be condemned."""
    writer, made = gc.writer(), await gc.bench.execution()
    garbage = await tree(gc.objects, FILES)
    gate = Gate("mark again")
    collecting = asyncio.create_task(gc.collector(gate).collect(0.0))
    await gate.reached.wait()
    workspace = gc.tracked("ws", writer.objects)
    for path, data in FILES.items():
        (gc.path / "ws" / "files" / path).parent.mkdir(parents=True, exist_ok=True)
        (gc.path / "ws" / "files" / path).write_bytes(data)
        (gc.path / "ws" / "files" / path).chmod(0o644)
    async with writer.holds.writing() as session:
        assert set(await manifests.read(writer.objects, garbage)) > set(FILES)
        manifest = (await workspace.snapshot()).manifest
        assert manifest == garbage
        gate.open.set()
        assert (await collecting).swept == 0
        await writer.name(made.thread_id, 0, manifest, session.id)
    assert await gc.whole(manifest)


async def test_what_a_restore_was_displacing_when_it_died_stays_for_the_next_one(
    local: CollectingBench,
) -> None:
    writer = local.writer()
    _, target = await local.named(FILES)
    root = local.path / "ws" / "files"
    tree_ = local.tracked("ws", writer.objects)
    (root / "mine").write_bytes(b"displaced")

    class Died(Exception):
        pass

    async def die(_: object) -> None:
        raise Died

    with suppress(Died):
        async with writer.holds.writing():
            await tree_.restore(target, witness=die)
    await writer.holds.close()
    assert (await local.collect()).leased == 2
    again = local.tracked("ws", local.writer().objects)
    restored = await again.restore(target)
    assert restored.displaced is not None
    assert await local.whole(restored.displaced) == {"mine": ("file", b"displaced", 0o644)}


@pytest.mark.parametrize("gone", ["tree", "content"])
async def test_a_journal_that_lay_for_too_long_names_nothing_that_is_gone(
    local: CollectingBench, gone: str
) -> None:
    writer = local.writer()
    _, target = await local.named(FILES)
    tree_ = local.tracked("ws", writer.objects)
    (local.path / "ws" / "files" / "mine").write_bytes(b"displaced")

    async def die(_: object) -> None:
        raise RuntimeError("died")

    with suppress(RuntimeError):
        async with writer.holds.writing():
            await tree_.restore(target, witness=die)
    await writer.holds.close()
    async with local.bench.db.connection() as conn:
        await conn.execute("UPDATE object_holds SET until = now() - interval '1 s'")
    if gone == "content":
        await local.objects.delete([hashlib.sha256(b"displaced").hexdigest()])
    else:
        assert (await local.collect()).swept == 2
    restored = await local.tracked("ws", local.writer().objects).restore(target)
    assert restored.displaced is None
    assert set(await local.whole(target)) == {"a", "d", "d/b", "d/e", "d/e/c"}


# --- readers between ---


async def test_a_tree_that_is_read_stays_when_its_rows_go(local: CollectingBench) -> None:
    reader, (made, manifest) = local.writer(), await local.named(FILES)
    async with reader.holds.reading([manifest]):
        await local.forget(made.thread_id)
        report = await local.collect()
        assert (report.swept, report.leased) == (0, len(await local.digests()))
        await asyncio.sleep(1.5)  # renewed beside it
        assert (await local.collect()).swept == 0
        assert await local.whole(manifest)
    assert (await local.collect()).swept > 0


async def test_a_reader_that_begins_while_a_collection_waits(local: CollectingBench) -> None:
    reader, (made, manifest) = local.writer(), await local.named(FILES)
    garbage = await local.objects.put(b"garbage")
    gate = Gate("wait")
    collecting = asyncio.create_task(local.collector(gate).collect(0.0))
    await gate.reached.wait()
    async with reader.holds.reading([manifest]):
        await local.forget(made.thread_id)
        gate.open.set()
        assert (await collecting).swept == 1
        assert garbage not in await local.digests()
        assert await local.whole(manifest)


async def test_a_reader_that_died_is_forgotten(local: CollectingBench) -> None:
    reader, (made, manifest) = local.writer(), await local.named(FILES)
    reading = reader.holds.reading([manifest])
    await reading.__aenter__()
    assert reader.holds._keeper is not None
    reader.holds._keeper.cancel()
    await local.forget(made.thread_id)
    await asyncio.sleep(0.8)
    first = await local.collect()
    assert first.swept + (await local.collect()).swept == first.listed
    await reading.__aexit__(None, None, None)


# --- collectors between ---

STEPS = ["condemn", "generation", "wait", "mark again", "doom", "delete", "deleted", "finish"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("stage", STEPS)
async def test_a_collector_that_dies_is_followed_by_one_that_finishes(
    local: CollectingBench, stage: str
) -> None:
    _, manifest = await local.named(FILES)
    await tree(local.objects, {"x": b"nobody"})

    async def die(step: str) -> None:
        if step == stage:
            raise Killed

    dying = local.collector(die)
    with suppress(Killed):
        await dying.collect(0.0)
    writer = local.writer()
    kept = await writer.keep((await local.bench.execution()).thread_id, 0, {"y": b"somebody"})
    async with local.bench.db.connection() as conn:  # its process is gone
        await conn.execute(
            """UPDATE collections SET owners = regexp_replace(owners, '"pid":\\d+', '"pid":4194305')"""
        )
    report = await local.collect()
    assert report.status == "DONE"
    assert await local.whole(manifest)
    assert await local.whole(kept)
    expected = await manifests.objects_of(local.objects, manifest)
    assert await local.digests() == expected | await manifests.objects_of(local.objects, kept)
    assert await local.bench.store.collections.condemned() == 0


async def test_only_one_collector_is_at_work(local: CollectingBench) -> None:
    await local.objects.put(b"garbage")
    gate = Gate("generation")
    first = asyncio.create_task(local.collector(gate).collect(0.0))
    await gate.reached.wait()
    with pytest.raises(errors.Conflict):
        await local.collector().collect(0.0)
    await asyncio.sleep(1.5)  # its lease is renewed
    with pytest.raises(errors.Conflict):
        await local.collector().collect(0.0)
    gate.open.set()
    assert (await first).status == "DONE"


@pytest.mark.parametrize("stage", ["condemn", "generation", "wait", "mark again", "doom", "finish"])
async def test_a_collector_that_was_taken_for_dead_changes_nothing_any_more(
    local: CollectingBench, stage: str
) -> None:
    writer = local.writer()
    await tree(local.objects, FILES)
    gate = Gate(stage)
    zombie = asyncio.create_task(local.collector(gate, ttl_s=15).collect(0.0))
    await gate.reached.wait()
    async with local.bench.db.connection() as conn:
        await conn.execute("UPDATE leases SET until = '-infinity' WHERE id = 'collector'")
    other = Gate("finish")
    second = asyncio.create_task(local.collector(other).collect(0.0))
    await other.reached.wait()
    made = await local.bench.execution()
    manifest = await writer.keep(made.thread_id, 0, FILES)
    gate.open.set()
    with pytest.raises(errors.Fenced):
        await zombie
    other.open.set()
    await second
    assert await local.whole(manifest)


async def test_deletions_of_a_collector_that_may_live_are_waited_for(
    local: CollectingBench,
) -> None:
    await tree(local.objects, FILES)
    gate = Gate("delete")
    slow = asyncio.create_task(local.collector(gate, ttl_s=15).collect(0.0))
    await gate.reached.wait()
    async with local.bench.db.connection() as conn:
        await conn.execute("UPDATE leases SET until = '-infinity' WHERE id = 'collector'")
    second = asyncio.create_task(local.collect())
    await asyncio.sleep(1.0)
    assert not second.done(), "the first may still delete what it has doomed"
    gate.open.set()
    with pytest.raises(errors.Fenced):
        await slow
    async with local.bench.db.connection() as conn:
        await conn.execute("UPDATE condemned SET doomed_at = now() - interval '200 s'")
    assert (await second).status == "DONE"


async def test_a_collection_that_waits_in_vain_is_gone_on_with(local: CollectingBench) -> None:
    writer = local.writer("busy")
    await tree(local.objects, FILES)
    async with writer.holds.writing():
        report = await local.collector(wait_s=0.3).collect(0.0)
        assert (report.status, report.swept, report.waits_for) == ("SWEEPING", 0, ["busy"])
    await writer.holds.close()
    again = await local.collect()
    assert (again.id, again.status, again.swept) == (report.id, "DONE", report.garbage)
    assert again.waits_for == []
