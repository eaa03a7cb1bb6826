"""The embedded Postgres: starts, is configured, survives a foreign pid file, stops, keeps its data."""

import os
from pathlib import Path

import psycopg

from wtb_ray.actors import postgres
from wtb_ray.actors.postgres import EmbeddedPostgres


async def test_data_survives_a_stop_and_the_pid_of_another_process(tmp_path: Path) -> None:
    first = EmbeddedPostgres(str(tmp_path / "pg"))
    url = await first.url()
    with psycopg.connect(url, autocommit=True) as conn:
        assert conn.execute("SHOW max_connections").fetchone() == ("200",)
        assert conn.execute("SHOW fsync").fetchone() == ("on",)
        conn.execute("INSERT INTO projects (name, version) VALUES ('kept', 'v')")
    await first.stop()
    postgres.forget(tmp_path / "pg")
    (tmp_path / "pg" / "postmaster.pid").write_text(f"{os.getpid()}\n{tmp_path / 'pg'}\n")

    second = EmbeddedPostgres(str(tmp_path / "pg"))
    try:
        with psycopg.connect(await second.url(), autocommit=True) as conn:
            assert conn.execute("SELECT name FROM projects").fetchall() == [("kept",)]
    finally:
        await second.stop()
    assert postgres.stop(tmp_path / "pg") is False
