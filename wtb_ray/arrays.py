"""Whole columns as Postgres arrays in its binary form, for `INSERT .. SELECT FROM unnest(...)`.

psycopg escapes the text of a list element by element, which for many rows of JSON costs more than
all the rest of an insert. A connection understands these columns when it is made with `CONTEXT`.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg import adapters
from psycopg.adapt import AdaptersMap, Dumper, PyFormat
from psycopg.pq import Format

_HEADER: Final = struct.Struct(">iiIii")
_LENGTH: Final = struct.Struct(">i")
_NULL: Final = _LENGTH.pack(-1)

_KINDS: Final[dict[str, tuple[int, int, Callable[[Any], bytes]]]] = {
    "text": (1009, 25, str.encode),
    "utf8": (1009, 25, bytes),  # text that is encoded already
    "bytea": (1001, 17, bytes),
    "jsonb": (3807, 3802, b"\x01".__add__),  # of JSON in UTF-8
    "int4": (1007, 23, _LENGTH.pack),
    "int8": (1016, 20, struct.Struct(">q").pack),
    "float8": (1022, 701, struct.Struct(">d").pack),
}
"""Oid of the array type, oid of the element type, bytes of one element."""


@dataclass(frozen=True, slots=True)
class Column:
    """An array parameter, encoded."""

    oid: int
    data: bytes


def column(kind: str, values: Iterable[Any]) -> Column:
    """The array of values of a kind (text, utf8, bytea, jsonb, int4, int8, float8); None is NULL."""
    array, element, encode = _KINDS[kind]
    parts, count, nulls = [b""], 0, 0
    for value in values:
        count += 1
        if value is None:
            nulls = 1
            parts.append(_NULL)
        else:
            data = encode(value)
            parts += (_LENGTH.pack(len(data)), data)
    parts[0] = _HEADER.pack(1, nulls, element, count, 1)
    return Column(array, b"".join(parts))


def columns(kinds: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[Column]:
    """The columns of rows, each row with one value of each kind."""
    return [
        column(kind, values) for kind, values in zip(kinds, zip(*rows, strict=True), strict=True)
    ]


class _ColumnDumper(Dumper):
    format = Format.BINARY

    def get_key(self, obj: Column, format: PyFormat) -> Any:
        return Column, obj.oid

    def upgrade(self, obj: Column, format: PyFormat) -> Dumper:
        made = _ColumnDumper(Column)
        made.oid = obj.oid
        return made

    def dump(self, obj: Column) -> bytes:
        return obj.data


class _Context:
    """What psycopg takes for a connection to adapt values as."""

    connection = None

    def __init__(self) -> None:
        self.adapters = AdaptersMap(adapters)
        self.adapters.register_dumper(Column, _ColumnDumper)


CONTEXT: Final = _Context()
