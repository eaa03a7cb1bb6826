"""Sweeping a host: workspaces that nobody needs go, after a grace in which they can be looked at.

A home is an orphan when nobody holds it and its execution is unknown, has ended, or goes on in a later
home. Never touches what a living process holds or what belongs to another host, and removes nothing
without asking, under the guard, once more who holds it.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Final

from wtb_ray import homes, inputs, locks, removal
from wtb_ray.homes import ORPHAN, Home
from wtb_ray.states import ExecutionStatus

log = logging.getLogger(__name__)

ASKED_AT_ONCE: Final = 1000
Standing = tuple[ExecutionStatus, int]
Needed = Callable[[Sequence[str]], Awaitable[Mapping[str, Standing]]]
_ENDED: Final = frozenset(
    {ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED}
)


@dataclasses.dataclass(frozen=True)
class Swept:
    """What a sweep did."""

    removed: int = 0
    """Directories that were removed."""
    freed_bytes: int = 0
    """Bytes of files that went with them."""
    kept: int = 0
    """Orphans that are left for now: their grace is not over, or they could not be removed."""


async def sweep(root: Path, needed: Needed, grace_s: float) -> Swept:
    """Removes orphans of this host.

    Args:
        root: The workspaces' root.
        needed: Gives status and epoch of those of these executions that there are.
        grace_s: How long an orphan is left, from when a sweep first saw it.
    """
    found = await asyncio.to_thread(_by_execution, root)
    standings: dict[str, Standing] = {}
    names = list(found)
    for start in range(0, len(names), ASKED_AT_ONCE):
        standings.update(await needed(names[start : start + ASKED_AT_ONCE]))
    report = Swept()
    for name, its_homes in found.items():
        done = await asyncio.to_thread(_sweep_one, its_homes, standings.get(name), grace_s)
        report = _sum(report, done)
    return _sum(report, await asyncio.to_thread(_sweep_rest, root, grace_s))


def _by_execution(root: Path) -> dict[str, list[Home]]:
    homes_ = homes.listed(root)
    return {name: list(group) for name, group in groupby(homes_, lambda home: home.execution_id)}


def _sweep_one(its_homes: list[Home], standing: Standing | None, grace_s: float) -> Swept:
    """Sweeps one execution's homes."""
    kept, thrown = 0, []
    folder, newest = its_homes[0].path.parent, its_homes[-1]
    with suppress(FileNotFoundError), locks.guarded(folder):
        for home in its_homes:
            if not home.path.is_dir() or not locks.free(home.path):
                continue
            if standing is not None and standing[0] not in _ENDED and home is newest:
                # Without tracking a paused execution's files are nowhere else.
                (home.path / ORPHAN).unlink(missing_ok=True)
            elif _seen_for(home.path / ORPHAN) < grace_s:
                kept += 1
            else:
                thrown.append(removal.discard(home.root, home.path))
        homes.clear(folder)
    return _sum(Swept(kept=kept), _removed(thrown))


def _seen_for(mark: Path) -> float:
    """Seconds since an orphan was first seen, which may be now."""
    try:
        since = mark.stat().st_mtime
    except FileNotFoundError:
        mark.touch()
        return 0.0
    return max(time.time() - since, 0.0)


def _sweep_rest(root: Path, grace_s: float) -> Swept:
    """Sweeps what crashes left, and inputs that nobody has used for long."""
    for folder in homes.folders(root):
        with suppress(FileNotFoundError), locks.guarded(folder):
            homes.clear(folder)
    trash = root / removal.TRASH
    report = _removed(sorted(trash.iterdir())) if trash.is_dir() else Swept()
    cache = root / inputs.CACHE
    if not cache.is_dir() or any(not locks.free(home.path) for home in homes.listed(root)):
        return report
    for kept in sorted(cache.iterdir()):
        with suppress(FileNotFoundError):
            if time.time() - kept.stat().st_mtime > max(grace_s, inputs.USED_WITHIN_S):
                removal.remove(removal.discard(root, kept))
    return report


def _removed(thrown: Sequence[Path]) -> Swept:
    removed = freed = kept = 0
    for path in thrown:
        size = removal.size([path])
        try:
            removal.remove(path)
        except OSError as e:  # one that cannot be removed must not keep the others
            log.warning("not swept: %s: %s", path, e, extra={"action": "sweep"})
            kept += 1
        else:
            removed, freed = removed + 1, freed + size
    return Swept(removed, freed, kept)


def _sum(one: Swept, other: Swept) -> Swept:
    return Swept(
        one.removed + other.removed,
        one.freed_bytes + other.freed_bytes,
        one.kept + other.kept,
    )
