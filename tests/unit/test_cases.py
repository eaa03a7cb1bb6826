"""Case files and lists: every form that is read, and every way to be refused with its place."""

import io
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wtb_ray import errors
from wtb_ray.cases import from_list, load_cases
from wtb_ray.model import Case, canonical

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def refused(load: Callable[[], object]) -> dict[str, Any]:
    """The details of the error, without the file, which must be in them for files."""
    with pytest.raises(errors.InvalidCases) as e:
        load()
    details = dict(e.value.details)
    if file := details.pop("file", None):
        assert str(e.value).startswith(file)
    return details


def test_a_list_takes_cases_objects_and_bare_inputs() -> None:
    assert from_list(
        [
            Case(id="a", input={"q": 1}, expected=2),
            {"id": "b", "input": {"q": 2}, "expected": [1], "metadata": {"k": 1}},
            {"id": "c", "question": "x", "expected": "y"},
            {"id": "d", "question": "x", "answers": [True, None, {"k": [1]}]},
        ]
    ) == [
        Case(id="a", input={"q": 1}, expected=2),
        Case(id="b", input={"q": 2}, expected=[1], metadata={"k": 1}),
        Case(id="c", input={"question": "x"}, expected="y"),
        Case(id="d", input={"question": "x"}, answers=(True, None, {"k": [1]})),
    ]


def test_without_any_id_cases_are_numbered() -> None:
    assert [case.id for case in from_list([{"query": "x"}, {"query": "y"}])] == [
        "case-0001",
        "case-0002",
    ]
    many = from_list([{"query": i} for i in range(12_345)])
    assert (many[0].id, many[-1].id) == ("case-00001", "case-12345")


def test_values_of_a_list_come_back_as_json_has_them() -> None:
    at = datetime(2024, 5, 1, tzinfo=UTC)
    (case,) = from_list([{"input": {"pair": (1, 2), "at": at, 3: "x"}}])
    assert case.input == {"pair": [1, 2], "at": "2024-05-01T00:00:00+00:00", "3": "x"}


@pytest.mark.parametrize(
    ("items", "details"),
    [
        ([], {"reason": "there are no cases"}),
        (["x"], {"index": 0, "reason": "a case is an object, not str"}),
        ([{"id": "a"}], {"index": 0, "field": "input", "reason": "there is no input"}),
        (
            [{"id": "a", "input": "x"}],
            {"index": 0, "field": "input", "reason": "an object is needed, not 'x'"},
        ),
        (
            [{"input": {}, "metadata": [1]}],
            {"index": 0, "field": "metadata", "reason": "an object is needed, not [1]"},
        ),
        (
            [{"input": {}, "expectd": 1}],
            {
                "index": 0,
                "field": "expectd",
                "reason": "unknown beside input; there are id, input, expected, metadata, answers",
            },
        ),
        (
            [{"q": 1, "answers": {"ask": 1}}],
            {"index": 0, "field": "answers", "reason": "a list is needed, not dict"},
        ),
        (
            [{"q": 1}, {"input": {}, "answers": "yes"}],
            {"index": 1, "field": "answers", "reason": "a list is needed, not str"},
        ),
        (
            [{"q": 1, "answers": [1] * 1001}],
            {"index": 0, "field": "answers", "reason": "1001 are more than 1000"},
        ),
        (
            [{"q": 1, "answers": ["x" * 2**20]}],
            {"index": 0, "field": "answers", "reason": "they take more than 1024 KiB"},
        ),
        (
            [{"id": "a", "q": 1}, {"q": 2}],
            {"index": 1, "field": "id", "reason": "other cases have an id and this one has none"},
        ),
        (
            [{"id": 1, "q": 1}, {"id": "1", "q": 2}],
            {"index": 1, "field": "id", "reason": "'1' is the id of test_cases.0 too"},
        ),
        (
            [{"id": True, "q": 1}],
            {"index": 0, "field": "id", "reason": "a text is needed, not True"},
        ),
        (
            [{"id": "a\x00", "q": 1}],
            {"index": 0, "field": "id", "reason": "'a\\x00' has control characters"},
        ),
    ],
)
def test_lists_are_refused_with_the_place(items: list[Any], details: dict[str, Any]) -> None:
    assert refused(lambda: from_list(items)) == details


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), "\ud800", 2**70, b"x", object()])
def test_what_is_no_json_is_refused(value: Any) -> None:
    details = refused(lambda: from_list([{"q": 1}, {"input": {"q": [value]}}]))
    assert (details["index"], details["field"]) == (1, "input")
    assert details["reason"].startswith("no JSON: ")


