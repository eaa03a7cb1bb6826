"""File trees as people look at them: listings, changes with their texts, and the trash.

Everything is looked up in manifests, so that no path leads anywhere else. Long lists are given in
parts, each after a cursor that names the last path before it. Never touches a workspace: what comes
out of the trash is part of the execution's next restore point.
"""

import asyncio
import base64
import binascii
import difflib
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import Final

from wtb_ray import errors, manifests
from wtb_ray.api import Page, RestoredTrash, TrashRestoreRequest
from wtb_ray.file_entries import FileChange, FileEntry, TrashedFile
from wtb_ray.manifests import EMPTY, Change, Entry, shown
from wtb_ray.objects import ObjectStore
from wtb_ray.storage_api import CommitEntry
from wtb_ray.store import Store
from wtb_ray.store.files import NEWEST, Place, Restore

TEXT_BYTES: Final = 128 << 10
TEXT_LINES: Final = 2_000
"""A longer text is not compared line by line."""
TEXTS_BYTES: Final = 1 << 20
"""Texts of one part of a list are compared up to this size together."""
AHEAD: Final = 64
"""Directories that are fetched at a time."""

Parts = tuple[str, ...]
Weight = tuple[int, int]
"""Files and bytes."""

log = logging.getLogger(__name__)


async def listing(
    objects: ObjectStore, manifest: str | None, prefix: str, limit: int, after: str | None
) -> Page[FileEntry]:
    """All that is at and below `prefix`, in the order of the paths, directories before their files.

    Raises:
        UnknownFile: There is no such prefix.
        InvalidRequest: `after` is no cursor.
    """
    begin = _parts(after)
    if manifest is None and not prefix.strip("/"):
        return Page(items=[])
    below, top = await _top(objects, manifest or EMPTY, prefix)
    found: list[tuple[str, Entry]] = []
    if top.kind != "dir":
        found = [(below, top)] if after is None else []
    else:
        inside = begin[below.count("/") + 1 if below else 0 :]
        async for item in _walk(objects, top.value, below, inside):
            found.append(item)
            if len(found) > limit:
                break
    items = [manifests.file_entry(path, entry) for path, entry in found[:limit]]
    return Page(items=items, next=_cursor(found[limit - 1][0]) if len(found) > limit else None)


async def _top(objects: ObjectStore, manifest: str, prefix: str) -> tuple[str, Entry]:
    """The entry at a prefix, and its path as the tree spells it."""
    path, entry = "", Entry("", "dir", manifest, 0, 0o755)
    for name in [part for part in prefix.split("/") if part]:
        entry = await manifests.find(objects, entry.value if entry.kind == "dir" else EMPTY, name)
        path = f"{path}/{entry.name}" if path else entry.name
    return path, entry


async def _walk(
    objects: ObjectStore, digest: str, below: str, after: Parts
) -> AsyncIterator[tuple[str, Entry]]:
    """What is below a directory, from behind a path on."""
    entries = await manifests.directory(objects, digest)
    ahead = [entry for entry in entries if not after or entry.name >= after[0]]
    folders = [entry.value for entry in ahead if entry.kind == "dir"]
    for entry in ahead:
        path = f"{below}/{entry.name}" if below else entry.name
        passed = bool(after) and entry.name == after[0]
        if not passed:
            yield path, entry
        if entry.kind == "dir":
            if entry.value in folders:
                await manifests.directories(objects, folders[:AHEAD])
                folders = folders[AHEAD:]
            async for item in _walk(objects, entry.value, path, after[1:] if passed else ()):
                yield item


async def file_at(objects: ObjectStore, manifest: str | None, path: str) -> FileEntry:
    """The file at a path.

    Raises:
        UnknownFile: There is none; a directory or link is not one.
    """
    below, entry = await _top(objects, manifest or EMPTY, path)
    if entry.kind != "file" or path.startswith("/"):
        what = {"dir": "a directory", "link": f"a link to {shown(entry.value)}"}.get(entry.kind)
        raise errors.UnknownFile(
            f"there is no file {path}" + (f": it is {what}" if what else ""),
            field="path",
            reason=f"is {what}" if what else "unknown",
        )
    return manifests.file_entry(below, entry)


async def changes(
    objects: ObjectStore,
    before: str | None,
    after_manifest: str | None,
    limit: int,
    after: str | None,
    *,
    text: bool,
) -> Page[FileChange]:
    """How two trees differ, in the order of the paths.

    Raises:
        InvalidRequest: `after` is no cursor.
    """
    begin = _parts(after)
    found = sorted(await manifests.diff(objects, before, after_manifest), key=_order)
    found = [change for change in found if not begin or _order(change) > begin]
    items = [_change(change) for change in found[:limit]]
    if text:
        items = await _with_texts(objects, items)
    return Page(items=items, next=_cursor(found[limit - 1][0]) if len(found) > limit else None)


def _order(change: Change) -> Parts:
    return tuple(change[0].split("/"))


def _change(change: Change) -> FileChange:
    path, before, after = change
    return FileChange(
        path=shown(path),
        change="added" if before is None else "removed" if after is None else "changed",
        before=manifests.file_entry(path, before) if before else None,
        after=manifests.file_entry(path, after) if after else None,
    )


