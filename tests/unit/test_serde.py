"""Values come back as the type they had, or are refused when they are written."""

import collections
import dataclasses
import enum
import ipaddress
import pathlib
import re
import uuid
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Command, Interrupt, Overwrite, Send
from pydantic import BaseModel, Field, SecretStr, field_serializer

from wtb_ray import errors
from wtb_ray.serde import Serializer
from wtb_ray.views import view


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(enum.StrEnum):
    YES = "yes"


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: tuple[int, ...] = ()


@dataclasses.dataclass
class Computed:
    x: int
    double: int = dataclasses.field(init=False, default=0)


class Pair(NamedTuple):
    left: int
    right: str


class Base(BaseModel):
    name: str


class Special(Base):
    weight: float = 1.0


class Holder(BaseModel):
    item: Base
    anything: Any = None
    hidden: int = Field(default=0, exclude=True)
    renamed: int = Field(default=0, alias="re-named")


class Serialised(BaseModel):
    when: datetime

    @field_serializer("when")
    def text(self, when: datetime) -> str:
        return when.isoformat()


class Text(str):
    __slots__ = ()


TYPES = (Colour, Level, Word, Point, Computed, Pair, Base, Special, Holder, Serialised)
SERDE = Serializer(TYPES)


def same(left: Any, right: Any) -> bool:
    """Equal in value and in the type of every part."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(left, dict):
        return all(same(a, b) and same(left[a], right[b]) for a, b in zip(left, right, strict=True))
    if isinstance(left, list | tuple | collections.deque):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, set | frozenset):
        return {(type(a), a) for a in left} == {(type(b), b) for b in right}
    return bool(left == right) or left != left


BACK = [
    (1, 2, ("a", (None,))),
    [(1,), [2], {"k": (3, [4])}],
    {(1, 2), (3, 4)},
    frozenset({("a", 1), 2}),
    {
        (1, (2, "x")): "tuple keys",
        1: "int",
        1.5: "float",
        None: "none",
        b"b": "bytes",
        False: "bool",
    },
    collections.deque([1, (2,)], maxlen=3),
    collections.deque([1]),
    collections.Counter("abba"),
    collections.OrderedDict(b=(1,), a=2),
    2**63,
    -(2**63),
    [float("nan"), float("inf"), -0.0, 1e300],
    "a\x00b",
    {"nested": ["a\x00b", "\x7f", "ü", "😀"]},
    "lone \ud83d surrogate",
    {"nested": ["\udfff", {"k": 1, "float": 2.5}]},
    b"bytes",
    bytearray(b"mutable"),
    [b"inside", {"k": b"\xc4"}],
    datetime(2026, 1, 2, 3, 4, 5, 6),  # noqa: DTZ001
    datetime(2026, 1, 2, tzinfo=UTC),
    datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))),
    datetime(2026, 10, 25, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1),
    date(2026, 1, 2),
    time(1, 2, 3, 4, tzinfo=UTC, fold=1),
    timedelta(days=1, microseconds=3),
    uuid.UUID(int=7),
    Decimal("1.10"),
    pathlib.Path("/a/b"),
    re.compile("a+", re.IGNORECASE),
    ipaddress.ip_address("10.0.0.1"),
    ipaddress.ip_network("2001:db8::/32"),
    zoneinfo.ZoneInfo("Europe/Berlin"),
    Colour.RED,
    [Level.HIGH, Word.YES],
    Point(1, (2, 3)),
    {"points": [Point(1), Point(2, (3,))]},
    Pair(1, "a"),
    Base(name="a"),
    Holder(item=Special(name="a", weight=2), anything=(Base(name="b"), 1), hidden=5),
    Serialised(when=datetime(2026, 1, 2, tzinfo=UTC)),
    SecretStr("s"),
    np.arange(6, dtype=np.int32).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(10)[::3],
    np.array(["2026-01-01"], dtype="M8[D]"),
    [np.float64(1.5), np.float32(0.1), np.int64(3), np.bool_(True)],
    HumanMessage("hi", id="1", additional_kwargs={"k": ("t",)}),
    AIMessage("", tool_calls=[{"name": "f", "args": {"x": 1}, "id": "c"}]),
    [ToolMessage("out", tool_call_id="c", artifact={"raw": (1, 2)})],
    Document("text", metadata={"page": 3}),
    Send("node", {"x": (1, 2)}),
    Interrupt(value={"ask": ("a", "b")}, id="i"),
    Command(update={"x": (1,)}, goto=(Send("n", 1),)),
    Overwrite(value=(1, 2)),
    None,
    True,
]


def _named(value: Any) -> str:
    shown = sorted(value, key=repr) if isinstance(value, frozenset | set) else value
    return f"{type(value).__name__}:{shown!r}"[:60]


@pytest.mark.parametrize("value", BACK, ids=_named)
def test_comes_back_exactly(value: Any) -> None:
    back = SERDE.loads_typed(SERDE.dumps_typed(value))
    assert same(value, back), (value, back)


def test_models_keep_the_classes_inside_them() -> None:
    holder = Holder(item=Special(name="a", weight=2), anything=Base(name="b"), hidden=5)
    back = SERDE.loads_typed(SERDE.dumps_typed(holder))
    assert type(back.item) is Special
    assert type(back.anything) is Base
    assert back.hidden == 5


def test_an_array_can_be_written_to_when_it_comes_back() -> None:
    back = SERDE.loads_typed(SERDE.dumps_typed([Point(1), {"array": np.zeros(3)}]))
    back[1]["array"] += 1
    assert back[1]["array"].tolist() == [1, 1, 1]


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(-(2**63), 2**63), inner, max_size=4)
        | st.lists(inner, max_size=4).map(collections.deque)
    ),
    max_leaves=20,
)


@given(plain_values)
def test_any_plain_value_comes_back_exactly(value: Any) -> None:
    assert same(value, SERDE.loads_typed(SERDE.dumps_typed(value)))


def local() -> Iterator[Any]:
    class Local(BaseModel):
        x: int = 1

    yield Local()


class Cycle(list[Any]):
    pass


def cycle() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


REFUSED = {
    "an unknown class": (object(), "builtins.object"),
    "inside": ([{"k": (1, object())}], "builtins.object"),
    "in a dataclass": (Point(1, (object(),)), "builtins.object"),  # type: ignore[arg-type]
    "str subclass": (Text("a"), "Text"),
    "list subclass": (Cycle(), "Cycle"),
    "defaultdict": ({"k": collections.defaultdict(list)}, "collections.defaultdict"),
    "large integer": ([2**64], "builtins.int"),
    "large integer as key": ({2**64: 1}, ""),
    "complex": (1j, "builtins.complex"),
    "enum key": ({Colour.RED: 1}, "Colour"),
    "str subclass key": ({Text("a"): 1}, "Text"),
    "enum in a tuple key": ({(Word.YES, 1): 1}, "Word"),
    "date key": ({date(2026, 1, 1): 1}, "datetime.date"),
    "frozenset key": ({frozenset(): 1}, "builtins.frozenset"),
    "nested bytearray": ([bytearray(b"x")], "builtins.bytearray"),
    "memoryview": ({"k": [memoryview(b"x")]}, "builtins.memoryview"),
    "local class": (next(local()), "Local"),
    "dataclass with computed fields": (Computed(1), "Computed"),
    "exception": (ValueError("x"), "builtins.ValueError"),
    "function": (same, "builtins.function"),
    "class": (Point, "builtins.type"),
    "object array": (np.array([object()]), "numpy.ndarray"),
    "structured array": (np.zeros(1, dtype=[("a", "i4")]), "numpy.ndarray"),
    "array subclass": (np.ma.masked_array([1]), "MaskedArray"),
    "longdouble": (np.longdouble(1), "longdouble"),
    "cycle": (cycle(), "builtins.list"),
    "annotation": (Annotated[int, 1], "typing._AnnotatedAlias"),
}


@pytest.mark.parametrize(("value", "name"), REFUSED.values(), ids=REFUSED)
def test_is_refused_with_its_type(value: Any, name: str) -> None:
    serde = Serializer((*TYPES, Text, Cycle))
    with pytest.raises(errors.UnstorableValue) as refused:
        serde.dumps_typed(value)
    assert name in refused.value.details["type"]
    assert refused.value.details["reason"]


def test_a_class_must_be_allowed_to_be_written() -> None:
    with pytest.raises(errors.UnstorableValue, match="state_types"):
        Serializer().dumps_typed(Point(1))
    allowed = Serializer().with_msgpack_allowlist([(Point.__module__, "Point")])
    assert allowed.loads_typed(allowed.dumps_typed(Point(1))) == Point(1)
    package = Serializer(packages=[Point.__module__.partition(".")[0]])
    assert package.loads_typed(package.dumps_typed([Point(1)])) == [Point(1)]


def test_a_class_that_is_not_allowed_is_not_imported_when_read() -> None:
    stored = SERDE.dumps_typed([Point(1)])
    assert Serializer().loads_typed(stored) == [{"x": 1, "y": ()}]


def test_a_value_that_does_not_fit_its_class_any_more_is_an_error() -> None:
    stored = SERDE.dumps_typed([Point(1)])
    changed = (stored[0], stored[1].replace(b"\xa1x", b"\xa1z"))
    with pytest.raises(errors.InvalidState, match="Point"):
        SERDE.loads_typed(changed)


def test_allowing_what_is_allowed_makes_no_new_serializer() -> None:
    assert SERDE.with_msgpack_allowlist([(Point.__module__, "Point"), ("uuid", "UUID")]) is SERDE


def test_a_serializer_works_after_a_refusal() -> None:
    serde = Serializer()
    with pytest.raises(errors.UnstorableValue):
        serde.dumps_typed([object()])
    with pytest.raises(errors.UnstorableValue, match="dictionary key"):
        serde.dumps_typed({Colour.RED: 1})
    assert serde.loads_typed(serde.dumps_typed([(1,)])) == [(1,)]


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ((1, (2,)), [1, [2]]),
        ([np.float64(1.5)], [1.5]),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        ({"k": {1, 2}}, {"k": {1, 2}}),
        ([Point(1, (2,))], [Point(1, [2])]),  # type: ignore[arg-type]
        (Special(name="a"), Special(name="a")),
        ("lone \ud83d", "lone \ud83d"),
        (collections.deque([1], maxlen=2), collections.deque([1], maxlen=2)),
        (datetime(2026, 10, 25, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1), ...),
    ],
    ids=str,
)
def test_langgraphs_serializer_reads_it(value: Any, read: Any) -> None:
    theirs = JsonPlusSerializer(allowed_msgpack_modules=TYPES)
    assert theirs.loads_typed(SERDE.dumps_typed(value)) == (value if read is ... else read)


@pytest.mark.parametrize(
    "value",
    [
        [1, "a", {"k": [None, 1.5]}],
        {1: 2},
        {1, 2},
        Colour.RED,
        HumanMessage("hi", id="1"),
        Base(name="a"),
        datetime(2026, 1, 2, tzinfo=UTC),
        Send("n", {"x": 1}),
        b"b",
        np.arange(3.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_langgraphs_serializer_wrote_is_read(value: Any) -> None:
    theirs = JsonPlusSerializer(allowed_msgpack_modules=TYPES)
    assert same(SERDE.loads_typed(theirs.dumps_typed(value)), value)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        ({"a": (1, 2.5), 3: "x"}, {"a": [1, 2.5], "3": "x"}),
        (Point(1, (2,)), {"__type__": f"{Point.__module__}.Point", "x": 1, "y": [2]}),
        ({1}, {"__type__": "builtins.set", "value": [1]}),
        (b"ab", {"__type__": "builtins.bytes", "base64": "YWI="}),
        ([float("nan")], [{"__type__": "builtins.float", "value": "nan"}]),
        (Decimal("1.5"), {"__type__": "decimal.Decimal", "value": "1.5"}),
        (
            np.ones((1, 2)),
            {"__type__": "numpy.ndarray", "dtype": "<f8", "values": [[1.0, 1.0]]},
        ),
        ("lone \ud83d", "lone ?"),
        (
            {"m": Base(name="a")},
            {"m": {"__type__": f"{Base.__module__}.Base", "name": "a"}},
        ),
    ],
    ids=str,
)
def test_the_view_is_plain_json(value: Any, shown: Any) -> None:
    assert view(*SERDE.dumps_typed(value)) == shown
