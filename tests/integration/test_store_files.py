"""Which files belong to which checkpoint, and what the trash may change; on a real database."""

import pytest

from tests.integration.files_bench import Restored, branch, head, point, step, stepped
from tests.integration.store_bench import GRAPH, StoreBench
from wtb_ray import errors
from wtb_ray.db import Database
from wtb_ray.model import Assignment, Execution, FileTrackingConfig, ProjectSpec
from wtb_ray.store import Store
from wtb_ray.store.sql import SQL


@pytest.fixture
async def bench(db: Database) -> StoreBench:
    """A store with a project that tracks files."""
    spec = ProjectSpec(
        name="p", entry="app.graph:build", file_tracking=FileTrackingConfig(commit_on="manual")
    )
    return StoreBench(db, await Store(db).projects.register(spec, GRAPH, {}, actor="me"))


async def test_each_checkpoint_has_its_own_files(bench: StoreBench) -> None:
    made = await stepped(bench, [None, "m0", "m1", "m2"])
    at = bench.store.files.manifest_at
    assert [await at(made.id, f"c{n}") for n in range(3)] == ["m0", "m1", "m2"]
    assert await at(made.id) == "m2"


async def test_the_newest_restore_point_of_a_checkpoint_counts(bench: StoreBench) -> None:
    made = await stepped(bench, [None, "m0", "m1"])
    await point(bench, made.thread_id, "c1", 0, "p0")
    await point(bench, made.thread_id, "c1", 1, "p1")
    await point(bench, made.thread_id, "c1", 2, None)
    assert await bench.store.files.manifest_at(made.id, "c1") == "p1"
    assert await bench.store.files.manifest_at(made.id) == "p1"


async def test_without_a_checkpoint_the_last_kept_files_are_meant(bench: StoreBench) -> None:
    made = await stepped(bench, [None, "m0", "m1", None])
    kept = await bench.store.files.kept_at(made.id)
    assert kept is not None
    assert (kept.checkpoint_id, kept.step, kept.manifest) == ("c1", 1, "m1")
    before = await bench.store.files.kept_before(made.id)
    assert before is not None
    assert before.checkpoint_id == "c0"
    assert await bench.store.files.kept_before(made.id, "c0") is None


async def test_before_anything_was_kept_there_is_no_manifest(bench: StoreBench) -> None:
    made = await bench.execution()
    assert await bench.store.files.manifest_at(made.id) is None


async def test_a_checkpoint_without_files_names_the_nearest_with_files(bench: StoreBench) -> None:
    made = await stepped(bench, [None, "m0", None, "m2", "m3"])
    with pytest.raises(errors.NoConsistentFiles, match=r"c2 \(step 2\) and c0 \(step 0\)") as e:
        await bench.store.files.manifest_at(made.id, "c1")
    assert e.value.details["nearest"] == ["c2", "c0"]
    with pytest.raises(errors.NoConsistentFiles) as e:
        await bench.store.files.manifest_at(made.id, "c-1")
    assert e.value.details["nearest"] == ["c0"]


async def test_files_of_a_project_that_does_not_track_them(db: Database) -> None:
    bench = await StoreBench.make(db)
    made = await stepped(bench, [None, None])
    with pytest.raises(errors.NoConsistentFiles, match="does not track files"):
        await bench.store.files.manifest_at(made.id)
    assert await bench.store.files.restores(made.id) == []


async def test_unknown_executions_and_checkpoints(bench: StoreBench) -> None:
    made = await stepped(bench, [None, "m0"])
    files = bench.store.files
    for call in (files.manifest_at("e0"), files.restores("e0")):
        with pytest.raises(errors.UnknownExecution):
            await call
    with pytest.raises(errors.UnknownCheckpoint):
        await files.manifest_at(made.id, "c9")
    with pytest.raises(errors.UnknownExecution):
        await files.restore_trash("e0", None, "m", 1, [], actor="me")


