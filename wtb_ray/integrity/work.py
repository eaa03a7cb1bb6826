"""Executions, runners and commands: is what runs held by somebody, and what waits served?"""

import time
from typing import Final

from wtb_ray.db import Connection, queries
from wtb_ray.integrity.checking import Check, Here, Span, Suspicion, Walk, of_rows, suspicion
from wtb_ray.integrity.checkpoints import EXECUTIONS

SQL: Final = queries("checks_work")
LEASES: Final = Walk("leases", "id")
START_S: Final = 180.0
"""A runner that starts has its lease by then, beside what the import of its code may take."""


async def _without_actor(here: Here, conn: Connection, span: Span) -> list[Suspicion]:
    """Leases that have run out, of processes that are gone."""
    if here.processes is None:
        return []
    rows = await (await conn.execute(SQL["expired_leases"], here.params(span))).fetchall()
    if not rows:
        return []
    alive = set(await here.processes.listed())
    return [suspicion("lease_without_actor", row) for row in rows if row["runner"] not in alive]


async def _without_lease(here: Here, conn: Connection, span: Span) -> list[Suspicion]:
    """Processes that have no lease, long after they were started."""
    if here.processes is None:
        return []
    least = START_S + here.settings.entry_timeout_s
    ids = [
        id
        for id in await here.processes.listed()
        if span.first in (None, id) and _age_s(id) > least
    ]
    cursor = await conn.execute(SQL["leases_of"], {"ids": ids})
    held = {row["id"] for row in await cursor.fetchall()}
    return [Suspicion("actor_without_lease", id, {"runner": id}) for id in ids if id not in held]


def _age_s(runner_id: str) -> float:
    """How long ago a runner's id was made; 0 for one that does not say."""
    try:
        return time.time() - int(runner_id[1:13], 16) / 1000
    except ValueError:
        return 0.0


CHECKS: Final[tuple[Check, ...]] = (
    *of_rows(
        SQL,
        EXECUTIONS,
        "head_stale",
        "completed_unfinished",
        "owner_mismatch",
        "pending_in_ended_batch",
        "case_missing",
    ),
    *of_rows(SQL, EXECUTIONS, "running_without_lease", "pending_unserved", patient=True),
    *of_rows(SQL, LEASES, "lease_overdue", "drain_overdue", "singleton_overdue", patient=True),
    Check("lease_without_actor", ("lease_without_actor",), _without_actor, LEASES, patient=True),
    Check("actor_without_lease", ("actor_without_lease",), _without_lease),
    *of_rows(SQL, Walk("operations", "id"), "operation_lost"),
    *of_rows(SQL, Walk("idempotency", "key"), "key_unfinished"),
    *of_rows(SQL, Walk("projects", "name"), "version_missing"),
)