def test_answers_come_from_every_kind_of_file(write: Write, tmp_path: Path) -> None:
    wanted = [Case(id="a", input={"q": "x"}, answers=("yes", 2)), Case(id="b", input={"q": "y"})]
    lines = '{"id": "a", "q": "x", "answers": ["yes", 2]}\n{"id": "b", "input": {"q": "y"}}'
    assert load_cases(write("cases.jsonl", lines)) == wanted
    for header in ("id,q,answers", "id,input.q,answers"):
        text = f'{header}\na,x,"[""yes"", 2]"\nb,y,'
        assert load_cases(write("cases.csv", text)) == wanted
    frame = pl.DataFrame({"id": ["a"], "q": ["x"], "answers": [["yes", "no"]]})
    frame.write_parquet(tmp_path / "cases.parquet")
    assert load_cases(tmp_path / "cases.parquet")[0].answers == ("yes", "no")
    path = write("cases.csv", "id,q,answers\na,x,[yes")
    details = refused(lambda: load_cases(path))
    assert (details["line"], details["field"]) == (2, "answers")


def test_too_long_ids_are_refused() -> None:
    details = refused(lambda: from_list([{"id": "x" * 201, "q": 1}]))
    assert (details["index"], details["field"]) == (0, "id")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.floats(-1e6, 1e6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.dictionaries(st.text(), json_values, max_size=3), min_size=1, max_size=5))
def test_lists_and_jsonl_files_give_the_same_cases(inputs: list[dict[str, Any]]) -> None:
    items = [{"id": str(i), "input": item, "expected": item} for i, item in enumerate(inputs)]
    cases = from_list(items)
    assert [case.input for case in cases] == inputs
    text = "\n".join(canonical(item) for item in items)
    assert from_list(_jsonl(text)) == cases


def _jsonl(text: str) -> list[Any]:
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as f:
        f.write(text.encode())
        f.flush()
        return list(load_cases(f.name))


def test_jsonl_skips_blank_lines_and_the_mark(write: Write) -> None:
    path = write(
        "c.jsonl",
        b'\xef\xbb\xbf{"id": "a", "input": {"q": "x"}}\r\n\r\n  \n'
        b'{"id": "b", "input": {"q": "\xe2\x80\xa8"}}',
    )
    assert load_cases(path) == [Case(id="a", input={"q": "x"}), Case(id="b", input={"q": "\u2028"})]


@pytest.mark.parametrize(
    ("text", "line", "field", "reason"),
    [
        ('{"q": 1}\n{"q": 2', 2, None, "no JSON"),
        ('{"q": 1}\n\n[1]', 3, None, "a line holds an object, not list"),
        ('{"q": 1}\n{"q": "\xff"}'.encode("latin-1"), 2, None, "no JSON"),
        ('{"q": NaN}', 1, None, "no JSON"),
        ('{"id": "a", "q": 1}\n\n{"id": "a", "q": 2}', 3, "id", "'a' is the id of line 1 too"),
        ('{"id": "a", "q": 1}\n{"q": 2}', 2, "id", "other cases have an id"),
        ('{"input": {"q": 1}}\n{"input": 5}', 2, "input", "an object is needed, not 5"),
    ],
)
def test_jsonl_is_refused_with_the_line(
    write: Write, text: str | bytes, line: int, field: str | None, reason: str
) -> None:
    path = write("c.jsonl", text)
    details = refused(lambda: load_cases(path))
    assert (details["line"], details.get("field")) == (line, field)
    assert details["reason"].startswith(reason)


def test_csv_columns_become_parts(write: Write) -> None:
    path = write(
        "c.csv",
        "\ufeffid,input.question,input.k:json,expected,metadata.tag\n"
        'a,"Who, and\nwhere?",3,Paris,geo\n'
        "\n"
        ',"",,,\n'
        'b,Why?,,"[1, 2]",\n',
    )
    assert load_cases(path) == [
        Case(
            id="a",
            input={"question": "Who, and\nwhere?", "k": 3},
            expected="Paris",
            metadata={"tag": "geo"},
        ),
        Case(id="b", input={"question": "Why?"}, expected=[1, 2]),
    ]


def test_csv_takes_json_columns_and_bare_inputs(write: Write) -> None:
    path = write("a.csv", 'input,expected.answer\n"{""q"": 1}",x\n')
    assert load_cases(path) == [Case(id="case-0001", input={"q": 1}, expected={"answer": "x"})]
    path = write("b.CSV", "question,expected\nWhy?,42\n")
    assert load_cases(path) == [Case(id="case-0001", input={"question": "Why?"}, expected="42")]


