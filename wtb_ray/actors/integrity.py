"""The integrity checker: holds rows, checkpoints, files, processes and workspaces against each other.

It checks by itself every now and then, and whenever it is asked. It owns nothing: a check only reads
and is stored when it has ended, and each repair is one compare-and-set, so it may be killed at any
instruction and run anywhere, also twice.
"""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any, Final

from wtb_ray import errors, telemetry
from wtb_ray.db import Database
from wtb_ray.integrity import checkpoints, environments, files, hosts, results, stored, work
from wtb_ray.integrity.checking import PAUSE_S, Here, Processes, RepairObject, check
from wtb_ray.integrity.repairing import Repairer
from wtb_ray.integrity.reports import IntegrityRepairs, IntegrityReport, wanted
from wtb_ray.model import new_id
from wtb_ray.objects import ObjectStore
from wtb_ray.settings import Settings, configuration
from wtb_ray.store import Store
from wtb_ray.store.repairs import By

log = logging.getLogger(__name__)

ACTOR: Final = "integrity"
POLL_S: Final = 60.0
"""How often it looks whether a check is due; one that has just started leaves the others in peace."""
SHOWN: Final = 50
"""Findings that the answer to a check has."""
REPAIRED_AT_ONCE: Final = 500
CHECKS: Final = (
    *checkpoints.CHECKS,
    *files.CHECKS,
    *work.CHECKS,
    *results.CHECKS,
    *hosts.CHECKS,
    *environments.CHECKS,
)


class IntegrityChecker:
    """Checks, and repairs what is found."""

    def __init__(
        self,
        settings: Settings,
        database_url: str,
        runners: Processes,
        repair_object: RepairObject | None = None,
        *,
        pause_s: float = PAUSE_S,
    ):
        telemetry.configure(settings.log_level)
        self._settings = settings
        self._configuration = configuration(settings, database_url)
        self._db = Database(database_url, size=2, name="wtb-integrity")
        self._store = Store(self._db)
        self._objects = ObjectStore(settings.objects())
        self._runners = runners
        self._repair_object = repair_object
        self._pause_s = pause_s
        self._one = asyncio.Lock()
        self._opened = False
        self._loop = asyncio.create_task(self._run())

    async def configured(self) -> str:
        """A digest of the settings that this actor was made with."""
        return self._configuration

    async def close(self) -> None:
        """Ends its loop."""
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)
        await self._objects.aclose()
        await self._db.close()

    async def check(
        self, deep: bool = False, only: list[str] | None = None, actor: str = ACTOR
    ) -> IntegrityReport:
        """Checks everything, or these kinds and problems; gives the report with its worst findings.

        Raises:
            InvalidRequest: There is no such kind or problem.
            Unavailable: Database or object store do not answer.
        """
        problems = wanted(only or [])
        async with self._one:
            await self._open()
            started = datetime.now(UTC)
            found = await check(self._here(deep), CHECKS, problems)
            id = new_id("i")
            made = stored.new_report(id, started, deep, only or [], found)
            await self._store.integrity.add(made, actor=actor)
        report = await stored.report(self._store, id, SHOWN)
        log.log(
            logging.INFO if report.healthy else logging.WARNING,
            "integrity: %d findings, %s",
            report.findings,
            report.severities,
            extra={"action": "integrity"},
        )
        return report

    async def repair(
        self, findings: list[str] | None = None, dry_run: bool = True, actor: str = ACTOR
    ) -> IntegrityRepairs:
        """Repairs findings of the newest report, all or these, or says what it would do.

        Raises:
            NotFound: Nothing has been checked yet.
            InvalidRequest: The newest report has no such finding.
            Unavailable: Database or object store do not answer; what was repaired stays so.
        """
        async with self._one:
            await self._open()
            report = await self._store.integrity.report()
            rows = await self._findings(report["id"], findings)
            by = By(actor, self._settings.infrastructure_retries + 1)
            repairer = Repairer(self._here(report["deep"]), CHECKS, report["id"], by)
            return await repairer.repair(rows, dry_run=dry_run)

    async def _findings(self, report: str, ids: list[str] | None) -> list[dict[str, Any]]:
        if ids is not None:
            rows = await self._store.integrity.named(report, ids)
            unknown = set(ids) - {row["id"] for row in rows}
            if unknown:
                raise errors.InvalidRequest(
                    f"report {report}, the newest, has no finding {', '.join(sorted(unknown))}",
                    field="findings",
                    reason="unknown",
                )
            return rows
        rows, after = await self._store.integrity.findings(report, REPAIRED_AT_ONCE)
        while after is not None:
            more, after = await self._store.integrity.findings(report, REPAIRED_AT_ONCE, after)
            rows += more
        return rows

    def _here(self, deep: bool) -> Here:
        return Here(
            db=self._db,
            objects=self._objects,
            settings=self._settings,
            processes=self._runners,
            repair_object=self._repair_object,
            deep=deep,
            pause_s=self._pause_s,
        )

    async def _open(self) -> None:
        if not self._opened:
            self._opened = True
            await self._db.open()

    async def _run(self) -> None:
        await self._open()
        every = self._settings.integrity_every_s
        while every > 0:
            await asyncio.sleep(min(POLL_S, every))
            try:
                age = await self._store.integrity.age_s()
                if age is None or age >= every:
                    await self.check()
            except errors.Unavailable as e:
                log.warning("no check: %s", e, extra={"action": "integrity"})
            except Exception:  # a defect in one check must not end all of them
                log.exception("check failed", extra={"action": "integrity"})