async def _with_texts(objects: ObjectStore, items: Sequence[FileChange]) -> list[FileChange]:
    """The changes with unified diffs where both sides are texts of bearable size."""
    made: list[FileChange] = []
    room = TEXTS_BYTES
    for item in items:
        sides = [side for side in (item.before, item.after) if side is not None]
        size = sum(side.size for side in sides)
        fits = all(side.kind == "file" and side.size <= TEXT_BYTES for side in sides)
        if not fits or size > room:
            made.append(item)
            continue
        room -= size
        old, new = [await _text(objects, side) for side in (item.before, item.after)]
        if old is not None and new is not None:
            diff = await asyncio.to_thread(_unified, item, old, new)
            item = item.model_copy(update={"diff": diff})
        made.append(item)
    return made


async def _text(objects: ObjectStore, entry: FileEntry | None) -> list[str] | None:
    """The lines of a text, None if it is none."""
    if entry is None or entry.digest is None:
        return []
    data = await objects.get(entry.digest)
    if b"\0" in data:
        return None
    try:
        lines = data.decode().splitlines(keepends=True)
    except UnicodeDecodeError:
        return None
    return lines if len(lines) <= TEXT_LINES else None


def _unified(item: FileChange, old: Sequence[str], new: Sequence[str]) -> str:
    names = (
        f"a/{item.path}" if item.before else "/dev/null",
        f"b/{item.path}" if item.after else "/dev/null",
    )
    lines = difflib.unified_diff(old, new, *names)
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


async def trash(
    objects: ObjectStore, restores: Iterable[Restore], limit: int, after: str | None
) -> Page[TrashedFile]:
    """What restores displaced: files that they removed or changed, as they were before.

    Raises:
        InvalidRequest: `after` is no cursor.
    """
    id, dot, place = after.partition(".") if after is not None else ("", "", "")
    if after is not None and not (id.isdecimal() and dot):
        raise _bad_cursor(after)
    last, begin = int(id or 0), _parts(place or None)
    found: list[tuple[str, TrashedFile]] = []
    for restore in restores:
        if after is not None and restore.id > last:
            continue
        for path, entry in await _displaced(objects, restore):
            if after is not None and restore.id == last and tuple(path.split("/")) <= begin:
                continue
            found.append((f"{restore.id}.{_cursor(path)}", _trashed(restore, path, entry)))
        if len(found) > limit:
            break
    items = [item for _, item in found[:limit]]
    return Page(items=items, next=found[limit - 1][0] if len(found) > limit else None)


async def _displaced(objects: ObjectStore, restore: Restore) -> list[tuple[str, Entry]]:
    """A directory belongs to it only where it is gone: its files stand for themselves."""
    found = sorted(await manifests.diff(objects, restore.before, restore.after), key=_order)
    return [
        (path, before)
        for path, before, after in found
        if before is not None
        and not (before.kind == "dir" and after is not None and after.kind == "dir")
    ]


def _trashed(restore: Restore, path: str, entry: Entry) -> TrashedFile:
    return TrashedFile(
        restore_id=restore.id,
        entry=manifests.file_entry(path, entry),
        reason=restore.reason,
        displaced_at=restore.created_at,
    )


async def weight(objects: ObjectStore, manifest: str) -> tuple[int, int]:
    """How many files and links a tree has, and how many bytes.

    Raises:
        UnknownObject: A directory object is missing.
        ObjectCorrupt: A directory object is damaged.
    """
    files, size = 0, sum(entry.size for entry in await manifests.directory(objects, manifest))
    level = Counter([manifest])
    while level:
        listings = await manifests.directories(objects, level)
        below: Counter[str] = Counter()
        for digest, times in level.items():
            for entry in listings[digest]:
                if entry.kind == "dir":
                    below[entry.value] += times
                else:
                    files += times
        level = below
    return files, size


async def weigh(store: Store, objects: ObjectStore, found: Iterable[str]) -> dict[str, Weight]:
    """Weighs trees and writes that down; those that cannot be read are left out."""
    weights = {}
    for manifest in dict.fromkeys(found):
        try:
            weights[manifest] = await weight(objects, manifest)
        except (errors.UnknownObject, errors.ObjectCorrupt) as e:
            log.warning("tree %s cannot be read: %s", manifest, e, extra={"action": "weigh"})
    if weights:
        await store.collections.weigh(weights)
    return weights


async def commits(
    store: Store, objects: ObjectStore, execution_id: str, limit: int, after: str | None
) -> Page[CommitEntry]:
    """The trees of an execution's checkpoints with their weights, newest first.

    Raises:
        UnknownExecution: There is none with this id.
        InvalidRequest: `after` is no cursor.
    """
    rows = await store.files.commits(execution_id, limit + 1, _place_before(after))
    new = (row.manifest for row in rows[:limit] if row.files is None)
    weights = await weigh(store, objects, new)
    items = []
    for row in rows[:limit]:
        files, size = weights.get(row.manifest, (row.files, row.bytes))
        fields = row.model_dump(exclude={"number", "files", "bytes"})
        items.append(CommitEntry(**fields, files=files, bytes=size))
    last = rows[limit - 1] if len(rows) > limit else None
    return Page(items=items, next=last and f"{last.number}.{last.step}.{last.seq}")


