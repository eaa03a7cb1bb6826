"""Repairs of findings: looked at again under the locks of its rows, then done with its event, or left.

A repair of rows is one transaction, and so done whole or not at all. What is no row, a process, an
object, a lock file, is put right first and told afterwards: done twice it does nothing more.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.rows import DictRow

from wtb_ray import errors, events
from wtb_ray.db import Connection
from wtb_ray.integrity import hosts
from wtb_ray.integrity.checking import Check, Here, Suspicion, again
from wtb_ray.integrity.findings import CATALOGUE
from wtb_ray.integrity.reports import Finding, IntegrityRepairs, Outcome, Repair
from wtb_ray.store import repairs
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.integrity import note_outcome
from wtb_ray.store.transactions import transact

log = logging.getLogger(__name__)

AGED: Final = frozenset(
    {"orphan_checkpoint", "orphan_commit", "orphan_restore", "answer_dangling", "point_dangling"}
)
"""What is deleted once it is old enough."""
OBJECTS: Final = frozenset({"missing_manifest", "missing_bundle", "damaged_blob"})
DEAD: Final = frozenset({"lease_overdue", "drain_overdue", "lease_without_actor"})
"""Runners that are ended before they are buried, so that none of them goes on."""


class Done(NamedTuple):
    """What became of a repair."""

    outcome: Outcome
    what: str


class Repairer:
    """Repairs the findings of one report."""

    def __init__(self, here: Here, checks: Iterable[Check], report: str, by: repairs.By):
        self._here = here
        self._checks = {check.name: check for check in checks}
        self._report = report
        self._by = by

    async def repair(self, rows: Iterable[DictRow], *, dry_run: bool) -> IntegrityRepairs:
        """Repairs these findings one after the other, but for problems that other versions know.

        Raises:
            Unavailable: Database or object store do not answer; what was repaired stays so.
        """
        made = []
        order = list(CATALOGUE)  # what others rest on comes first
        known = [row for row in rows if row["problem"] in CATALOGUE]
        for row in sorted(known, key=lambda row: order.index(row["problem"])):
            finding = Finding(**row["body"])
            done = await self._one(finding, row["place"], dry_run)
            made.append(
                Repair(
                    finding=finding.id,
                    problem=finding.problem,
                    severity=finding.severity,
                    ids=finding.ids,
                    outcome=done.outcome,
                    message=f"{finding.message}: {done.what}",
                )
            )
        counts = Counter(repair.outcome for repair in made)
        return IntegrityRepairs(
            report_id=self._report, dry_run=dry_run, counts=dict(counts), repairs=made
        )

    async def _one(self, finding: Finding, place: tuple[str, Any], dry_run: bool) -> Done:
        check, key = self._checks.get(place[0]), place[1]
        if check is None:
            return Done("failed", "it was found by another version of the bench: check again")
        async with self._here.db.connection() as conn:
            found = (await again(self._here, conn, check, key)).get(finding.id)
        refused = _refused(finding.problem, found)
        if refused is not None:
            return refused
        if dry_run:
            return Done("would_repair", str(CATALOGUE[finding.problem].repair))
        try:
            if finding.problem in repairs.ACTIONS:
                return await self._of_rows(finding, check, key)
            return await self._of_others(finding)
        except errors.Conflict as e:
            return Done("manual", e.message)
        except psycopg.Error as e:  # one that the database refuses must not keep the others
            log.exception("finding %s not repaired", finding.id, extra={"action": "repair"})
            return Done("failed", f"the database refused it: {e}".partition("\n")[0])

    async def _of_rows(self, finding: Finding, check: Check, key: Any) -> Done:
        if finding.problem in DEAD and self._here.processes is not None:
            await self._here.processes.kill(finding.ids["runner"])

        async def work(conn: Connection) -> Done:
            await repairs.lock(conn, finding.ids)
            found = (await again(self._here, conn, check, key)).get(finding.id)
            refused = _refused(finding.problem, found)
            if refused is not None:
                return refused
            what = await repairs.ACTIONS[finding.problem](conn, finding.ids, self._by)
            await self._tell(conn, finding, what)
            return Done("repaired", what)

        return await transact(self._here.db, work)

    async def _of_others(self, finding: Finding) -> Done:
        done = await self._put_right(finding)
        if done.outcome == "repaired":
            async with self._here.db.transaction() as conn:
                await self._tell(conn, finding, done.what)
        return done

    async def _put_right(self, finding: Finding) -> Done:
        here, ids = self._here, finding.ids
        if finding.problem == "lock_stale":
            root = here.settings.workspaces()
            freed = await asyncio.to_thread(hosts.release, root, ids["workspace"])
            return Done("repaired", "released") if freed else Done("gone", "somebody has it")
        if finding.problem == "actor_without_lease" and here.processes is not None:
            await here.processes.kill(ids["runner"])
            return Done("repaired", "ended")
        if finding.problem in OBJECTS and here.repair_object is not None:
            if await here.repair_object(ids["digest"]):
                return Done("repaired", "brought back from another copy")
            return Done("manual", "there is no other copy")
        return Done("manual", CATALOGUE[finding.problem].advice)

    async def _tell(self, conn: Connection, finding: Finding, what: str) -> None:
        event = events.IntegrityRepaired(
            report=self._report,
            finding=finding.id,
            problem=finding.problem,
            ids=finding.ids,
            what=what,
        )
        about = {name: finding.ids.get(name) for name in ("execution_id", "batch_id")}
        await append_many(conn, [Entry(self._by.actor, event, None, **about)])
        await note_outcome(conn, self._report, finding.id, "repaired")


def _refused(problem: str, found: Suspicion | None) -> Done | None:
    """Why a finding is not to be repaired, if it is not."""
    entry = CATALOGUE[problem]
    if found is None:
        return Done("gone", "it is not so any more")
    if entry.repair is not None and found.able:
        return None
    return Done("left" if problem in AGED else "manual", entry.advice)
