"""The store's named statements: all used, no name twice, statuses only from the tables."""

import re
from pathlib import Path

from wtb_ray import db, states, store
from wtb_ray.store.sql import FILES, SQL

SOURCES = [path.read_text() for path in Path(store.__file__).parent.glob("*.py")]
STATUSES = {
    str(status)
    for kind in (
        states.ExecutionStatus,
        states.CellStatus,
        states.BatchStatus,
        states.RunnerStatus,
        states.VenvStatus,
        states.CollectionStatus,
    )
    for status in kind
}


def test_every_statement_is_used_and_every_used_one_exists() -> None:
    named = {name for text in SOURCES for name in re.findall(r'SQL\["(\w+)"\]', text)}
    assert named <= set(SQL)
    quoted = {name for text in SOURCES for name in re.findall(r'"(\w+)"', text)}
    assert set(SQL) <= quoted, "a statement that nothing uses"


def test_names_are_unique_over_all_files() -> None:
    names = [name for file in FILES for name in db.queries(file)]
    assert sorted(names) == sorted(set(names))


def test_statuses_in_statements_exist() -> None:
    quoted = {word for sql in SQL.values() for word in re.findall(r"'([A-Z]+)'", sql)}
    assert quoted <= STATUSES
