"""What must hold for every file tree: kept and restored exactly, untracked files left alone."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trees import NAMES, File, Folder, Seen, folders, look, make, stored
from wtb_ray import errors
from wtb_ray.model import FileTrackingConfig
from wtb_ray.objects import ObjectStore
from wtb_ray.trees import TrackedTree

EVERYTHING = FileTrackingConfig(ignore_patterns=())
SOME = FileTrackingConfig(ignore_patterns=("*.log", "skip/"))
MIXED = NAMES | st.sampled_from(["x.log", "y.log", "skip"])
QUICK = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)


class Workplace:
    """A directory, its tree and its store."""

    def __init__(self, beside: Path, config: FileTrackingConfig, objects: ObjectStore):
        self.root = beside / "files"
        self.root.mkdir()
        self.objects = objects
        self._arguments = (self.root, config, objects)
        self._beside = beside
        self.tree = self.another()

    def another(self) -> TrackedTree:
        """As another process would have it."""
        root, config, objects = self._arguments
        return TrackedTree(root, config, objects, beside=self._beside)


@asynccontextmanager
async def workplace(
    config: FileTrackingConfig, store: Callable[[str], ObjectStore] = ObjectStore
) -> AsyncIterator[Workplace]:
    with TemporaryDirectory(prefix="wtb-trees-") as directory:
        async with store(f"memory://{secrets.token_hex(8)}") as objects:
            yield Workplace(Path(directory), config, objects)


def run(work: Awaitable[None]) -> None:
    async def main() -> None:
        await work

    asyncio.run(main())


@given(st.lists(folders(), min_size=2, max_size=4))
@QUICK
def test_every_tree_comes_back_exactly(trees: list[Folder]) -> None:
    async def check() -> None:
        async with workplace(EVERYTHING) as place:
            kept: list[tuple[str, Seen]] = []
            for tree in trees:
                make(place.root, tree)
                snapshot = await place.tree.snapshot()
                kept.append((snapshot.manifest, look(place.root)))
                assert await stored(place.objects, snapshot.manifest) == look(place.root)
            for manifest, seen in (*kept, *reversed(kept)):
                before = (await place.tree.snapshot()).manifest
                restored = await place.tree.restore(manifest)
                assert look(place.root) == seen
                assert restored.displaced in (before, None)
                assert (await place.tree.snapshot()).manifest == manifest
                assert (await place.another().snapshot()).manifest == manifest

    run(check())


@given(folders(MIXED), folders(MIXED))
@QUICK
def test_untracked_files_are_never_touched(first: Folder, second: Folder) -> None:
    async def check() -> None:
        async with workplace(SOME) as place:
            make(place.root, first)
            manifest = (await place.tree.snapshot()).manifest
            wanted = await stored(place.objects, manifest)
            make(place.root, second)
            before = look(place.root)
            untracked = {path: node for path, node in before.items() if left_out(before, path)}
            try:
                await place.tree.restore(manifest)
            except errors.RestoreRefused:
                assert look(place.root) == before
                return
            after = look(place.root)
            assert wanted.items() <= after.items()
            assert untracked.items() <= after.items()
            for path in after.keys() - wanted.keys() - untracked.keys():
                assert after[path][0] == "dir"
                assert any(other.startswith(f"{path}/") for other in untracked)

    run(check())


def left_out(seen: Seen, path: str) -> bool:
    """Whether `SOME` leaves a path out."""
    parts = path.split("/")
    inside = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return any(
        part.endswith(".log") or (part == "skip" and seen[upto][0] == "dir")
        for part, upto in zip(parts, inside, strict=True)
    )


class Failing(ObjectStore):
    """Fails at the calls that it is told to."""

    calls = 0
    fails_at = 0

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)

    async def put_many(self, items: Iterable[bytes]) -> list[str]:
        self._count()
        some = list(items)
        if self._fails():
            await super().put_many(some[: len(some) // 2])
            raise errors.Unavailable("the store went away in the middle")
        return await super().put_many(some)

    async def get_files(self, wanted: Iterable[Any], *, durable: bool = False) -> None:
        self._count()
        some = list(wanted)
        if self._fails():
            await super().get_files(some[: len(some) // 2], durable=durable)
            raise errors.Unavailable("the store went away in the middle")
        await super().get_files(some, durable=durable)

    async def get_many(self, digests: Iterable[str]) -> AsyncIterator[tuple[str, bytes]]:
        self._count()
        if self._fails():
            raise errors.Unavailable("the store went away")
        async for item in super().get_many(digests):
            yield item

    def _count(self) -> None:
        self.calls += 1

    def _fails(self) -> bool:
        return self.calls == self.fails_at


@given(folders(), folders(), st.integers(1, 6))
@QUICK
def test_a_store_that_fails_leaves_every_file_as_it_was(
    first: Folder, second: Folder, fails_at: int
) -> None:
    async def check() -> None:
        async with workplace(EVERYTHING, Failing) as place:
            store = place.objects
            assert isinstance(store, Failing)
            store.fails_at = fails_at
            make(place.root, first)
            manifest = await persistently(place.tree.snapshot)
            wanted = look(place.root)
            make(place.root, second)
            before = look(place.root)
            try:
                await place.another().restore(manifest.manifest)
            except errors.Unavailable:
                assert look(place.root) == before
                await place.another().restore(manifest.manifest)
            assert look(place.root) == wanted
            assert await stored(store, manifest.manifest) == wanted

    run(check())


async def persistently(work: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await work()
    except errors.Unavailable:
        return await work()


@given(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4))
@settings(max_examples=25, deadline=None, database=None)
def test_a_change_right_after_a_snapshot_is_seen(first: bytes, second: bytes) -> None:
    async def check() -> None:
        async with workplace(EVERYTHING) as place:
            path = place.root / "same-size"
            path.write_bytes(first)
            before = (await place.tree.snapshot()).manifest
            path.write_bytes(second)
            after = (await place.tree.snapshot()).manifest
            assert (before == after) == (first == second)
            await place.tree.restore(before)
            path.write_bytes(second)
            assert (await place.tree.snapshot()).manifest == after

    run(check())


@pytest.mark.parametrize("edited", ["content", "mode", "kind"])
async def test_what_is_written_down_is_not_trusted_too_much(tmp_path: Path, edited: str) -> None:
    async with workplace(EVERYTHING) as place:
        make(place.root, Folder(0o755, {"a": File(b"one", 0o644), "b": File(b"two", 0o644)}))
        await asyncio.sleep(0.1)  # so that the files are older than the scan
        unchanged = await place.tree.snapshot()
        await place.tree.save()
        if edited == "content":
            (place.root / "a").write_bytes(b"ONE")
        elif edited == "mode":
            (place.root / "a").chmod(0o600)
        else:
            (place.root / "a").unlink()
            (place.root / "a").mkdir()
        later = place.another()
        await later.load()
        changed = await later.snapshot()
        assert changed.manifest != unchanged.manifest
        assert await stored(place.objects, changed.manifest) == look(place.root)
