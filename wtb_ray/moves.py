"""What has to be done to a directory so that it becomes another tree, and the doing of it.

Guarantees: a plan is refused when something untracked is in the way; carrying it out replaces files
only by rename and never follows a link, so that at any instant each path is as it was, as it is to
be, or not there. Knows neither objects nor journals.
"""

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from wtb_ray import errors
from wtb_ray.listings import record_of
from wtb_ray.manifests import Change, Entry, shown
from wtb_ray.scans import RACY_NS, Directory, Known, Tree

_OURS: Final = 0o700
"""What we must be allowed in a directory to change what is in it."""


def refused(path: str, reason: str, **details: Any) -> errors.RestoreRefused:
    return errors.RestoreRefused(
        f"{shown(path)} cannot be restored: {reason}", path=shown(path), reason=reason, **details
    )


@dataclass(slots=True)
class Plan:
    """What is to be done, by path, parents before children."""

    unlink: list[str] = field(default_factory=list)
    rmdir: list[str] = field(default_factory=list)
    mkdir: list[str] = field(default_factory=list)
    place: list[tuple[str, Entry]] = field(default_factory=list)
    """Files and links, which lie under their numbers in the stage."""
    chmod: list[tuple[str, Entry]] = field(default_factory=list)
    """Files of which only the mode changes."""
    modes: dict[str, int] = field(default_factory=dict)
    """Of directories."""
    doubtful: dict[str, Entry] = field(default_factory=dict)
    """Untracked files in the way, as they are."""


# --- planning ---


def planned(root: Path, changes: Iterable[Change], tree: Tree) -> Plan:
    """How to make these changes to a tree that was just scanned.

    Raises:
        RestoreRefused: An untracked directory, or one with untracked files, is in the way.
    """
    return _Planner(root, _holding_untracked(tree)).plan(changes)


class _Planner:
    def __init__(self, root: Path, holding: set[str]):
        self._root = root
        self._holding = holding
        self._absent: set[str] = set()
        """Directories to be made, so that nothing can be in the way below them."""
        self._plan = Plan()

    def plan(self, changes: Iterable[Change]) -> Plan:
        for path, before, after in changes:
            if before is not None:
                self._leave(path, before, after)
            if after is not None and (before is not None or self._free(path, after)):
                self._arrive(path, before, after)
        return self._plan

    def _leave(self, path: str, before: Entry, after: Entry | None) -> None:
        stays = after is not None and after.kind == "dir"
        if before.kind != "dir":
            if after is None or stays:
                self._plan.unlink.append(path)
        elif not stays and path not in self._holding:
            self._plan.rmdir.append(path)
        elif not stays and after is not None:
            raise refused(path, "a directory with untracked files is in the way")

    def _arrive(self, path: str, before: Entry | None, after: Entry) -> None:
        kind = before.kind if before is not None else None
        if after.kind == "dir":
            if kind != "dir":
                self._absent.add(path)
                self._plan.mkdir.append(path)
            self._plan.modes[path] = after.mode
        elif before is not None and before._replace(mode=after.mode) == after and self._sole(path):
            self._plan.chmod.append((path, after))
        else:
            self._plan.place.append((path, after))

    def _sole(self, path: str) -> bool:
        """Whether no other name has the same inode, which would get the mode too."""
        return os.lstat(f"{self._root}/{path}").st_nlink == 1

    def _free(self, path: str, after: Entry) -> bool:
        """Whether something new has to be put at a path; untracked things in the way are noted."""
        if path.rpartition("/")[0] in self._absent:
            return True
        found = _found(self._root, path)
        if found is None:
            return True
        if found == after:
            return False
        if found.kind == "dir":
            if after.kind != "dir":
                raise refused(path, "an untracked directory is in the way")
            self._plan.modes[path] = after.mode
            return False
        self._plan.doubtful[path] = found
        if after.kind == "dir":
            self._plan.unlink.append(path)
        return True


def _holding_untracked(tree: Tree) -> set[str]:
    """Directories that have something untracked in them, at whatever depth."""
    holding: set[str] = set()
    for path, directory in tree.items():
        if directory.skipped or directory.entry is None:
            while path and path not in holding:
                holding.add(path)
                path = path.rpartition("/")[0]
    return holding


def _found(root: Path, path: str) -> Entry | None:
    """What is there, in the terms of a manifest; a directory without what is in it."""
    full, name = f"{root}/{path}", path.rpartition("/")[2]
    try:
        status = os.lstat(full)
    except (FileNotFoundError, NotADirectoryError):
        return None
    mode = status.st_mode & 0o777
    if stat.S_ISDIR(status.st_mode):
        return Entry(name, "dir", "", 0, mode)
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(full)
        return Entry(name, "link", target, len(os.fsencode(target)), 0o777)
    if not stat.S_ISREG(status.st_mode):
        return Entry(name, "file", "", 0, mode)
    with open(full, "rb") as file:
        return Entry(
            name, "file", hashlib.file_digest(file, "sha256").hexdigest(), status.st_size, mode
        )


# --- doing ---


def applied(root: Path, stage: Path, plan: Plan, tree: Tree) -> dict[str, Known]:
    """Carries out a plan; the files that were put there, as the next scan will find them."""
    modes = _loosened(root, plan, tree) | plan.modes
    for path in plan.unlink:
        Path(f"{root}/{path}").unlink(missing_ok=True)
    kept = _removed(root, plan)
    for path in plan.mkdir:
        os.mkdir(f"{root}/{path}", _OURS)
    placed: list[tuple[str, os.stat_result, Entry]] = []
    for i, (path, entry) in enumerate(plan.place):
        os.rename(f"{stage}/{i}", f"{root}/{path}")
        placed.append((path, os.lstat(f"{root}/{path}"), entry))
    for path, entry in plan.chmod:
        os.chmod(f"{root}/{path}", entry.mode)
        placed.append((path, os.lstat(f"{root}/{path}"), entry))
    gone = set(plan.rmdir) - kept - plan.modes.keys()
    for path in sorted(modes.keys() - gone, key=lambda path: path.count("/"), reverse=True):
        os.chmod(f"{root}/{path}", modes[path])
    now = time.time_ns()
    return {path: (_trusted(status, now), entry) for path, status, entry in placed}


def _loosened(root: Path, plan: Plan, tree: Tree) -> dict[str, int]:
    """Lets us into the directories that change; the modes they had."""
    touched = (*plan.unlink, *plan.rmdir, *plan.mkdir, *(path for path, _ in plan.place))
    modes: dict[str, int] = {}
    for above in {path.rpartition("/")[0] for path in touched} - {""}:
        directory: Directory | None = tree.get(above)
        if directory is not None and directory.mode & _OURS != _OURS:
            os.chmod(f"{root}/{above}", directory.mode & 0o777 | _OURS)
            modes[above] = directory.mode & 0o777
    return modes


def _removed(root: Path, plan: Plan) -> set[str]:
    """Removes directories, deepest first; those that stay since somebody put a file there."""
    kept: set[str] = set()
    replaced = set(plan.mkdir) | {path for path, _ in plan.place}
    for path in reversed(plan.rmdir):
        try:
            os.rmdir(f"{root}/{path}")
        except OSError as e:
            if e.errno != errno.ENOTEMPTY or path in replaced:
                raise
            kept.add(path)
    return kept


def _trusted(status: os.stat_result, now_ns: int) -> tuple[int, int, int, int, int] | None:
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    return record_of(status) if changed < now_ns - RACY_NS else None