async def test_a_branch_has_the_files_of_the_steps_that_led_to_it(bench: StoreBench) -> None:
    made = await stepped(bench, [None, "m0", "m1", "m2"])
    await point(bench, made.thread_id, "c0", 0, "p0")
    await point(bench, made.thread_id, "c1", 0, "of another future")
    thread = await branch(bench, made, 1, "c1")
    at = bench.store.files.manifest_at
    assert await at(made.id) == "m1"
    assert await at(made.id, "c0") == "p0"
    assert await at(made.id, "c2") == "m2", "abandoned steps can still be looked at"
    await point(bench, thread, "c1", 0, "own")
    assert await at(made.id) == "own"
    await step(bench, thread, 2, "m2b", "c2b")
    assert await at(made.id) == "m2b"


async def test_the_newest_files_are_those_that_a_claim_goes_on_with(bench: StoreBench) -> None:
    made = await stepped(bench, [None, "m0", "m1", None])

    async def agreed() -> str | None:
        row = await bench.db.row(SQL["manifest_of_head"], {"id": made.id})
        shown = await bench.store.files.manifest_at(made.id)
        assert shown == (row["manifest"] if row is not None else None)
        return shown

    assert await agreed() == "m1"
    await point(bench, made.thread_id, "c2", 0, "p2")
    assert await agreed() == "p2"
    await bench.store.files.restore_trash(made.id, "p2", "t2", 1, ["a"], actor="me")
    assert await agreed() == "t2"
    thread = await branch(bench, made, 1, "c1")
    assert await agreed() == "m1"
    await bench.store.files.restore_trash(made.id, "m1", "t1", 1, ["a"], actor="me")
    assert await agreed() == "t1"
    await step(bench, thread, 2, None, "c2b")
    await head(bench, made.id, thread, "c2b")
    assert await agreed() == "t1"
    await step(bench, thread, 3, "m3b", "c3b")
    assert await agreed() == "m3b"


async def held(bench: StoreBench) -> Assignment:
    await bench.execution()
    await bench.runner()
    (assignment,) = await bench.claim()
    return assignment


async def test_a_restore_is_recorded_with_its_event(bench: StoreBench) -> None:
    one = await held(bench)
    record = bench.store.files.record_restore
    first = await record(one.execution_id, one.epoch, Restored(), "restart", actor="r1")
    second = await record(
        one.execution_id, one.epoch, Restored(displaced="older"), "restart", actor="r1"
    )
    newest, oldest = await bench.store.files.restores(one.execution_id)
    assert ([oldest.id], oldest.before, oldest.after) == (first, "old", "new")
    assert ([newest.id], newest.before, newest.epoch) == (second, "older", one.epoch)
    told = await bench.events(execution_id=one.execution_id, types=["files.restored"])
    assert told[0].payload == {
        "manifest": "new",
        "restored": 2,
        "removed": 1,
        "displaced": "old",
        "reason": "restart",
    }


async def test_a_restore_that_displaced_nothing_leaves_no_trash(bench: StoreBench) -> None:
    one = await held(bench)
    restored = Restored(displaced=None)
    files = bench.store.files
    assert await files.record_restore(one.execution_id, 1, restored, "restart", actor="r") == []
    assert await files.restores(one.execution_id) == []
    assert "files.restored" in await bench.types(execution_id=one.execution_id)


async def test_what_a_restore_found_of_cut_off_ones_is_kept_too(bench: StoreBench) -> None:
    one = await held(bench)
    restored = Restored(recovered=("first", "second"))
    record = bench.store.files.record_restore
    ids = await record(one.execution_id, one.epoch, restored, "restart", actor="r1")
    found = await bench.store.files.restores(one.execution_id)
    assert [(restore.id, restore.before) for restore in found] == [
        (ids[2], "old"),
        (ids[1], "second"),
        (ids[0], "first"),
    ]
    assert len(await bench.events(types=["files.restored"])) == 1


