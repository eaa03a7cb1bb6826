"""Test cases from a list or from a file, all of them or an error that says where it is wrong.

A case is `{"id", "input", "expected", "metadata", "answers"}`. Without `input` all keys but these
are the input; `answers` is a list of what its nodes hear when they ask. Where no case has an id they are `case-0001`, `case-0002`, ... by place;
ids in some cases only are an error, as are double ones.

JSONL (`.jsonl`, `.ndjson`): an object a line. Blank lines and a byte order mark are skipped.

CSV (`.csv`): a header with the columns
  `id`               the case's id
  `input`            a JSON object, or columns `input.NAME`, one text each
  `expected`         a text, or JSON if it starts with `{` or `[`; or columns `expected.NAME`
  `metadata`         a JSON object, or columns `metadata.NAME`
  `answers`          a JSON list
or, without any `input` column, any other names: each is an entry of the input. A cell is a text;
under `NAME:json` it is JSON. An empty cell leaves its entry out.

Parquet (`.parquet`): the same columns with their own types; structs and lists too.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Final, NoReturn

import orjson
from pydantic import ValidationError

from wtb_ray import errors
from wtb_ray.case import ANSWERS_KB, MOST_ANSWERS
from wtb_ray.model import Case

PARTS: Final = ("id", "input", "expected", "metadata", "answers")
GROUPS: Final = ("input", "expected", "metadata")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

Place = dict[str, Any]
"""Where a case stands: `file` and `line` or `row`, or `index`."""


def from_list(items: Iterable[Case | Mapping[str, Any]]) -> list[Case]:
    """Cases of a list, with ids, as they come back from JSON.

    Raises:
        InvalidCases: A case has no input, is not JSON, or its id is double; or there is none.
    """
    places = ((_as_object(item, {"index": i}), {"index": i}) for i, item in enumerate(items))
    return _cases(places, {})


def load_cases(path: str | Path) -> list[Case]:
    """Cases of a JSONL, CSV or Parquet file; see the module for the forms.

    Raises:
        InvalidCases: With `file`, `line` or `row`, `field` and `reason`; nothing is loaded.
    """
    path = Path(path)
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        _refuse({"file": str(path)}, f"a case file ends in {', '.join(readers)}")
    try:
        data = path.read_bytes()
    except OSError as e:
        _refuse({"file": str(path)}, e.strerror or str(e))
    return _cases(reader(str(path), data), {"file": str(path)})


def _cases(items: Iterable[tuple[dict[str, Any], Place]], whole: Place) -> list[Case]:
    found = [(_parts(item, place), place) for item, place in items]
    if not found:
        _refuse(whole, "there are no cases")
    if all(item["id"] is None for item, _ in found):
        width = max(4, len(str(len(found))))
        for number, (item, _) in enumerate(found, 1):
            item["id"] = f"case-{number:0{width}}"
    seen: dict[str, Place] = {}
    for item, place in found:
        if item["id"] is None:
            _refuse(place, "other cases have an id and this one has none", "id")
        if (first := seen.setdefault(item["id"], place)) is not place:
            _refuse(place, f"{item['id']!r} is the id of {_where(first)} too", "id")
    return [_case(item, place) for item, place in found]


def _parts(item: dict[str, Any], place: Place) -> dict[str, Any]:
    """The parts of a case; its id as text, or None."""
    parts = {name: item.get(name) for name in PARTS}
    rest = {name: value for name, value in item.items() if name not in PARTS}
    if "input" not in item:
        parts["input"] = rest or _refuse(place, "there is no input", "input")
    elif rest:
        _refuse(place, f"unknown beside input; there are {', '.join(PARTS)}", next(iter(rest)))
    for name in ("input", "metadata"):
        if not isinstance(parts[name], dict) and not (name == "metadata" and parts[name] is None):
            _refuse(place, f"an object is needed, not {parts[name]!r}", name)
    parts["id"] = _id(parts["id"], place)
    answers = _answers(parts["answers"], place)
    return {**parts, "metadata": parts["metadata"] or {}, "answers": answers}


def _answers(value: Any, place: Place) -> tuple[Any, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        _refuse(place, f"a list is needed, not {type(value).__name__}", "answers")
    if len(value) > MOST_ANSWERS:
        _refuse(place, f"{len(value)} are more than {MOST_ANSWERS}", "answers")
    if len(orjson.dumps(value)) > ANSWERS_KB * 1024:
        _refuse(place, f"they take more than {ANSWERS_KB} KiB", "answers")
    return tuple(value)


def _id(value: Any, place: Place) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        _refuse(place, f"a text is needed, not {value!r}", "id")
    if _CONTROL.search(str(value)):
        _refuse(place, f"{value!r} has control characters", "id")
    return str(value)


def _case(parts: dict[str, Any], place: Place) -> Case:
    try:
        return Case(**parts)
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        _refuse(place, first["msg"], ".".join(str(part) for part in first["loc"]))


def _as_object(item: Any, place: Place) -> dict[str, Any]:
    if isinstance(item, Case):
        item = item.model_dump()
    if not isinstance(item, Mapping):
        _refuse(place, f"a case is an object, not {type(item).__name__}")
    return {name: _as_json(value, place, str(name)) for name, value in item.items()}


def _as_json(value: Any, place: Place, field: str) -> Any:
    """The value as JSON gives it back: what is stored is then what was given."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, default=_iso).encode()
        made = json.loads(text)
        orjson.dumps(made)
    except (TypeError, ValueError, RecursionError) as e:
        _refuse(place, f"no JSON: {e}", field)
    return made