@pytest.mark.parametrize(
    ("text", "line", "field", "reason"),
    [
        ("q,expected\n1,2\n1,2,3\n", 3, None, "3 cells under 2 columns"),
        ('q,expected\n1,2\n"a\nb",2\n3\n', 5, None, "1 cells under 2 columns"),
        ('q\nx\n\n"never closed\nand on', 4, None, "no CSV"),
        ('q\nx\n"a"b\n', 3, None, "no CSV"),
        (b"q\nx\n\xff\n", 3, None, "no UTF-8"),
        ("q\nx\n" + "y" * 200_000, 3, None, "no CSV: field larger"),
        ("q,q\n1,2\n", 1, "q", "the column is there twice"),
        ("q,q:json\n1,2\n", 1, "q", "the column is there twice"),
        ("q,\n1,2\n", 1, None, "a column has no name"),
        ("input.q,other\n1,2\n", 1, "other", "unknown beside input"),
        ("input,input.q\n{},2\n", 1, "input", "there are columns input.NAME too"),
        ('input\n"{""q"": 1}"\n"{""q"": "\n', 3, "input", "no JSON"),
        ("input\n[1]\n", 2, "input", "an object is needed, not [1]"),
        ("id,expected\na,b\n", 2, "input", "there is no input"),
        ("id,q\na,1\n,2\n", 3, "id", "other cases have an id"),
        ("id,q\na,1\n\na,2\n", 4, "id", "'a' is the id of line 2 too"),
        ("q,k:json\n1,oops\n", 2, "k:json", "no JSON"),
    ],
)
def test_csv_is_refused_with_the_line(
    write: Write, text: str | bytes, line: int, field: str | None, reason: str
) -> None:
    path = write("c.csv", text)
    details = refused(lambda: load_cases(path))
    assert (details["line"], details.get("field")) == (line, field)
    assert details["reason"].startswith(reason)


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


FRAME = pl.DataFrame(
    {
        "id": ["a", "b"],
        "input.question": ["Why?", "Where?"],
        "input.at": [datetime(2024, 5, 1), None],  # noqa: DTZ001 - a Parquet file may hold it
        "expected": [["x", "y"], []],
        "metadata": [{"k": 1}, {"k": None}],
    }
)


def test_parquet_keeps_types(write: Write) -> None:
    assert load_cases(write("c.parquet", parquet(FRAME))) == [
        Case(
            id="a",
            input={"question": "Why?", "at": "2024-05-01T00:00:00"},
            expected=["x", "y"],
            metadata={"k": 1},
        ),
        Case(id="b", input={"question": "Where?"}, expected=[], metadata={"k": None}),
    ]
    numbered = pl.DataFrame({"id": [1, 2], "input": [{"q": 1}, {"q": 2}]})
    assert [case.id for case in load_cases(write("n.parquet", parquet(numbered)))] == ["1", "2"]


@pytest.mark.parametrize(
    ("column", "row", "reason"),
    [
        (pl.Series("input.question", [1.0, float("nan")]), 2, "no JSON"),
        (pl.Series("input.question", [b"a", b"b"]), 1, "no JSON: bytes has no JSON form"),
        (pl.Series("id", ["a", "a"]), 2, "'a' is the id of row 1 too"),
        (pl.Series("id", ["a", None]), 2, "other cases have an id"),
    ],
)
def test_parquet_is_refused_with_the_row(
    write: Write, column: pl.Series, row: int, reason: str
) -> None:
    path = write("c.parquet", parquet(FRAME.with_columns(column)))
    details = refused(lambda: load_cases(path))
    assert (details["row"], details["field"]) == (row, column.name)
    assert details["reason"].startswith(reason)


@pytest.mark.parametrize("keep", [0, 3, 40, 300, -1, -8, -60])
def test_truncated_parquet_is_refused(write: Write, keep: int) -> None:
    path = write("c.parquet", parquet(FRAME)[:keep])
    assert refused(lambda: load_cases(path))["reason"].startswith("no Parquet: ")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("c.xlsx", "", "a case file ends in .jsonl, .ndjson, .csv, .parquet"),
        ("c.jsonl", "\n \n", "there are no cases"),
        ("c.csv", "", "there are no cases"),
        ("c.csv", "q\n", "there are no cases"),
    ],
)
def test_files_without_cases_are_refused(write: Write, name: str, text: str, reason: str) -> None:
    path = write(name, text)
    with pytest.raises(errors.InvalidCases) as e:
        load_cases(path)
    assert e.value.details == {"file": str(path), "reason": reason}
    assert str(e.value) == f"{path}: {reason}"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refused(lambda: load_cases(tmp_path / "no.jsonl")) == {
        "reason": "No such file or directory"
    }
    (tmp_path / "d.csv").mkdir()
    assert refused(lambda: load_cases(tmp_path / "d.csv")) == {"reason": "Is a directory"}
