"""Makes a directory what a manifest says, in place, so that no crash leaves it torn or loses a file.

1. What is there is kept as a manifest of its own, so that nothing displaced is ever lost.
2. All blobs that are needed are fetched beside the directory and verified.
3. The journal (`intent`) is written: from here on a crash leaves a mix of the two trees.
4. Files are renamed into place and tracked extras removed; modes of directories come last.
5. The journal is removed.

Guarantees: a missing or damaged blob, or an untracked file in the way, is refused before anything is
touched. After a crash at any instruction the next restore, to whatever target, gives exactly its
target, and tells what the one that was cut off had displaced. The directory itself is never
replaced, so that a process in it stays in it. Links are never followed; untracked files are never
touched. Workspace files are not fsynced: what a power failure leaves is read anew, since the stat
cache does not outlive a boot; the journal and all objects are.
"""

import errno
import json
import logging
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wtb_ray import errors, manifests, moves
from wtb_ray.manifests import EMPTY, Entry, shown
from wtb_ray.moves import Plan, refused
from wtb_ray.objects import GUARD, ObjectStore
from wtb_ray.snapshots import Snapshots, run

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did."""

    manifest: str
    restored: int
    """Files and links put there or given their mode."""
    removed: int
    """Files and links that went without another in their place."""
    displaced: str | None
    """Manifest of what was there before; None when nothing was, or nothing had to change."""
    recovered: tuple[str, ...] = ()
    """Further manifests that restores displaced which a crash cut off, when somebody wrote other
    files in between; otherwise `displaced` is what the first of them displaced."""


_DAMAGED: Final = (errors.UnknownObject, errors.ObjectCorrupt)

Witness = Callable[[Restored], Awaitable[None]]
"""Is told of a restore before its journal goes, so that what was displaced is always known."""


@dataclass(frozen=True, slots=True)
class Intent:
    """The journal: what restores under way have displaced, and what they were to make."""

    displaced: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()


class Restores:
    """Restores of one directory, `beside` which the journal and the staged files lie."""

    def __init__(
        self,
        root: Path,
        objects: ObjectStore,
        snapshots: Snapshots,
        executor: Executor | None,
        beside: Path,
    ) -> None:
        self._root = root
        self._objects = objects
        self._snapshots = snapshots
        self._executor = executor
        self._stage = beside / "stage"
        self._intent = beside / "intent"

    async def to(self, target: str, witness: Witness | None) -> Restored:
        """Make the directory what `target` says.

        Raises:
            RestoreRefused: It cannot be done; everything is as it was.
        """
        with _translated():
            await run(self._executor, self._root.mkdir, parents=True, exist_ok=True)
            before = await self._still_stored(await run(self._executor, self._read_intent))
        present = await self._capture()
        intent = await self._extended(before, present, target)
        plan = await self._plan(present, target, before)
        protection = None
        if plan is not None:
            with _translated():
                await self._fetch(plan)
                protection = await self._protect(intent)
                await run(self._executor, self._write_intent, intent)
            await self._apply(plan, present, before, intent)
        displaced = [kept for kept in intent.displaced if kept not in (EMPTY, target)]
        done = Restored(
            manifest=target,
            restored=len(plan.place) + len(plan.chmod) if plan else 0,
            removed=len(plan.unlink) if plan else 0,
            displaced=displaced[-1] if displaced else None,
            recovered=tuple(displaced[:-1]),
        )
        if witness is not None and (plan is not None or displaced):
            await witness(done)
        await run(self._executor, self._close)
        if protection is not None and (guard := GUARD.get()) is not None:
            await guard.unprotect(protection)
        return done

    # --- what is there ---

    async def _protect(self, intent: Intent) -> str | None:
        """Nothing but the journal names what is displaced, until the witness has recorded it."""
        guard, displaced = GUARD.get(), set(intent.displaced) - {EMPTY}
        return await guard.protect(displaced) if guard is not None and displaced else None

    async def _still_stored(self, journal: Intent) -> Intent:
        """The journal without displaced trees that have gone: it may have lain here for long."""
        kept = []
        for manifest in journal.displaced:
            try:
                wanted = await manifests.objects_of(self._objects, manifest)
                if await self._objects.secured(wanted):
                    raise errors.UnknownObject(f"objects of {manifest} are missing")
                kept.append(manifest)
            except _DAMAGED as e:
                log.warning("what was displaced is lost: %s", e, extra={"action": "restore"})
        return Intent(tuple(kept), journal.targets)

    async def _capture(self) -> str:
        try:
            return (await self._snapshots.take(limited=False)).manifest
        except errors.FilesRefused as e:
            raise errors.RestoreRefused(f"what is there cannot be kept: {e}", **e.details) from e

    async def _extended(self, before: Intent, present: str, target: str) -> Intent:
        """The journal of this restore, which goes on from that of one that was cut off."""
        displaced = before.displaced
        if not await self._explained(before, present):
            displaced = tuple(dict.fromkeys((*displaced, present)))
        return Intent(displaced, tuple(dict.fromkeys((*before.targets, target))))

    async def _explained(self, before: Intent, present: str) -> bool:
        """Whether all that is there comes from trees that the journal names."""
        if not before.targets:
            return False
        trees = (*before.targets, *before.displaced)
        try:
            changes = await manifests.diff(self._objects, trees[-1], present)
        except _DAMAGED:
            return False
        return all(
            [
                await self._named(trees, path, entry)
                for path, _, entry in changes
                if entry is not None and entry.kind != "dir"
            ]
        )

    async def _named(self, trees: tuple[str, ...], path: str, entry: Entry) -> bool:
        for tree in trees:
            try:
                if await manifests.find(self._objects, tree, path) == entry:
                    return True
            except (errors.UnknownFile, *_DAMAGED):
                continue
        return False

    # --- what has to be done ---

    async def _plan(self, present: str, target: str, journal: Intent) -> Plan | None:
        if present == target:
            return None
        try:
            changes = await manifests.diff(self._objects, present, target)
        except _DAMAGED as e:
            digest = e.details["digest"]
            reason = f"directory object {digest} is {_damage(e)}"
            raise refused(".", reason, digest=digest) from e
        plan = await run(self._executor, moves.planned, self._root, changes, self._snapshots.tree)
        for path, entry in plan.doubtful.items():
            if not await self._named(journal.targets, path, entry):
                raise refused(path, "an untracked file is in the way")
        return plan

    async def _fetch(self, plan: Plan) -> None:
        """Puts everything that is needed into `stage`, verified, under its place in the plan."""
        try:
            await run(self._executor, self._clear_stage, anew=True)
            await run(self._executor, self._stage_links, plan)
            wanted = {
                self._stage / str(i): (path, entry)
                for i, (path, entry) in enumerate(plan.place)
                if entry.kind == "file"
            }
            await self._objects.get_files(
                [(entry.value, staged, entry.mode) for staged, (_, entry) in wanted.items()]
            )
        except _DAMAGED as e:
            digest = e.details["digest"]
            path = next(path for path, entry in wanted.values() if entry.value == digest)
            raise refused(path, f"object {digest} is {_damage(e)}", digest=digest) from e

    def _stage_links(self, plan: Plan) -> None:
        for i, (_, entry) in enumerate(plan.place):
            if entry.kind == "link":
                os.symlink(entry.value, self._stage / str(i))

    # --- doing it ---

    async def _apply(self, plan: Plan, present: str, before: Intent, intent: Intent) -> None:
        try:
            await self._move(plan)
        except OSError as e:
            await self._undo(present, before, intent)
            raise _as_ours(e, self._root) from e

    async def _undo(self, present: str, before: Intent, intent: Intent) -> None:
        """Makes the tree what it was; should this fail too, the journal is left to the next one."""
        plan = await self._plan(await self._capture(), present, intent)
        if plan is not None:
            with _translated():
                await self._fetch(plan)
                await self._move(plan)
        if before.targets:
            await run(self._executor, self._write_intent, before)
        else:
            await run(self._executor, self._close)

    async def _move(self, plan: Plan) -> None:
        tree = self._snapshots.tree
        placed = await run(self._executor, moves.applied, self._root, self._stage, plan, tree)
        self._snapshots.placed = placed

    # --- journal and stage ---

    def _read_intent(self) -> Intent:
        try:
            raw = json.loads(self._intent.read_bytes())
            return Intent(tuple(raw["displaced"]), tuple(raw["targets"]))
        except FileNotFoundError:
            return Intent()
        except (ValueError, KeyError, TypeError) as e:
            raise errors.RestoreRefused(
                f"the journal {self._intent} cannot be read", path=str(self._intent), reason=str(e)
            ) from e

    def _write_intent(self, intent: Intent) -> None:
        partial = self._intent.with_name(f"intent.{secrets.token_hex(4)}")
        with partial.open("w") as file:
            json.dump({"displaced": intent.displaced, "targets": intent.targets}, file)
            file.flush()
            os.fsync(file.fileno())
        # Not followed by an fsync of the directory: a journaling file system never keeps the renames
        # in the workspace, which come later, and loses this one.
        partial.replace(self._intent)

    def _clear_stage(self, *, anew: bool) -> None:
        if self._stage.exists():
            shutil.rmtree(self._stage)
        if anew:
            self._stage.mkdir(parents=True)

    def _close(self) -> None:
        self._clear_stage(anew=False)
        self._intent.unlink(missing_ok=True)


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of the file system as errors of ours."""
    try:
        yield
    except OSError as e:
        raise _as_ours(e) from e


def _as_ours(error: OSError, root: Path | None = None) -> errors.WTBError:
    path = os.fsdecode(error.filename2 or error.filename or "")
    path = path.removeprefix(f"{root}/") if root is not None else path
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.StorageFull(
            f"no room left for {shown(path)}: {reason}", path=shown(path), reason=reason
        )
    return refused(path, reason)


def _damage(error: errors.WTBError) -> str:
    return "missing" if isinstance(error, errors.UnknownObject) else "damaged"
