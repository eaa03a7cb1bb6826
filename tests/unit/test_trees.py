"""Keeping and restoring a directory: what is kept, what is refused, and what it costs."""

import asyncio
import errno
import os
import secrets
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.trees import ROOT, File, Folder, Link, look, make, stored
from wtb_ray import errors, manifests, scans
from wtb_ray.model import FileTrackingConfig
from wtb_ray.objects import ObjectStore, key_of
from wtb_ray.restores import Restored
from wtb_ray.trees import TrackedTree

TREE = Folder(
    0o755,
    {
        "readme": File(b"hello", 0o644),
        "run.sh": File(b"#!/bin/sh", 0o755),
        "data": Folder(0o700, {"rows": File(b"1,2,3", 0o600), "again": Link("rows")}),
        "hollow": Folder(0o555, {}),
    },
)


@pytest_asyncio.fixture
async def objects(tmp_path: Path) -> AsyncIterator[ObjectStore]:
    async with ObjectStore(f"file://{tmp_path}/objects") as store:
        yield store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "ws" / "files"
    path.mkdir(parents=True)
    return path


Trees = Callable[..., TrackedTree]


@pytest.fixture
def tracked(root: Path, objects: ObjectStore) -> Trees:
    """A tree over the directory, as a process has it that knows nothing yet."""

    def make_tree(quota_mb: int | None = None, **config: Any) -> TrackedTree:
        tracking = FileTrackingConfig(**config)
        return TrackedTree(root, tracking, objects, beside=root.parent, quota_mb=quota_mb)

    return make_tree


# --- snapshots ---


async def test_a_snapshot_tells_what_is_there_and_what_it_cost(
    tracked: Trees, root: Path, objects: ObjectStore
) -> None:
    make(root, TREE)
    snapshot = await tracked().snapshot()
    assert (snapshot.files, snapshot.bytes) == (4, 5 + 9 + 5)
    assert snapshot.new_objects == 3 + 3  # contents, and directories
    assert await stored(objects, snapshot.manifest) == look(root)


