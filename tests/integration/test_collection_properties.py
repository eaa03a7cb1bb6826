"""What must hold for all trees and all rows: kept is exactly what can be reached."""

import asyncio
import secrets
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.files_bench import point, step
from tests.integration.store_bench import StoreBench
from tests.trees import Folder, folders, make, stored
from wtb_ray import manifests
from wtb_ray.collection import Collector
from wtb_ray.db import Database
from wtb_ray.manifests import EMPTY
from wtb_ray.marking import Marker, Reached
from wtb_ray.model import FileTrackingConfig
from wtb_ray.objects import ObjectStore
from wtb_ray.trees import TrackedTree

EVERYTHING = FileTrackingConfig(ignore_patterns=())
QUICK = settings(
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
PLACES = st.sampled_from(["step", "point", "before", "after", "lease", "nowhere"])


async def kept(objects: ObjectStore, folder: Folder) -> str:
    """The manifest of a tree, kept as a workspace is."""
    with TemporaryDirectory(prefix="wtb-gc-") as directory:
        root = Path(directory) / "files"
        root.mkdir()
        make(root, folder)
        tree = TrackedTree(root, EVERYTHING, objects, beside=root.parent)
        return (await tree.snapshot()).manifest


async def reachable(objects: ObjectStore, manifest: str) -> set[str]:
    """By reading the tree, without the code under test."""
    found, pending = {manifest} - {EMPTY}, [manifest]
    while pending:
        for entry in manifests.decoded(EMPTY, await objects.get(pending.pop())):
            if entry.kind != "link":
                found.add(entry.value)
            if entry.kind == "dir":
                pending.append(entry.value)
    return found


@QUICK
@given(trees=st.lists(st.tuples(folders(), PLACES), max_size=5), loose=st.lists(st.binary()))
def test_kept_is_what_can_be_reached(
    url: str, trees: list[tuple[Folder, str]], loose: list[bytes]
) -> None:
    async def work() -> None:
        async with Database(url) as db, ObjectStore(f"memory://{secrets.token_hex(8)}") as objects:
            bench = await StoreBench.make(db)
            async with db.connection() as conn:
                await conn.execute("TRUNCATE steps, restore_points, restores, object_holds")
            expected: set[str] = set()
            await objects.put_many(loose)
            for number, (folder, place) in enumerate(trees):
                manifest = await kept(objects, folder)
                await named(bench, place, number, manifest)
                if place != "nowhere":
                    expected |= await reachable(objects, manifest)
            report = await Collector(bench.store, objects, actor="t", settled_s=0.0).collect(0.0)
            left = {item.digest async for item in objects.listed()}
            assert left - {EMPTY} == expected - {EMPTY}
            assert report.listed - report.swept == len(left)
            for (folder, place), manifest in zip(trees, await named_now(db), strict=False):
                assert await stored(objects, manifest) is not None, (folder, place)

    asyncio.run(work())


async def named(bench: StoreBench, place: str, number: int, manifest: str) -> None:
    made = await bench.execution()
    if place == "step":
        await step(bench, made.thread_id, number, manifest)
    elif place == "point":
        await point(bench, made.thread_id, "c0", number, manifest)
    elif place == "lease":
        await bench.store.holds.begin_reading(f"h{number}", "me", 60.0, manifests=[manifest])
    elif place in ("before", "after"):
        before, after = (manifest, None) if place == "before" else (EMPTY, manifest)
        async with bench.db.connection() as conn:
            await conn.execute(
                "INSERT INTO restores (execution_id, epoch, before, after, reason)"
                " VALUES (%s, 1, %s, %s, 'restart')",
                (made.id, before, after),
            )


async def named_now(db: Database) -> list[str]:
    sql = "SELECT manifest FROM steps UNION SELECT manifest FROM restore_points"
    return [row["manifest"] for row in await db.rows(sql)]


@QUICK
@given(st.lists(st.binary(min_size=32, max_size=32)), st.lists(st.binary(min_size=32, max_size=32)))
def test_a_set_of_digests_has_what_was_added(added: list[bytes], others: list[bytes]) -> None:
    reached = Reached()
    reached.add(b"".join(added))
    assert len(reached) == len({raw[:8] for raw in added})
    asked = [*added, *others]
    there = {raw[:8] for raw in added}
    assert reached.among(b"".join(asked)).tolist() == [raw[:8] in there for raw in asked]


async def test_shared_directories_are_read_once(tmp_path: Path) -> None:
    async with ObjectStore(f"file://{tmp_path}/objects") as objects:
        shared = await objects.put(b"[]")
        entry = manifests.Entry("", "dir", shared, 0, 0o755)
        roots = []
        for number in range(5):
            name = manifests.Entry("", "file", await objects.put(b"%d" % number), 1, 0o644)
            changes = {"same": entry, "also/same": entry, "own": name}
            roots.append(bytes.fromhex(await manifests.replaced(objects, EMPTY, changes)))
        read: list[str] = []
        get_many = objects.get_many

        def counted(digests: list[str]) -> object:
            read.extend(digests)
            return get_many(digests)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(objects, "get_many", counted)
            marker = Marker(objects)
            await marker.mark(b"", b"".join(roots))
            await marker.mark(b"", b"".join(roots))
        assert sorted(read) == sorted(set(read))
        assert not marker.damaged
        assert marker.reached.among(b"".join(roots)).all()


async def test_a_tree_that_was_not_there_yet_is_walked_later(tmp_path: Path) -> None:
    """A lease may name what is only about to be stored."""
    async with ObjectStore(f"file://{tmp_path}/objects") as objects:
        data = manifests.encoded([manifests.Entry("a", "file", "ab" * 32, 1, 0o644)])
        manifest = bytes.fromhex(manifests.digest_of(data))
        marker = Marker(objects)
        await marker.mark(b"", manifest, strict=False)
        assert not marker.damaged
        await objects.put(data)
        await marker.mark(b"", manifest)
        assert marker.reached.among(bytes.fromhex("ab" * 32)).all()


async def test_what_is_no_directory_is_damage(tmp_path: Path) -> None:
    async with ObjectStore(f"file://{tmp_path}/objects") as objects:
        for data in (
            b"text",
            b'[["a","file","short",1,420]]',
            b'[["a","dir","%s",1,420]]' % (b"z" * 64),
        ):
            digest = await objects.put(data)
            marker = Marker(objects)
            await marker.mark(b"", bytes.fromhex(digest))
            assert list(marker.damaged) == [digest]
