"""Sweeping the workspaces of the host that this runs on, by the rows of its executions."""

import logging
import socket

from wtb_ray.db import Database
from wtb_ray.events import WorkspacesSwept
from wtb_ray.settings import Settings
from wtb_ray.store import Store
from wtb_ray.sweeps import Swept, sweep

log = logging.getLogger(__name__)


async def sweep_host(settings: Settings, db: Database, *, actor: str) -> Swept:
    """Removes the workspaces that no execution has needed for the configured grace.

    Any number of processes of a host may do it, also at once.

    Raises:
        Unavailable: The database does not answer.
    """
    store = Store(db)
    report = await sweep(
        settings.workspaces(), store.executions.standing, settings.workspace_grace_s
    )
    if report.removed:
        event = WorkspacesSwept(
            host=socket.gethostname(),
            removed=report.removed,
            freed_bytes=report.freed_bytes,
            kept=report.kept,
        )
        async with db.transaction() as conn:
            await store.events.append(conn, actor, event)
        log.info(
            "%d workspaces swept, %d bytes freed, %d left for now",
            report.removed,
            report.freed_bytes,
            report.kept,
            extra={"action": "sweep"},
        )
    return report
