"""Leases of runner processes and of detached singletons, and what becomes of a dead runner's work.

`epoch` is the fencing number: it grows whenever an id gets another process or holder. All times are
the database's.
"""

from typing import Final

from psycopg.rows import DictRow

from wtb_ray import errors, events, states
from wtb_ray.db import Connection, Database
from wtb_ray.fleet import Runner
from wtb_ray.model import Fault
from wtb_ray.states import PauseReason, RunnerStatus, Wanted
from wtb_ray.store.changes import Change, apply, legal
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.settlements import DRAINED
from wtb_ray.store.sql import SQL
from wtb_ray.store.transactions import in_order, transact

RENEW_SQL: Final = SQL["renew_runner"]
"""Parameters `id`, `epoch`, `ttl_s`; gives a row if the lease still holds. For the own thread
of a runner, whose event loop may be blocked by a node."""

MAX_ATTEMPTS: Final = 6
"""Starts of an execution that infrastructure may lose before it fails."""
SOLO_SUSPECT: Final = 2
"""After this many dead runners an execution only runs alone."""


class Leases:
    """Runner processes and singletons."""

    def __init__(self, db: Database):
        self._db = db

    async def start_runner(
        self,
        id: str,
        pool: str,
        slots: int,
        solo: bool,
        host: str,
        pid: int,
        actor_id: str | None,
        ttl_s: float,
        *,
        configuration: str = "",
        environment: str | None = None,
        actor: str | None = None,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> int:
        """Registers a runner process and gives its epoch.

        A process that comes back under the id of an earlier one buries that one first: what it
        held is nobody's now.
        """
        actor = actor or id
        params = {"id": id, "pool": pool, "slots": slots, "solo": solo, "host": host, "pid": pid}
        params |= {"actor_id": actor_id, "ttl_s": ttl_s, "configuration": configuration}
        params["environment"] = environment

        async def work(conn: Connection) -> int:
            lease = await lock_lease(conn, id)
            if lease is not None and lease["status"] in states.RUNNER["die"][0]:
                await bury_locked(conn, lease, id, "started again", actor, max_attempts)
            row = await (await conn.execute(SQL["start_runner"], params)).fetchone()
            if row is None:
                raise errors.AlreadyExists(f"{id} is no runner", field="id", reason="singleton")
            epoch = int(row["epoch"])
            event = events.RunnerStarted(runner=id, pool=pool, epoch=epoch, host=host, pid=pid)
            await append_many(conn, [Entry(actor, event)])
            return epoch

        return await transact(self._db, work)

    async def ready(self, id: str, epoch: int) -> None:
        """STARTING becomes READY; saying it twice does nothing.

        Raises:
            Fenced: Another process has this id now.
            InvalidTransition: The runner is draining or dead.
        """
        await self._set(id, "ready", epoch)

    async def drain(self, id: str) -> None:
        """The runner gets no more work; saying it twice does nothing.

        Raises:
            NotFound: There is no such runner.
            InvalidTransition: It is dead.
        """
        await self._set(id, "drain", None)

    async def retire(self, id: str) -> bool:
        """Whether a ready runner is without work, and kept for none; then it drains."""

        async def work(conn: Connection) -> bool:
            lease = await lock_lease(conn, id)  # claims for it lock it too
            if lease is None or lease["status"] != RunnerStatus.READY:
                return False
            if lease["reserved_for"] is not None:
                return False
            if await (await conn.execute(SQL["owned_executions"], {"owner": id})).fetchone():
                return False
            await conn.execute(
                SQL["set_lease_status"], {"id": id, "status": str(RunnerStatus.DRAINING)}
            )
            return True

        return await transact(self._db, work)

    async def _set(self, id: str, command: str, epoch: int | None) -> None:
        to = states.RUNNER[command][1]

        async def work(conn: Connection) -> None:
            lease = await lock_lease(conn, id)
            if lease is None or lease["kind"] != "runner":
                raise errors.NotFound(f"there is no runner {id}", field="runner", reason="unknown")
            if epoch is not None and lease["epoch"] != epoch:
                raise errors.Fenced(
                    f"runner {id} has epoch {lease['epoch']}, not {epoch}",
                    field="epoch",
                    reason="taken over",
                )
            if lease["status"] != to:
                legal({**lease, "id": id}, "runner", command)
                await conn.execute(SQL["set_lease_status"], {"id": id, "status": str(to)})

        await transact(self._db, work)

    async def renew(self, id: str, epoch: int, ttl_s: float) -> bool:
        """Whether the runner still holds its lease; then for another `ttl_s` seconds."""
        return await self._db.row(RENEW_SQL, {"id": id, "epoch": epoch, "ttl_s": ttl_s}) is not None

    async def runners(self, pool: str | None = None) -> list[Runner]:
        """All runners that are not DEAD, oldest first."""
        rows = await self._db.rows(SQL["list_runners"], {"pool": pool})
        return [Runner(**row) for row in rows]

    async def short(self, id: str, epoch: int, whose: str | None, reason: str) -> None:
        """The runner is short of this memory, or of none any more; saying it twice does nothing."""

        async def work(conn: Connection) -> None:
            params = {"id": id, "epoch": epoch, "short": whose}
            row = await (await conn.execute(SQL["set_short"], params)).fetchone()
            if row is not None and whose is not None:
                event = events.RunnerShort(runner=id, whose=whose, reason=reason)
                await append_many(conn, [Entry(id, event)])

        await transact(self._db, work)

    async def unplaced(self, version: str, reason: str | None, *, actor: str) -> None:
        """Why no runner can be started for what waits; None: that is over. Twice does nothing.

        Executions and batches that wait show it as their reason.
        """

        async def work(conn: Connection) -> None:
            params = {"version": version, "reason": reason}
            if reason is None:
                await conn.execute(SQL["end_shortage"], params)
            elif await (await conn.execute(SQL["tell_shortage"], params)).fetchone():
                event = events.RunnerUnplaced(version=version, reason=reason)
                await append_many(conn, [Entry(actor, event)])

        await transact(self._db, work)

    async def bury(
        self, id: str, epoch: int, reason: str, *, actor: str, max_attempts: int = MAX_ATTEMPTS
    ) -> int:
        """Declares a runner dead and takes its executions back; gives how many there were.

        They become PENDING, and suspect unless it was draining. One that ran alone, or has used up
        its attempts, fails; one that was to stop is cancelled, one that was to pause is PAUSED.
        Burying what is dead, or has another epoch, does nothing.
        """

        async def work(conn: Connection) -> int:
            lease = await lock_lease(conn, id)
            if lease is None or lease["epoch"] != epoch:
                return 0
            if lease["status"] not in states.RUNNER["die"][0]:
                return 0
            return await bury_locked(conn, lease, id, reason, actor, max_attempts)

        return await transact(self._db, work)

    async def acquire(self, name: str, holder: str, ttl_s: float) -> int | None:
        """The epoch of a singleton's lease if it is free, run out or this holder's, else None."""
        row = await self._db.row(
            SQL["acquire_singleton"], {"name": name, "holder": holder, "ttl_s": ttl_s}
        )
        return None if row is None else int(row["epoch"])

    async def hold(self, name: str, holder: str, epoch: int, ttl_s: float) -> bool:
        """Whether this holder still has the lease under this epoch; then for `ttl_s` more."""
        params = {"name": name, "holder": holder, "epoch": epoch, "ttl_s": ttl_s}
        return await self._db.row(SQL["hold_singleton"], params) is not None

    async def release(self, name: str, holder: str) -> None:
        """Gives a singleton's lease back at once."""
        async with self._db.connection() as conn:
            await conn.execute(SQL["release_singleton"], {"name": name, "holder": holder})


async def lock_lease(conn: Connection, id: str) -> DictRow | None:
    """The lease's row, locked; None when there is none."""
    return await (await conn.execute(SQL["lock_lease"], {"id": id})).fetchone()


async def bury_locked(
    conn: Connection, lease: DictRow, id: str, reason: str, actor: str, max_attempts: int
) -> int:
    """`Leases.bury` of a locked lease that is not DEAD, in the caller's transaction."""
    params = {"id": id, "status": str(RunnerStatus.DEAD)}
    await conn.execute(SQL["set_lease_status"], params)
    rows = in_order(await (await conn.execute(SQL["lock_owned"], {"owner": id})).fetchall())
    if lease["status"] == RunnerStatus.DRAINING:  # it was told to end, and did not in time
        await apply(conn, [_after_end(row, actor) for row in rows])
    else:
        await apply(conn, [after_death(row, id, actor, max_attempts) for row in rows])
    event = events.RunnerLost(runner=id, reason=reason, executions=len(rows))
    await append_many(conn, [Entry(actor, event)])
    return len(rows)


def _after_end(row: DictRow, actor: str) -> Change:
    """What becomes of an execution whose runner was ended: nothing is held against it."""
    if row["wanted"] == Wanted.STOP:
        return Change(row, "stop", actor, reason=row["reason"], epoch=1)
    if row["wanted"] == Wanted.PAUSE:
        why = str(PauseReason.REQUESTED)
        return Change(row, "pause", actor, reason=why, epoch=1, attempt=-1)
    return Change(row, "requeue", actor, reason=DRAINED, epoch=1, attempt=-1)


def after_death(row: DictRow, runner: str, actor: str, max_attempts: int) -> Change:
    """What becomes of an execution whose runner died. The epoch moves: the dead may still write."""
    if row["wanted"] == Wanted.STOP:
        return Change(row, "stop", actor, reason=row["reason"], epoch=1, suspect=1)
    if row["wanted"] == Wanted.PAUSE:
        why = str(PauseReason.REQUESTED)
        return Change(row, "pause", actor, reason=why, epoch=1, suspect=1)
    if row["suspect"] >= SOLO_SUSPECT:
        why = f"runner {runner} died while this execution ran alone in it"
    elif row["attempt"] >= max_attempts:
        why = f"started {row['attempt']} times, the last time in runner {runner}, which died"
    else:
        return Change(row, "requeue", actor, reason="runner_died", epoch=1, suspect=1)
    fault = Fault(code=errors.RunnerDied.code, type=errors.RunnerDied.__name__, message=why)
    return Change(row, "fail", actor, reason="runner_died", fault=fault, epoch=1, suspect=1)