def _iso(value: Any) -> str:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _jsonl(file: str, data: bytes) -> Iterator[tuple[dict[str, Any], Place]]:
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        place = {"file": file, "line": number}
        try:
            item = orjson.loads(line)
        except orjson.JSONDecodeError as e:
            _refuse(place, f"no JSON: {e}")
        if not isinstance(item, dict):
            _refuse(place, f"a line holds an object, not {type(item).__name__}")
        yield item, place


def _csv(file: str, data: bytes) -> Iterator[tuple[dict[str, Any], Place]]:
    rows = _csv_rows(file, data)
    header, place = next(rows, ([], {}))
    columns = _columns([name.strip() for name in header], place)
    for cells, place in rows:
        if len(cells) != len(header):
            _refuse(place, f"{len(cells)} cells under {len(header)} columns")
        named = zip(columns, cells, strict=True)
        yield (
            _nested((column, _cell(column, cell, place)) for column, cell in named if cell != ""),
            place,
        )


def _csv_rows(file: str, data: bytes) -> Iterator[tuple[list[str], Place]]:
    """Rows that are not blank, each with the line that it starts on."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        _refuse({"file": file, "line": line}, f"no UTF-8: {e.reason}")
    rows, line = csv.reader(io.StringIO(text, newline=""), strict=True), 1
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as e:
            _refuse({"file": file, "line": line}, f"no CSV: {e}")
        if any(cells):
            yield cells, {"file": file, "line": line}
        line = rows.line_num + 1


def _cell(column: str, cell: str, place: Place) -> Any:
    whole = column in ("input", "metadata", "answers") or (
        column == "expected" and cell.startswith(("{", "["))
    )
    if not whole and not column.endswith(":json"):
        return cell
    try:
        return orjson.loads(cell)
    except orjson.JSONDecodeError as e:
        _refuse(place, f"no JSON: {e}", column)


def _parquet(file: str, data: bytes) -> Iterator[tuple[dict[str, Any], Place]]:
    # The service and the command line read no Parquet as a rule, and Polars is half a second.
    from polars import read_parquet  # noqa: PLC0415
    from polars.exceptions import PanicException, PolarsError  # noqa: PLC0415

    try:
        frame = read_parquet(io.BytesIO(data))
    except (PolarsError, PanicException, OSError) as e:
        _refuse({"file": file}, f"no Parquet: {e}")
    columns = _columns(frame.columns, {"file": file})
    for number, row in enumerate(frame.iter_rows(), 1):
        place = {"file": file, "row": number}
        entries = (
            (column, _typed(column, value, place))
            for column, value in zip(columns, row, strict=True)
            if value is not None
        )
        yield _nested(entries), place


def _typed(column: str, value: Any, place: Place) -> Any:
    if isinstance(value, str):
        return _cell(column, value, place)
    return _as_json(value, place, column)


def _columns(columns: list[str], place: Place) -> list[str]:
    """The columns, checked: each named once, and none that could not be placed."""
    names = [column.removesuffix(":json") for column in columns]
    for number, name in enumerate(names):
        if not name or name in names[:number]:
            _refuse(place, "the column is there twice" if name else "a column has no name", name)
    groups = {name: name.partition(".")[0] for name in names}
    for name, group in groups.items():
        if name != group and group in GROUPS and group in names:
            _refuse(place, f"there are columns {group}.NAME too", group)
    if "input" in groups.values():
        for name, group in groups.items():
            if group not in GROUPS and name not in PARTS:
                _refuse(place, "unknown beside input, expected, metadata and answers", name)
    return columns


def _nested(entries: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Entries of a row as a case: `input.question` goes into `input`."""
    made: dict[str, Any] = {}
    for column, value in entries:
        name = column.removesuffix(":json")
        group, dot, key = name.partition(".")
        if dot and group in GROUPS:
            made.setdefault(group, {})[key] = value
        else:
            made[name] = value
    return made


def _where(place: Place) -> str:
    if "index" in place:
        return f"test_cases.{place['index']}"
    return " ".join(f"{name} {value}" for name, value in place.items() if name != "file")


def _refuse(place: Place, reason: str, field: str | None = None) -> NoReturn:
    parts = [str(place["file"])] if "file" in place else []
    parts += [_where(place)] if _where(place) else []
    parts += [f"field {field!r}"] if field else []
    details = {**place, "reason": reason} | ({"field": field} if field else {})
    raise errors.InvalidCases(
        ": ".join([", ".join(parts), reason] if parts else [reason]), **details
    )
