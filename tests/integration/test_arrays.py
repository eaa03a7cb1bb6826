"""Columns reach Postgres as the arrays they stand for."""

from typing import Any

import psycopg
import pytest

from wtb_ray.arrays import column, columns
from wtb_ray.db import Database

KINDS: dict[str, list[Any]] = {
    "text": ["a", None, "ü'\"\\{},NULL", ""],
    "utf8": [b"a", None, "ü".encode()],
    "bytea": [b"\x00\xff", None, b""],
    "jsonb": [b'{"a": [1, null]}', None, b'"x"'],
    "int4": [1, None, -(2**31)],
    "int8": [2**62, None, -1],
    "float8": [1.5, None, float("inf")],
}
DECODED: dict[str, list[Any]] = {"utf8": ["a", None, "ü"], "jsonb": [{"a": [1, None]}, None, "x"]}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_column_is_the_array_of_its_values(kind: str, db: Database) -> None:
    given = column(kind, KINDS[kind])
    rows = await db.rows(
        "SELECT v FROM unnest(%s) WITH ORDINALITY AS u (v, n) ORDER BY n", (given,)
    )
    assert [row["v"] for row in rows] == DECODED.get(kind, KINDS[kind])


async def test_rows_of_several_kinds(db: Database) -> None:
    given = columns(("text", "int4"), [("a", 1), (None, 2)])
    rows = await db.rows("SELECT * FROM unnest(%s, %s) AS u (t, i)", given)
    assert rows == [{"t": "a", "i": 1}, {"t": None, "i": 2}]


async def test_text_that_postgres_cannot_hold_is_its_error(db: Database) -> None:
    with pytest.raises(psycopg.DataError):
        await db.rows("SELECT unnest(%s)", (column("text", ["a\x00"]),))
