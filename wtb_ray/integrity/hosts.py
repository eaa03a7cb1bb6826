"""The host that this runs on: workspaces that dead processes have locked."""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from wtb_ray import homes, locks
from wtb_ray.db import Connection
from wtb_ray.integrity.checking import Check, Here, Span, Suspicion


async def _stale_locks(here: Here, _conn: Connection, span: Span) -> list[Suspicion]:
    """Locks of processes that are provably gone, for as long as a lease may be overdue."""
    root = here.settings.workspaces()
    return await asyncio.to_thread(lambda: list(_stale(root, here.overdue_s, span)))


def _stale(root: Path, age_s: float, span: Span) -> Iterator[Suspicion]:
    for home in homes.listed(root):
        workspace = f"{home.execution_id}/{home.epoch}"
        if span.first not in (None, workspace):
            continue
        owner = locks.read(home.path)
        if owner is None or owner.released or not owner.lets_go():
            continue
        try:
            since = (home.path / locks.LOCK).stat().st_mtime
        except FileNotFoundError:  # somebody has just taken or removed it
            continue
        if time.time() - since > age_s:
            values = {"host": socket.gethostname(), "workspace": workspace}
            values |= {"pid": str(owner.pid), "runner": owner.runner}
            yield Suspicion("lock_stale", workspace, values, mark=f"{owner.pid} {owner.started}")


def release(root: Path, workspace: str) -> bool:
    """Lets the next claim have a workspace whose owner is dead; False: its owner is not, or it is gone."""
    path = root / workspace
    try:
        with locks.guarded(path.parent):
            owner = locks.read(path)
            if owner is None or owner.released or not owner.lets_go():
                return False
            locks.release(path, owner)
            return True
    except FileNotFoundError:
        return False


CHECKS: Final[tuple[Check, ...]] = (Check("lock_stale", ("lock_stale",), _stale_locks),)