def _place_before(after: str | None) -> Place:
    if after is None:
        return NEWEST
    match = re.fullmatch(r"(\d{1,9})\.(-?\d{1,9})\.(-?\d{1,9})", after, re.ASCII)
    if match is None:
        raise _bad_cursor(after)
    return int(match[1]), int(match[2]), int(match[3])


async def restore_trash(
    store: Store,
    objects: ObjectStore,
    execution_id: str,
    request: TrashRestoreRequest,
    *,
    actor: str,
    lease: str | None = None,
) -> RestoredTrash:
    """Brings displaced files back, beside what the execution has now; a file of today gives way.

    Bringing back what is there already changes nothing. What has to be stored is stored under
    `lease`.

    Raises:
        NotFound: There is no such restore (`UnknownFile`: it did not displace such a path).
        UnknownObject: The content of a file is lost; nothing was changed.
        Conflict: Any of its kinds, see `Files.restore_trash`.
    """
    restores = {restore.id: restore for restore in await store.files.restores(execution_id)}
    if request.restore_id not in restores:
        raise errors.NotFound(
            f"execution {execution_id} has no restore {request.restore_id} with trash",
            field="restore_id",
            reason="unknown",
        )
    displaced = await _displaced(objects, restores[request.restore_id])
    chosen = _chosen(displaced, request.paths)
    await _check_stored(objects, chosen)
    present = await store.files.manifest_at(execution_id)
    manifest = await manifests.replaced(objects, present, await _beside(objects, present, chosen))
    paths = [shown(path) for path, _ in chosen]
    head = await store.files.restore_trash(
        execution_id, present, manifest, request.restore_id, paths, actor=actor, lease=lease
    )
    return RestoredTrash(
        execution_id=execution_id,
        checkpoint_id=head,
        restore_id=request.restore_id,
        paths=paths,
        manifest=manifest,
    )


def _chosen(
    displaced: Sequence[tuple[str, Entry]], paths: Collection[str] | None
) -> list[tuple[str, Entry]]:
    """The displaced entries at or below these paths; all of them when none are named."""
    if paths is None:
        return list(displaced)
    wanted = {path.strip("/") for path in paths}
    chosen = []
    met: set[str] = set()
    for path, entry in displaced:
        parts = shown(path).split("/")
        above = {"/".join(parts[:n]) for n in range(1, len(parts) + 1)} & wanted
        if above:
            chosen.append((path, entry))
            met |= above
    if missing := sorted(wanted - met):
        raise errors.UnknownFile(
            f"the restore displaced no {missing[0]}", field="paths", reason="unknown"
        )
    return chosen


async def _check_stored(objects: ObjectStore, chosen: Iterable[tuple[str, Entry]]) -> None:
    """Refuses a lost file by its path: a restore point that names it could never be restored."""
    files = [(path, entry.value) for path, entry in chosen if entry.kind == "file"]
    for start in range(0, len(files), AHEAD):
        part = files[start : start + AHEAD]
        there = await asyncio.gather(*(objects.exists(digest) for _, digest in part))
        for (path, digest), known in zip(part, there, strict=True):
            if not known:
                raise errors.UnknownObject(
                    f"the content of {shown(path)} is lost: there is no object {digest}",
                    path=shown(path),
                    digest=digest,
                )


async def _beside(
    objects: ObjectStore, present: str | None, chosen: Sequence[tuple[str, Entry]]
) -> dict[str, Entry | None]:
    """What to put into the present tree: whole directories only where none is, so that nothing goes."""
    made: dict[str, Entry | None] = {}
    whole: set[Parts] = set()
    for path, entry in chosen:
        parts = tuple(path.split("/"))
        if any(parts[:n] in whole for n in range(1, len(parts))):
            continue
        occupied = await _is_directory(objects, present or EMPTY, path)
        if entry.kind == "dir" and occupied:
            continue
        if occupied:
            raise errors.Conflict(
                f"{shown(path)} is a directory now", field="paths", reason="a directory is there"
            )
        if entry.kind == "dir":
            whole.add(parts)
        made[path] = entry
    return made


async def _is_directory(objects: ObjectStore, manifest: str, path: str) -> bool:
    try:
        return (await manifests.find(objects, manifest, path)).kind == "dir"
    except errors.UnknownFile:
        return False


def _cursor(path: str) -> str:
    raw = path.encode("utf-8", "surrogateescape")
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _parts(cursor: str | None) -> Parts:
    """The path that a cursor names, in parts."""
    if cursor is None:
        return ()
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError) as e:
        raise _bad_cursor(cursor) from e
    return tuple(raw.decode("utf-8", "surrogateescape").split("/"))


def _bad_cursor(after: str) -> errors.InvalidRequest:
    return errors.InvalidRequest(
        f"after={after!r} is not a cursor of this list",
        field="after",
        reason="take it from `next` of the page before",
    )