async def test_a_former_owner_records_no_restore(bench: StoreBench) -> None:
    one = await held(bench)
    assert await bench.settle(one, "requeue") is None
    with pytest.raises(errors.Fenced):
        await bench.store.files.record_restore(
            one.execution_id, one.epoch, Restored(), "restart", actor="r1"
        )
    assert await bench.store.files.restores(one.execution_id) == []
    assert "files.restored" not in await bench.types(execution_id=one.execution_id)


async def points(bench: StoreBench, made: Execution) -> list[tuple[object, ...]]:
    rows = await bench.db.rows(
        "SELECT seq, task_ids, inner_ids, manifest, reason FROM restore_points"
        " WHERE thread_id = %s AND checkpoint_id = %s ORDER BY seq",
        (made.thread_id, "c1"),
    )
    return [tuple(row.values()) for row in rows]


async def test_files_from_the_trash_become_a_restore_point(bench: StoreBench) -> None:
    made = await stepped(bench, [None, "m0", "m1"])
    files = bench.store.files
    assert await files.restore_trash(made.id, "m1", "m1+", 7, ["a"], actor="me") == "c1"
    assert await points(bench, made) == [(0, [], [], "m1+", "trash")]
    assert await files.manifest_at(made.id) == "m1+"
    (told,) = await bench.events(execution_id=made.id, types=["trash.restored"])
    assert told.payload == {"restore_id": 7, "paths": ["a"], "manifest": "m1+"}
    assert told.actor == "me"


async def test_files_from_the_trash_keep_which_tasks_have_finished(bench: StoreBench) -> None:
    made = await stepped(bench, [None, "m0", "m1"])
    await point(bench, made.thread_id, "c1", 0, "p0")
    await bench.store.files.restore_trash(made.id, "p0", "p0+", 7, ["a"], actor="me")
    assert (await points(bench, made))[1] == (1, ["t1", "t2"], ["i1"], "p0+", "trash")


async def test_files_that_changed_meanwhile_are_not_overwritten(bench: StoreBench) -> None:
    made = await stepped(bench, [None, "m0", "m1"])
    await point(bench, made.thread_id, "c1", 0, "p0")
    with pytest.raises(errors.Conflict, match="changed meanwhile"):
        await bench.store.files.restore_trash(made.id, "m1", "m1+", 7, ["a"], actor="me")
    assert len(await points(bench, made)) == 1
    assert "trash.restored" not in await bench.types(execution_id=made.id)


async def test_files_of_an_execution_are_changed_only_while_it_rests(bench: StoreBench) -> None:
    made = await stepped(bench, [None, "m0", "m1"])
    restore = bench.store.files.restore_trash
    for status in ("PENDING", "RUNNING"):
        await bench.put(made.id, status)
        with pytest.raises(errors.InvalidTransition) as e:
            await restore(made.id, "m1", "m1+", 7, ["a"], actor="me")
        assert e.value.details["state"] == status
    assert await points(bench, made) == []
    current = "m1"
    for status in ("PAUSED", "COMPLETED", "FAILED", "CANCELLED"):
        await bench.put(made.id, status)
        await restore(made.id, current, status, 7, ["a"], actor="me")
        current = status
    assert await bench.store.files.manifest_at(made.id) == "CANCELLED"
    assert [row[0] for row in await points(bench, made)] == [0, 1, 2, 3]


async def test_what_is_there_already_is_no_change(bench: StoreBench) -> None:
    made = await stepped(bench, [None, "m0", "m1"])
    assert await bench.store.files.restore_trash(made.id, "m1", "m1", 7, [], actor="me") == "c1"
    assert await points(bench, made) == []
    await bench.put(made.id, "RUNNING")
    with pytest.raises(errors.InvalidTransition):
        await bench.store.files.restore_trash(made.id, "m1", "m1", 7, [], actor="me")


async def test_without_a_checkpoint_nothing_can_be_brought_back(bench: StoreBench) -> None:
    made = await bench.execution()
    await bench.put(made.id, "CANCELLED")
    with pytest.raises(errors.NoConsistentFiles):
        await bench.store.files.restore_trash(made.id, None, "m", 7, ["a"], actor="me")
