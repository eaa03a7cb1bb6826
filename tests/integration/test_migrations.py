"""Migrations: repeatable, concurrent, and in step with the states declared in Python."""

import re
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from wtb_ray import errors, states
from wtb_ray.db import Database, migrate


def test_two_processes_at_once_do_not_collide(postgres: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute("CREATE DATABASE wtb_concurrent")
    target = make_conninfo(postgres, dbname="wtb_concurrent")
    with ThreadPoolExecutor(4) as pool:
        applied = sorted(pool.map(migrate, [target] * 4), key=len)
    assert applied[:3] == [[], [], []]
    assert applied[3][0] == 1
    with psycopg.connect(target, autocommit=True) as conn:
        assert conn.execute("SELECT count(*) FROM checkpoints").fetchone() == (0,)


@pytest.mark.parametrize(
    ("table", "enum"),
    [
        ("executions", states.ExecutionStatus),
        ("cells", states.CellStatus),
        ("batches", states.BatchStatus),
        ("leases", states.RunnerStatus),
        ("venvs", states.VenvStatus),
    ],
)
async def test_checks_list_exactly_the_declared_statuses(
    db: Database, table: str, enum: type[states.ExecutionStatus]
) -> None:
    row = await db.row(
        "SELECT pg_get_constraintdef(oid) AS text FROM pg_constraint"
        " WHERE conrelid = %s::regclass AND conname = %s",
        (table, f"{table}_status_check"),
    )
    assert row is not None
    assert set(re.findall(r"'([A-Z]+)'", row["text"])) == {status.value for status in enum}


def test_an_unreachable_database_is_a_typed_error() -> None:
    with pytest.raises(errors.DatabaseUnavailable):
        migrate("postgresql://nobody@127.0.0.1:1/none?connect_timeout=1")
