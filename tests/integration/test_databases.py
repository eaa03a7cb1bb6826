"""Each test begins with a database in which nothing has ever happened."""

import psycopg
import pytest

from tests.databases import Databases

CHANGED = [
    "CREATE TABLE made (n int)",
    "ALTER TABLE projects ADD COLUMN made int",
    "ALTER TABLE cells DISABLE TRIGGER ALL",
    "DROP INDEX batches_newest",
    "INSERT INTO projects (name, version) VALUES ('p', 'v'); ANALYZE projects",
    "DELETE FROM collecting",
]


def _found(url: str) -> list[object]:
    """The number of the next event, the projects, and what tells of the changes above."""
    with psycopg.connect(url) as conn:
        return [
            conn.execute(statement).fetchall()
            for statement in (
                "SELECT nextval(pg_get_serial_sequence('events', 'seq'))",
                "SELECT * FROM projects",
                "SELECT to_regclass('made'), to_regclass('batches_newest')::text",
                "SELECT count(*) FROM pg_trigger WHERE tgenabled = 'D'",
                "SELECT count(*) FROM pg_statistic WHERE starelid = 'projects'::regclass",
                "SELECT * FROM collecting",
            )
        ]


@pytest.mark.parametrize("change", ["SELECT 1", *CHANGED])
def test_nothing_of_a_test_is_there_in_the_next(databases: Databases, change: str) -> None:
    with databases.lent() as url:
        new = _found(url)
    with databases.lent() as url, psycopg.connect(url) as conn:
        conn.execute("INSERT INTO projects (name, version) VALUES ('a', 'v')")
        conn.execute(change.encode())
        conn.commit()
        left_open = url
    with pytest.raises(psycopg.OperationalError), psycopg.connect(left_open):
        pass
    with databases.lent() as url:
        assert _found(url) == new
