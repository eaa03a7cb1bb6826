"""The cache of built environments of a host: built once, found in no time, removed when not used.

Any number of these may work on one host's directory, and each may be killed at any time: what they
share is what is on the disk and who holds it. An environment that was acquired stays until its lease
is over; by then whoever runs in it holds it (`wtb_ray.venvs.hold`). Leases are held by this process, so
they end with it.

A refusal that will not change is remembered until `retry`, `invalidate` or another specification. All
that may pass by itself is an `Unavailable`, and is the caller's to try again.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from wtb_ray import bundles, environments, errors, flocks, telemetry, venvs
from wtb_ray.actors import manager
from wtb_ray.db import Database
from wtb_ray.environment import EnvSpec, Venv, VenvStats
from wtb_ray.flocks import Hold
from wtb_ray.objects import ObjectStore
from wtb_ray.settings import Settings, configuration
from wtb_ray.states import VenvStatus
from wtb_ray.store import Store
from wtb_ray.venvs import Installed, Swept

log = logging.getLogger(__name__)

LEASE_S: Final = 120.0
"""Longer than a runner takes to start."""
SWEEP_S: Final = 60.0
FLUSH_S: Final = 5.0
DAY_S: Final = 86_400.0
GB: Final = 1_000_000_000
ATTEMPTS: Final = 3
MOST_KNOWN: Final = 4096
PERMANENT: Final = {
    error.code: error
    for error in (errors.EnvironmentFailed, errors.EnvironmentConflict, errors.PythonMismatch)
}


class _Known(NamedTuple):
    """What a specification is on this host."""

    environment: str
    venv: str
    folder: Path | None


class VenvCache:
    """Gives environments, and looks after the disk that they take."""

    def __init__(
        self,
        settings: Settings,
        database_url: str,
        host: str,
        *,
        imports: Sequence[str] = environments.NEEDED,
    ):
        telemetry.configure(settings.log_level)
        self._settings = settings
        self._configuration = configuration(settings, database_url)
        self._host = host
        self._name = f"venvs@{host}"
        self._imports = imports
        self._root = settings.venvs()
        self._db = Database(database_url, size=2, name="wtb-venvs")
        self._store = Store(self._db)
        self._objects = ObjectStore(settings.objects())
        self._known: dict[tuple[str, str | None], _Known] = {}
        self._index: dict[str, Installed] = {}
        self._flights: dict[str, asyncio.Task[bool]] = {}
        self._leases = _Leases()
        self._counts: Counter[str] = Counter()
        self._unsaid: Counter[str] = Counter()
        self._sweeping = asyncio.Lock()
        self._grown = asyncio.Event()
        self._loop = asyncio.create_task(self._run())

    async def configured(self) -> str:
        """A digest of the settings that this actor was made with."""
        return self._configuration

    async def close(self) -> None:
        """Ends builds and loops; what was leased may go from now on."""
        tasks = (self._loop, *self._flights.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(errors.Unavailable):
            await self._flush()
        self._leases.close()
        await self._objects.aclose()
        await self._db.close()

    async def acquire(
        self,
        spec: EnvSpec,
        bundle: str | None = None,
        service: str | None = None,
        *,
        lease_s: float = LEASE_S,
    ) -> Venv:
        """The environment of a specification, built if it is not there; it stays for `lease_s` seconds.

        Args:
            spec: What is asked for.
            bundle: Digest of the project's bundle, in which wheels are looked for.
            service: `host:port` of what resolves and builds instead, see `wtb_ray.actors.manager`.
            lease_s: How long it cannot be removed, even when nobody holds it.

        Raises:
            PythonMismatch: It asks for another Python than the cluster has.
            EnvironmentConflict: It needs what the bench has otherwise; names both requirements.
            EnvironmentFailed: It cannot be built; in uv's words, and at once the next time.
            Unavailable: Something does not answer, has no room or took too long; it may later.
            ConfigurationError: Nothing can be built under `data_dir`.
        """
        began = time.perf_counter()
        await self._db.open()
        known = self._known.get((spec.digest(), bundle)) or await self._identify(spec, bundle)
        if not spec.installs:
            return _venv(known, None, True, began)
        hit = True
        for _ in range(ATTEMPTS):
            if (found := self._found(known.venv, lease_s)) is not None:
                self._counts["hits" if hit else "misses"] += 1
                self._unsaid[known.venv] += hit
                return _venv(known, found, hit, began)
            if service is not None and hit:
                # Not as a part of the flight: the service may be this bench, and builds it here.
                await self._have_managed(service, known, spec, bundle)
            hit = await self._fly(known, spec, lease_s) and hit
        raise errors.Unavailable(
            "the environment was invalidated each time that it was built", reason="invalidated"
        )

    async def identify(self, spec: EnvSpec, bundle: str | None = None) -> str:
        """The digest of an environment on this host, whether or not it is built."""
        await self._db.open()
        return (await self._identify(spec, bundle)).environment

    async def invalidate(self, digest: str) -> bool:
        """Never gives what is built of an environment again: it is removed once it is free, and built
        anew when it is asked for. Whether there was something, or a remembered failure.

        Args:
            digest: Of the environment, or of what is installed for it.
        """
        venv = await self._venv_of(digest)
        self._index.pop(venv, None)
        self._known = {key: one for key, one in self._known.items() if one.venv != venv}
        for one in await asyncio.to_thread(venvs.listed, self._root):
            if one.record.venv == venv:
                venvs.void(one.path)
        changed = await self._store.venvs.invalidate(self._host, venv, actor=self._name)
        self._grown.set()
        return changed

    async def retry(self, digest: str) -> bool:
        """Forgets that an environment, or what is installed for it, failed; whether it had."""
        venv = await self._venv_of(digest)
        return await self._store.venvs.retry(self._host, venv, actor=self._name)

    async def prune(self, dry_run: bool = False) -> Swept:
        """Removes what is invalid, has not been used for long, or there is no room for.

        Args:
            dry_run: Only say what would go.
        """
        async with self._sweeping:
            report = await asyncio.to_thread(
                venvs.sweep,
                self._root,
                most_bytes=int(self._settings.venv_max_gb * GB),
                max_age_s=self._settings.venv_max_age_days * DAY_S,
                dry_run=dry_run,
            )
            if dry_run:
                return report
            for gone in report.gone:
                self._counts["evictions"] += 1
                await self._evicted(gone.venv, gone.path, gone.bytes, gone.reason)
            await self._reconcile()
        return report

    async def copy(self, digest: str, target: str) -> None:
        """Copies a built environment, by its digest or that of what is installed, in place of `target`.

        Raises:
            UnknownEnvironment: It is not built here.
            StorageFull: There is no room for it; the target is as it was.
        """
        venv = await self._venv_of(digest)
        found = self._index.get(venv) or await self._find(venv)
        if found is None:
            raise errors.UnknownEnvironment(
                f"environment {digest} is not built on {self._host}", field="environment"
            )
        await asyncio.to_thread(venvs.copy, found.path, Path(target))

    async def stats(self) -> VenvStats:
        """What this has done since it started, and what the host holds now."""
        there = await asyncio.to_thread(venvs.listed, self._root)
        return VenvStats(
            host=self._host,
            hits=self._counts["hits"],
            misses=self._counts["misses"],
            builds=self._counts["builds"],
            failures=self._counts["failures"],
            evictions=self._counts["evictions"],
            entries=len(there),
            bytes=sum(one.record.bytes for one in there),
        )

    async def _identify(self, spec: EnvSpec, bundle: str | None) -> _Known:
        base = await asyncio.to_thread(environments.base)
        environments.check_python(spec, base)
        folder = None
        if bundle is not None and environments.needs_folder(spec):
            place = self._settings.data_dir / "bundles"
            folder = await bundles.fetch(self._objects, bundle, place)
        wheels = await asyncio.to_thread(environments.wheels, spec, folder)
        venv = environments.venv_digest(spec, base, wheels)
        known = _Known(environments.environment_digest(spec, venv), venv, folder)
        await self._store.environments.register(known.environment, venv, spec, actor=self._name)
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[spec.digest(), bundle] = known
        return known

    def _found(self, venv: str, lease_s: float) -> Installed | None:
        """What is there by the memory of this process and one look; it is leased."""
        found = self._index.get(venv)
        if found is None:
            return None
        try:
            venvs.touch(found.path)
            self._leases.extend(found.path, lease_s)
        except FileNotFoundError:
            self._index.pop(venv, None)
            return None
        return found

    async def _have_managed(
        self, service: str, known: _Known, spec: EnvSpec, bundle: str | None
    ) -> None:
        """Has a service resolve it, and takes what that has built where it is on this host."""
        if await self._find(known.venv) is not None:
            return
        limit = self._settings.venv_build_timeout_s
        managed = await manager.ask(service, spec, bundle, limit)
        await self._store.environments.settle(known.venv, managed.pins)
        base = await asyncio.to_thread(environments.base)
        for path in managed.paths:
            found = await asyncio.to_thread(venvs.read, path)
            if found is None or known.venv in self._index:
                continue
            if (found.record.venv, found.record.base) == (known.venv, base.digest):
                with contextlib.suppress(FileNotFoundError, errors.Unavailable):
                    await self._take(found, venvs.hold(path), LEASE_S)

    async def _fly(self, known: _Known, spec: EnvSpec, lease_s: float) -> bool:
        """Sees to it that the environment is there, once for all who ask; whether it was."""
        if known.venv in self._index:
            return False
        flight = self._flights.get(known.venv)
        if flight is None:
            flight = asyncio.create_task(self._obtain(known, spec, lease_s))
            self._flights[known.venv] = flight
            flight.add_done_callback(lambda done: self._landed(known.venv, done))
        return await asyncio.shield(flight)

    def _landed(self, venv: str, flight: "asyncio.Task[bool]") -> None:
        self._flights.pop(venv, None)
        if not flight.cancelled():
            flight.exception()  # whoever asked may be gone

    async def _obtain(self, known: _Known, spec: EnvSpec, lease_s: float) -> bool:
        venvs.check_root(self._root)
        async with flocks.alone(venvs.lock_of(self._root, known.venv)):
            found = await self._find(known.venv)
            with contextlib.suppress(FileNotFoundError):  # a sweep was faster
                if found is not None:
                    await self._take(found, flocks.share(found.path), lease_s)
                    return True
            row = await self._store.venvs.get(self._host, known.venv)
            if row is not None and row.status is VenvStatus.FAILED and row.permanent and row.error:
                kind = PERMANENT.get(row.error["code"], errors.EnvironmentFailed)
                raise kind(row.error["message"], **row.error["details"])
            await self._store.venvs.begin(self._host, known.venv)
            try:
                built = await self._build(known, spec)
            except errors.WTBError as e:
                self._counts["failures"] += 1
                permanent = isinstance(e, errors.EnvironmentFailed)
                await self._store.venvs.fail(
                    self._host, known.venv, e, permanent=permanent, actor=self._name
                )
                raise
            self._counts["builds"] += 1
            new = Installed(built.path, built.record, time.time())
            await self._take(new, built.hold, lease_s)
        self._grown.set()
        return False

    async def _build(self, known: _Known, spec: EnvSpec) -> environments.Built:
        """Builds what was once found that it comes down to, on whatever host that was."""
        base, root, limit = environments.base(), self._root, self._settings.venv_build_timeout_s
        try:
            async with asyncio.timeout(limit):
                pins = await self._store.environments.pins(known.venv)
                if pins is None:
                    resolved = await environments.resolve(spec, base, known.folder, root=root)
                    pins = await self._store.environments.settle(known.venv, resolved)
                return await environments.build(
                    spec, pins, base, root, folder=known.folder, imports=self._imports
                )
        except TimeoutError as e:
            raise errors.Unavailable(
                f"building an environment took longer than {limit:g} s",
                reason="timeout",
                setting="venv_build_timeout_s",
            ) from e

    async def _take(self, found: Installed, hold: Hold, lease_s: float) -> None:
        """It can be found from now on, and is leased to who asked first."""
        self._leases.add(found.path, hold, lease_s)
        await self._ready(found)
        self._index[found.record.venv] = found

    async def _ready(self, found: Installed) -> None:
        record = found.record
        await self._store.venvs.ready(
            self._host,
            record.venv,
            str(found.path),
            bytes=record.bytes,
            seconds=record.seconds,
            packages=record.packages,
            actor=self._name,
        )

    async def _find(self, venv: str) -> Installed | None:
        base = await asyncio.to_thread(environments.base)
        return await asyncio.to_thread(venvs.find, self._root, venv, base)

    async def _venv_of(self, digest: str) -> str:
        await self._db.open()
        try:
            return (await self._store.environments.get(digest)).venv
        except errors.UnknownEnvironment:
            return digest

    async def _evicted(self, venv: str, path: str, bytes: int, reason: str) -> None:
        await self._store.venvs.evicted(
            self._host, venv, path, bytes=bytes, reason=reason, actor=self._name
        )

    async def _reconcile(self) -> None:
        """Rows say what is there, also after processes were killed between the disk and the row."""
        for row in await self._store.venvs.list(host=self._host):
            if row.status is VenvStatus.BUILDING:
                lock = venvs.lock_of(self._root, row.venv)
                if (held := flocks.enter(lock)) is not None:
                    try:
                        await self._bury(row.venv)
                    finally:
                        flocks.leave(lock, held)
            elif row.path is not None and not await asyncio.to_thread(Path(row.path).is_dir):
                await self._evicted(row.venv, row.path, row.bytes, "missing")

    async def _bury(self, venv: str) -> None:
        """Says what became of a build whose process is gone."""
        if (found := await self._find(venv)) is not None:
            await self._ready(found)
            return
        gone = errors.Unavailable("the process that built it is gone", reason="lost")
        await self._store.venvs.fail(self._host, venv, gone, permanent=False, actor=self._name)

    async def _flush(self) -> None:
        hits, self._unsaid = +self._unsaid, Counter()
        if hits:
            await self._store.venvs.used(self._host, hits)

    async def _run(self) -> None:
        await self._db.open()
        self._grown.set()  # a crash may have left something
        await asyncio.gather(
            self._again_and_again(self._sweep, "sweep"), self._again_and_again(self._say, "flush")
        )

    async def _again_and_again(self, do: Callable[[], Awaitable[None]], action: str) -> None:
        while True:
            try:
                await do()
            except errors.Unavailable as e:
                log.warning("%s: %s", action, e, extra={"action": action})
                await asyncio.sleep(FLUSH_S)
            except Exception:  # a defect in one round must not end all of them
                log.exception("%s failed", action, extra={"action": action})
                await asyncio.sleep(FLUSH_S)

    async def _sweep(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SWEEP_S):
                await self._grown.wait()
        self._grown.clear()
        await self.prune()

    async def _say(self) -> None:
        await asyncio.sleep(FLUSH_S)
        await self._flush()


class _Leases:
    """Holds that end after a time."""

    def __init__(self) -> None:
        self._held: dict[Path, tuple[Hold, float]] = {}

    def extend(self, path: Path, lease_s: float) -> None:
        """Holds a directory for at least this many seconds from now.

        Raises:
            FileNotFoundError: It is not there any more.
        """
        until = asyncio.get_running_loop().time() + lease_s
        if path in self._held:
            hold, before = self._held[path]
            self._held[path] = hold, max(before, until)
        else:
            self.add(path, flocks.share(path), lease_s)

    def add(self, path: Path, hold: Hold, lease_s: float) -> None:
        """Takes over a hold for at least this many seconds."""
        if path in self._held:
            hold.release()
            self.extend(path, lease_s)
            return
        loop = asyncio.get_running_loop()
        self._held[path] = hold, loop.time() + lease_s
        loop.call_later(lease_s, self._end, path)

    def close(self) -> None:
        """Ends all of them."""
        for hold, _ in self._held.values():
            hold.release()
        self._held.clear()

    def _end(self, path: Path) -> None:
        loop = asyncio.get_running_loop()
        if path not in self._held:  # closed meanwhile
            return
        hold, until = self._held[path]
        if until > loop.time():
            loop.call_at(until, self._end, path)
        else:
            del self._held[path]
            hold.release()


def _venv(known: _Known, found: Installed | None, hit: bool, began: float) -> Venv:
    return Venv(
        environment=known.environment,
        venv=known.venv,
        path=None if found is None else str(found.path),
        python=None if found is None else found.python,
        packages={} if found is None else found.record.packages,
        hit=hit,
        seconds=time.perf_counter() - began,
    )