async def test_an_unchanged_tree_writes_nothing(
    tracked: Trees, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(root, TREE)
    tree = tracked()
    first = await tree.snapshot()
    monkeypatch.delattr(ObjectStore, "put_many")
    monkeypatch.delattr(ObjectStore, "put_file")
    (root / "readme").touch()
    second = await tree.snapshot()
    assert (second.manifest, second.new_objects, second.new_bytes) == (first.manifest, 0, 0)


async def test_a_small_change_writes_few_objects(tracked: Trees, root: Path) -> None:
    make(root, Folder(0o755, {f"d{i}": Folder(0o755, TREE.inside) for i in range(20)}))
    tree = tracked()
    await tree.snapshot()
    (root / "d7" / "data" / "rows").write_bytes(b"4,5,6")
    assert (await tree.snapshot()).new_objects == 1 + 3


async def test_patterns_are_those_of_gitignore(tracked: Trees, root: Path) -> None:
    names = ["a.pyc", "keep.pyc", "src/b.pyc", "build/x", "src/build/y", "top", "src/top", "#x"]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    patterns = ("*.pyc", "!keep.pyc", "build/", "/top", "\\#x")
    kept = await listed(tracked(ignore_patterns=patterns), root)
    (root / ".gitignore").write_text("\n".join(patterns))
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    command = ["git", "ls-files", "-o", "--exclude-standard"]
    git = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    assert kept == set(git.stdout.split()) - {".gitignore"} == {"keep.pyc", "src/top"}


async def test_only_tracked_paths_are_kept_and_input_never(tracked: Trees, root: Path) -> None:
    for name in ["out/a", "deep/down/b", "deep/c", "d", "input/e", "out/input/f"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    some = tracked(tracked_paths=("out", "./deep/down/", "missing"))
    assert await listed(some, root) == {"out/a", "deep/down/b", "out/input/f"}
    assert await listed(tracked(), root) == {"out/a", "deep/down/b", "deep/c", "d", "out/input/f"}


async def listed(tree: TrackedTree, root: Path) -> set[str]:
    manifest = (await tree.snapshot()).manifest
    objects = tree._objects
    return {
        path
        for path, entry in (await manifests.read(objects, manifest)).items()
        if entry.kind != "dir"
    }


@pytest.mark.parametrize(
    "field",
    [{"tracked_paths": ("../x",)}, {"tracked_paths": ("/etc",)}, {"tracked_paths": ("input/x",)}],
)
def test_paths_that_cannot_be_meant_are_refused(tracked: Trees, field: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidRequest) as raised:
        tracked(**field)
    assert raised.value.details["field"] == "file_tracking.tracked_paths"


def test_a_pattern_that_cannot_be_meant_is_refused(tracked: Trees) -> None:
    with pytest.raises(errors.InvalidRequest) as raised:
        tracked(ignore_patterns=("!",))
    assert raised.value.details["field"] == "file_tracking.ignore_patterns"


async def test_a_tracked_path_must_be_a_directory(tracked: Trees, root: Path) -> None:
    (root / "out").touch()
    await refused(tracked(tracked_paths=("out",)), "out", "no directory")
    (root / "out").unlink()
    (root / "out").symlink_to(".")
    await refused(tracked(tracked_paths=("out/deep",)), "out", "no directory")


async def refused(tree: TrackedTree, path: str, reason: str) -> errors.FilesRefused:
    with pytest.raises(errors.FilesRefused) as raised:
        await tree.snapshot()
    assert raised.value.details["path"] == path
    assert reason in raised.value.details["reason"]
    return raised.value


@pytest.mark.parametrize("target", ["/etc/passwd", "..", "../x", "sub/../../x", "./../x"])
async def test_links_that_leave_the_tree_are_refused(
    tracked: Trees, root: Path, target: str
) -> None:
    (root / "link").symlink_to(target)
    await refused(tracked(), "link", "outside of the workspace")
    (root / "deep").mkdir()
    (root / "link").rename(root / "link.tmp")  # ignored ones may be anything
    (root / "deep" / "link").symlink_to("../deep")
    assert (await tracked().snapshot()).files == 1


async def test_what_is_no_file_is_refused_unless_it_is_ignored(tracked: Trees, root: Path) -> None:
    os.mkfifo(root / "pipe")
    await refused(tracked(), "pipe", "neither file nor directory nor link")
    (root / "pipe").rename(root / "pipe.tmp")
    await tracked().snapshot()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(root / "socket"))
        await refused(tracked(), "socket", "neither file nor directory nor link")
    (root / "socket").unlink()
    if ROOT:
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        await refused(tracked(), "null", "neither file nor directory nor link")


async def test_limits(tracked: Trees, root: Path) -> None:
    (root / "large").write_bytes(bytes(2 << 20))
    await refused(tracked(max_file_mb=1), "large", "larger than max_file_mb=1")
    (root / "small").touch()
    assert isinstance(
        await refused(tracked(max_files=1), str(root), "max_files"), errors.QuotaExceeded
    )
    assert isinstance(
        await refused(tracked(quota_mb=1), str(root), "quota_mb"), errors.QuotaExceeded
    )
    assert (await tracked(quota_mb=2, max_files=2, max_file_mb=2).snapshot()).files == 2


@pytest.mark.parametrize("size", [10, 5 << 20])
@pytest.mark.parametrize(("changes", "kept"), [(3, True), (100, False)])
async def test_a_file_that_changes_while_it_is_read_is_read_again_and_then_refused(
    tracked: Trees, root: Path, monkeypatch: pytest.MonkeyPatch, size: int, changes: int, kept: bool
) -> None:
    monkeypatch.setattr("wtb_ray.snapshots._FIRST_PAUSE_S", 0.001)
    left, read, put_file = changes, scans.content, ObjectStore.put_file
    restless = root / "restless"
    restless.write_bytes(bytes(size))

    def disturb() -> None:
        nonlocal left
        if left:
            left -= 1
            with restless.open("ab") as file:
                file.write(b"more")

    def disturbed(root: Path, unread: scans.Unread) -> bytes:
        disturb()
        return read(root, unread)

    async def disturbed_too(self: ObjectStore, path: Path) -> str:
        digest = await put_file(self, path)
        disturb()
        return digest

    monkeypatch.setattr(scans, "content", disturbed)
    monkeypatch.setattr(ObjectStore, "put_file", disturbed_too)
    if kept:
        assert (await tracked().snapshot()).bytes == size + 3 * 4
    else:
        await refused(tracked(), "restless", "changed while read")


async def test_files_that_come_and_go_do_not_disturb(
    tracked: Trees, root: Path, objects: ObjectStore
) -> None:
    over = threading.Event()
    (root / "steady").write_bytes(b"here")

    def churn() -> None:
        while not over.is_set():
            (root / "passing").mkdir(exist_ok=True)
            (root / "passing" / "x").touch()
            (root / "passing" / "x").unlink()
            (root / "passing").rmdir()

    churner = threading.Thread(target=churn)
    churner.start()
    tree = tracked()
    try:
        for _ in range(10):
            with suppress(errors.FilesRefused):  # changed while read
                snapshot = await tree.snapshot()
                assert await manifests.find(objects, snapshot.manifest, "steady")
    finally:
        over.set()
        churner.join()


@pytest.mark.parametrize("name", ["closed file", "closed directory"])
async def test_what_may_not_be_read_is_refused(
    tracked: Trees, root: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (root / "closed file").touch()
    (root / "closed directory").mkdir()
    opened = os.open

    def denied(path: Any, *arguments: Any, **named: Any) -> int:  # nothing keeps root out
        if str(path).endswith(name):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return opened(path, *arguments, **named)

    monkeypatch.setattr(os, "open", denied)
    await refused(tracked(), name, "no permission")


async def test_a_workspace_that_is_not_there_is_refused(tracked: Trees, root: Path) -> None:
    root.rmdir()
    await refused(tracked(), str(root), "No such file")


# --- restores ---


async def test_a_restore_finds_no_place(tracked: Trees, root: Path) -> None:
    root.rmdir()
    root.parent.rmdir()
    root.parent.touch()
    with pytest.raises(errors.RestoreRefused) as raised:
        await tracked().restore(None)
    assert raised.value.details["path"] == str(root)
    assert raised.value.details["reason"]


async def test_a_restore_tells_what_it_did_and_keeps_what_it_displaced(
    tracked: Trees, root: Path
) -> None:
    tree = tracked()
    assert await tree.restore(None) == Restored(manifests.EMPTY, 0, 0, None)
    make(root, TREE)
    first, seen = (await tree.snapshot()).manifest, look(root)
    (root / "readme").write_bytes(b"other")
    (root / "data" / "again").unlink()
    (root / "new").touch()
    second = (await tree.snapshot()).manifest
    (root / "never kept").write_bytes(b"precious")
    restored = await tree.restore(first)
    assert look(root) == seen
    assert (restored.restored, restored.removed) == (2, 2)
    assert restored.displaced not in (None, second)
    await tree.restore(restored.displaced)
    assert (root / "never kept").read_bytes() == b"precious"
    assert sorted(path.name for path in root.parent.iterdir()) == ["files"]


async def test_a_damaged_or_missing_blob_is_refused_before_anything_is_touched(
    tracked: Trees, root: Path, objects: ObjectStore, tmp_path: Path
) -> None:
    tree = tracked()
    make(root, TREE)
    manifest = (await tree.snapshot()).manifest
    await tree.restore(None)
    (root / "mine").touch()
    before = look(root)
    for path in ("data/rows", "data"):
        digest = (await manifests.find(objects, manifest, path)).value
        blob = tmp_path / "objects" / key_of(digest)
        intact = blob.read_bytes()
        blob.write_bytes(b"damaged")
        await not_restored(objects, tracked(), manifest, digest, "damaged")
        blob.unlink()
        await not_restored(objects, tracked(), manifest, digest, "missing")
        blob.write_bytes(intact)
        assert look(root) == before
    await tracked().restore(manifest)


async def not_restored(
    objects: ObjectStore, tree: TrackedTree, manifest: str, digest: str, how: str
) -> None:
    manifests.forget(objects)
    with pytest.raises(errors.RestoreRefused) as raised:
        await tree.restore(manifest)
    assert raised.value.details["digest"] == digest
    assert how in raised.value.details["reason"]
    assert raised.value.details["path"]


@pytest.mark.parametrize("inside", ["a.log", "skipped/x"])
async def test_an_untracked_file_in_the_way_is_refused(
    tracked: Trees, root: Path, inside: str
) -> None:
    tree = tracked(ignore_patterns=("*.log", "skipped/"))
    (root / "place").write_bytes(b"a file")
    manifest = (await tree.snapshot()).manifest
    (root / "place").unlink()
    (root / "place" / inside).parent.mkdir(parents=True)
    (root / "place" / inside).write_bytes(b"untracked")
    before = look(root)
    with pytest.raises(errors.RestoreRefused) as raised:
        await tree.restore(manifest)
    assert raised.value.details["path"] == "place"
    assert look(root) == before


async def test_other_patterns_find_untracked_files_in_the_way(tracked: Trees, root: Path) -> None:
    (root / "a.log").write_bytes(b"kept")
    (root / "skipped").mkdir()
    (root / "skipped" / "x").write_bytes(b"kept")
    manifest = (await tracked(ignore_patterns=()).snapshot()).manifest
    tree = tracked(ignore_patterns=("*.log", "skipped/"))
    (root / "skipped" / "x").unlink()
    await tree.restore(manifest)  # what is the same is no hindrance
    assert (root / "skipped" / "x").read_bytes() == b"kept"
    (root / "a.log").write_bytes(b"mine")
    with pytest.raises(errors.RestoreRefused) as raised:
        await tree.restore(manifest)
    assert raised.value.details["path"] == "a.log"
    assert (root / "a.log").read_bytes() == b"mine"


async def test_a_large_untracked_file_and_a_process_in_the_directory_survive(
    tracked: Trees, root: Path
) -> None:
    make(root, TREE)
    tree = tracked()
    manifest = (await tree.snapshot()).manifest
    with (root / "huge.tmp").open("wb") as huge:
        huge.truncate(1 << 30)
    status = (root / "huge.tmp").stat()
    (root / "readme").unlink()
    code = "import sys; sys.stdin.read(1); print(open('readme').read())"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    await tree.restore(None)
    await tree.restore(manifest)
    output, _ = await asyncio.to_thread(process.communicate, "x")
    assert output == "hello\n"
    assert (root / "huge.tmp").stat() == status


async def test_files_with_another_name_elsewhere_are_replaced_not_written(
    tracked: Trees, root: Path, tmp_path: Path
) -> None:
    (root / "a").write_bytes(b"old")
    (root / "b").write_bytes(b"same")
    tree = tracked()
    manifest = (await tree.snapshot()).manifest
    for name in ("a", "b"):
        (root / name).write_bytes(b"new" if name == "a" else b"same")
        (root / name).chmod(0o600)
        os.link(root / name, tmp_path / name)
    await tree.restore(manifest)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "b").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("number", "raised"),
    [(errno.EPERM, errors.RestoreRefused), (errno.ENOSPC, errors.StorageFull)],
)
async def test_a_failure_in_the_middle_is_undone(
    tracked: Trees,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    raised: type[errors.WTBError],
) -> None:
    tree = tracked()
    make(root, TREE)
    manifest = (await tree.snapshot()).manifest
    make(root, Folder(0o755, {"readme": File(b"mine", 0o640), "more": File(b"x", 0o644)}))
    before, rename, calls = look(root), os.rename, 0

    def fails_once(source: str, target: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(number, "not now", source, None, target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails_once)
    with pytest.raises(raised, match="not now") as failure:
        await tree.restore(manifest)
    assert failure.value.details["path"] in {"run.sh", "data/rows", "data/again", "readme"}
    assert look(root) == before
    assert (await tree.restore(manifest)).displaced


async def test_what_nobody_was_told_of_is_told_by_the_next_restore(
    tracked: Trees, root: Path
) -> None:
    make(root, TREE)
    manifest = (await tracked().snapshot()).manifest
    (root / "precious").touch()
    precious = (await tracked().snapshot()).manifest

    async def dies(_: Restored) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await tracked().restore(manifest, witness=dies)
    told: list[Restored] = []

    async def notes(restored: Restored) -> None:
        told.append(restored)

    (root / "since").touch()
    since = (await tracked().snapshot()).manifest
    assert (await tracked().restore(None, witness=notes)) == told[0]
    assert (told[0].displaced, told[0].recovered) == (since, (precious,))
    assert (await tracked().restore(None)).displaced is None


async def test_an_unreadable_journal_is_refused(tracked: Trees, root: Path) -> None:
    (root.parent / "intent").write_bytes(secrets.token_bytes(8))
    with pytest.raises(errors.RestoreRefused, match="journal"):
        await tracked().restore(None)


# --- manifests ---


async def test_trees_are_compared_and_changed_without_a_directory(
    tracked: Trees, root: Path, objects: ObjectStore
) -> None:
    name = os.fsdecode(b"caf\xe9")
    make(root, Folder(0o755, {name: File(b"old", 0o644), "data": Folder(0o755, {})}))
    before = (await tracked().snapshot()).manifest
    make(root, Folder(0o755, {name: File(b"newer", 0o644), "data": File(b"", 0o644)}))
    after = (await tracked().snapshot()).manifest
    changes = {
        manifests.shown(path): (a, b) for path, a, b in await manifests.diff(objects, before, after)
    }
    assert changes.keys() == {"caf\\xe9", "data"}
    entry = await manifests.find(objects, before, "caf\\xe9")
    assert manifests.file_entry(name, entry).path == "caf\\xe9"
    merged = await manifests.replaced(objects, after, {f"trash/{name}": entry, "data": None})
    assert list(await manifests.read(objects, merged)) == [name, "trash", f"trash/{name}"]
    assert list(await manifests.read(objects, merged, "trash")) == [f"trash/{name}"]
    assert [e.name for e in await manifests.entries(objects, merged, "trash")] == [name]
    assert await manifests.diff(objects, None, None) == []
    for path in ("nowhere", "trash/x", f"{name}/x"):
        with pytest.raises(errors.UnknownFile):
            await manifests.find(objects, merged, path)


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "nul\0"])
async def test_a_manifest_never_leads_out_of_its_directory(
    tracked: Trees, objects: ObjectStore, name: str
) -> None:
    entry = manifests.Entry(name, "file", await objects.put(b"evil"), 4, 0o644)
    manifest = await objects.put(manifests.encoded([entry]))
    with pytest.raises(errors.RestoreRefused):
        await tracked().restore(manifest)
