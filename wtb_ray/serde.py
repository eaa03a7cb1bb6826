"""Values to bytes and back, in LangGraph's own wire format.

What is written here comes back as the type it had, or is refused with `UnstorableValue` when it is
written; LangGraph's serializer would turn it into another type without a word. Its savers read these
bytes, with the type changes they always make (a tuple becomes a list). Types are checked where
ormsgpack meets something that is not plain, so plain values cost nothing extra. Never imports a class
that is not on the allowlist.
"""

import collections
import dataclasses
import enum
import importlib
import ipaddress
import json
import logging
import pathlib
import re
import uuid
import zoneinfo
from collections.abc import Callable, Collection, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import cache
from inspect import Parameter, signature
from typing import Any, Final

import ormsgpack
from langchain_core.messages.base import TextAccessor
from langgraph.checkpoint.serde import jsonplus
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_METHODS, SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.store.base import Item
from langgraph.types import Send
from pydantic import BaseModel, ValidationError

from wtb_ray import errors

logger = logging.getLogger(__name__)

Reduced = tuple[int, Any]
Reducer = Callable[[Any], Reduced]
Name = tuple[str, ...]

ONE, MANY, KEYWORDS = (
    jsonplus.EXT_CONSTRUCTOR_SINGLE_ARG,
    jsonplus.EXT_CONSTRUCTOR_POS_ARGS,
    jsonplus.EXT_CONSTRUCTOR_KW_ARGS,
)
NUMPY_SCALARS: Final = frozenset(
    {"bool", "bool_", "str_", "float16", "float32", "float64"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
EXACT: Final[frozenset[Name]] = frozenset(
    {
        ("builtins", "tuple"),
        ("collections", "Counter"),
        ("collections", "OrderedDict"),
        ("pydantic.types", "SecretStr"),
        ("pydantic.types", "SecretBytes"),
        *(("numpy", name) for name in NUMPY_SCALARS),
    }
)
"""Beyond LangGraph's safe types: what its own readers take for the plain value inside."""

PACK: Final = (
    ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
PACK_ANY: Final = PACK | ormsgpack.OPT_NON_STR_KEYS | ormsgpack.OPT_REPLACE_SURROGATES
BINARY: Final = (b"\xc4", b"\xc5", b"\xc6")
KEYS: Final = frozenset({str, int, float, bool, type(None), bytes})
FLAT: Final = frozenset({str, int, float, bool, type(None), bytes})


def unstorable(cls: type, reason: str) -> errors.UnstorableValue:
    """The error for a value of this class; whoever knows the channel adds it."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    return errors.UnstorableValue(
        f"a value of type {name} cannot be stored: {reason}", type=name, reason=reason
    )


class Allowlist(frozenset[Name]):
    """Names `(module, class)` that may be imported when a value is read, and packages of them."""

    packages: frozenset[str]

    def __new__(cls, names: Iterable[Name] = (), packages: Iterable[str] = ()) -> "Allowlist":
        made = super().__new__(cls, names)
        made.packages = frozenset(packages)
        return made

    def __contains__(self, name: object) -> bool:
        return (
            name in SAFE_MSGPACK_TYPES
            or name in EXACT
            or super().__contains__(name)
            or (isinstance(name, tuple) and str(name[0]).partition(".")[0] in self.packages)
        )


class Serializer(jsonplus.JsonPlusSerializer):
    """LangGraph's serializer, exact: a value comes back as its type or is refused.

    `types` are classes, or `(module, class)`, that may stand in state beside LangGraph's safe ones;
    of `packages` (top-level names) all classes may. LangGraph adds those of a graph's schema.
    It is for one thread at a time.
    """

    def __init__(self, types: Iterable[type | Name] = (), packages: Collection[str] = ()) -> None:
        super().__init__(allowed_msgpack_modules=None)
        self._allow(Allowlist(map(_name, types), packages))

    def _allow(self, allowed: Allowlist) -> None:
        self.allowed = allowed
        self._allowed_msgpack_modules = set(allowed)
        self._unpack_ext_hook = self._revive
        self._reducers: dict[type, Reducer] = dict(REDUCERS)
        self._refused: errors.UnstorableValue | None = None
        self._misfit: errors.InvalidState | None = None

    def with_msgpack_allowlist(self, extra_allowlist: Iterable[type | Name]) -> "Serializer":
        """The same serializer with further types allowed; itself when it allows them already."""
        extra = {_name(item) for item in extra_allowlist}
        if all(name in self.allowed for name in extra):
            return self
        clone = object.__new__(type(self))
        clone.__dict__.update(self.__dict__)
        clone._allow(Allowlist(self.allowed | extra, self.allowed.packages))
        return clone

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """The value as LangGraph's `(type, bytes)`.

        Raises:
            UnstorableValue: It would not come back as its type; `type` and `reason` say why.
        """
        if obj is None:
            return "null", b""
        cls = type(obj)
        if cls is bytes:
            return "bytes", obj
        if cls is bytearray:
            return "bytearray", bytes(obj)
        try:
            return "msgpack", self._pack(obj)
        except _Surrogates:
            return _dump_surrogates(obj) or ("msgpack", self._pack_any(obj))
        except RecursionError as e:
            raise unstorable(cls, "it is nested too deeply or contains itself") from e

    def _pack(self, value: Any) -> bytes:
        try:
            data = ormsgpack.packb(value, self._default, PACK)
        except TypeError as e:
            if refused := self._take_refusal():
                raise refused from None
            if "surrogates" in str(e):
                raise _Surrogates from e
            return self._pack_any(value)
        if any(marker in data for marker in BINARY):
            _inspect(value)
        return data

    def _pack_any(self, value: Any) -> bytes:
        """For dictionary keys that are no strings, and strings that are not Unicode."""
        _inspect(value)
        try:
            return ormsgpack.packb(value, self._default, PACK_ANY)
        except TypeError as e:
            if refused := self._take_refusal():
                raise refused from None
            raise unstorable(type(value), str(e)) from e

    def _take_refusal(self) -> errors.UnstorableValue | None:
        refused, self._refused = self._refused, None
        return refused

    def _default(self, obj: Any) -> ormsgpack.Ext | str:
        # ormsgpack drops the exception of its callback, so it is kept for `_pack`.
        cls = type(obj)
        if cls is TextAccessor:
            return str(obj)
        try:
            reduce = self._reducers.get(cls)
            if reduce is None:
                reduce = self._reducers[cls] = self._reducer(cls)
            code, payload = reduce(obj)
            try:
                return ormsgpack.Ext(code, self._pack(payload))
            except _Surrogates:
                return ormsgpack.Ext(code, self._pack_any(payload))
        except errors.UnstorableValue as e:
            self._refused = e
            raise

    def _reducer(self, cls: type) -> Reducer:
        name = (cls.__module__, cls.__name__)
        if cls is int:
            raise unstorable(cls, "integers are stored up to 64 bits")
        if cls.__module__ == "numpy" and cls.__name__ == "ndarray":
            return _reduce_array
        if name not in self.allowed:
            raise unstorable(cls, "it is none of the graph's state types; list it in state_types")
        if getattr(importlib.import_module(cls.__module__), cls.__name__, None) is not cls:
            raise unstorable(cls, "it is not importable as a module's attribute")
        for matches, make in SHAPES:
            if matches(cls):
                return make(cls)
        raise unstorable(cls, "no way is known to store it")

    def _revive(self, code: int, data: bytes) -> Any:
        payload = self.unpack(data)
        if code == jsonplus.EXT_DELTA_SNAPSHOT:
            return _DeltaSnapshot(payload)
        if code == jsonplus.EXT_NUMPY_ARRAY:
            dtype, shape, order, buffer = payload
            numpy: Any = importlib.import_module("numpy")
            # A view of bytes is read-only, and the array that was stored was not.
            return numpy.frombuffer(buffer, dtype=dtype).reshape(shape, order=order).copy(order)
        module, name, value = payload[:3]
        method = payload[3] if code == jsonplus.EXT_METHOD_SINGLE_ARG else None
        if (module, name) not in self.allowed or (
            method and (module, name, method) not in SAFE_MSGPACK_METHODS
        ):
            _blocked(module, name)
            return value
        try:
            target = getattr(importlib.import_module(module), name)
            return _construct(code, getattr(target, method) if method else target, value)
        except (ImportError, AttributeError, TypeError, ValueError) as e:
            self._misfit = errors.InvalidState(
                f"a stored value does not fit {module}.{name} any more: {e}",
                field=f"{module}.{name}",
                reason=str(e),
            )
            raise self._misfit from e

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """The value again.

        Raises:
            InvalidState: Its class has changed so that this value does not fit it.
        """
        try:
            return super().loads_typed(data)
        except ValueError:
            # ormsgpack drops the exception of its callback here too.
            misfit, self._misfit = self._misfit, None
            if misfit is None:
                raise
            raise misfit from misfit.__cause__

    def unpack(self, data: bytes) -> Any:
        return ormsgpack.unpackb(data, ext_hook=self._revive, option=ormsgpack.OPT_NON_STR_KEYS)


class _Surrogates(Exception):
    """ormsgpack met a string that is not Unicode."""


def _name(item: "type | Name") -> Name:
    return (item.__module__, item.__name__) if isinstance(item, type) else tuple(item)


@cache
def _blocked(module: str, name: str) -> None:
    logger.warning("%s.%s is not among the state types; its plain data is used", module, name)


def _construct(code: int, target: Any, value: Any) -> Any:
    if code in (jsonplus.EXT_PYDANTIC_V1, jsonplus.EXT_PYDANTIC_V2):
        try:
            return target(**value)
        except (ValidationError, ValueError):
            # Stored by field name; a model that only takes aliases was valid when it was stored.
            rebuild = getattr(target, "model_construct", None) or target.construct
            return rebuild(**value)
    if code == KEYWORDS:
        return target(**value)
    if code == MANY:
        if target is Send and len(value) == 3:
            return Send(value[0], value[1], timeout=value[2])
        return target(*value)
    return target(value)


def _dump_surrogates(value: Any) -> tuple[str, bytes] | None:
    """JSON keeps lone surrogates; None where JSON would change something else."""
    text = json.dumps(value) if _is_json(value) else None
    return ("json", text.encode()) if text is not None and '"lc"' not in text else None


def _is_json(value: Any) -> bool:
    cls = type(value)
    if cls is dict:
        return all(type(key) is str and _is_json(item) for key, item in value.items())
    if cls is list:
        return all(map(_is_json, value))
    return cls in FLAT and cls is not bytes


def _inspect(value: Any) -> None:
    """Refuses what ormsgpack packs as another type without asking: some keys, nested bytearrays."""
    stack, seen = [value], set[int]()
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        cls = type(value)
        if cls is dict:
            _inspect_keys(value)
            items: Collection[Any] = value.values()
        elif cls is list:
            items = value
        else:
            items = ()
        for kind in set(map(type, items)) - FLAT:
            if kind is bytearray or kind is memoryview:
                raise unstorable(kind, "inside other values it would come back as bytes")
            if kind is dict or kind is list:
                stack += [item for item in items if type(item) is kind]


def _inspect_keys(keys: Iterable[Any]) -> None:
    for kind in set(map(type, keys)) - KEYS:
        if kind is not tuple:
            raise unstorable(kind, "as a dictionary key it would come back as another type")
        for key in keys:
            if type(key) is tuple:
                _inspect_keys(key)


# --- one way per kind of object: (code, [module, name, payload]) ---


def _single(payload: Callable[[Any], Any]) -> Callable[[type], Reducer]:
    return lambda cls: lambda obj: (ONE, [cls.__module__, cls.__name__, payload(obj)])


def _reduce_deque(obj: "collections.deque[Any]") -> Reduced:
    if obj.maxlen is None:
        return ONE, ["collections", "deque", list(obj)]
    return MANY, ["collections", "deque", [list(obj), obj.maxlen]]


def _reduce_datetime(obj: datetime) -> Reduced:
    if not obj.fold and (obj.tzinfo is None or type(obj.tzinfo) is timezone):
        return jsonplus.EXT_METHOD_SINGLE_ARG, [
            *("datetime", "datetime", obj.isoformat(), "fromisoformat")
        ]
    fields = ("year", "month", "day", "hour", "minute", "second", "microsecond", "tzinfo", "fold")
    return KEYWORDS, ["datetime", "datetime", {field: getattr(obj, field) for field in fields}]


def _reduce_time(obj: time) -> Reduced:
    fields = ("hour", "minute", "second", "microsecond", "tzinfo", "fold")
    return KEYWORDS, ["datetime", "time", {field: getattr(obj, field) for field in fields}]


def _reduce_zone(obj: zoneinfo.ZoneInfo) -> Reduced:
    if obj.key is None:
        raise unstorable(type(obj), "it has no key")
    return ONE, ["zoneinfo", "ZoneInfo", obj.key]


def _reduce_send(obj: Send) -> Reduced:
    timeout = getattr(obj, "timeout", None)
    arguments = [obj.node, obj.arg] if timeout is None else [obj.node, obj.arg, timeout]
    return MANY, ["langgraph.types", "Send", arguments]


def _reduce_array(obj: Any) -> Reduced:
    if obj.dtype.hasobject or obj.dtype.names is not None:
        raise unstorable(type(obj), f"arrays of {obj.dtype} have no portable bytes")
    order = "F" if obj.flags.f_contiguous and not obj.flags.c_contiguous else "C"
    return jsonplus.EXT_NUMPY_ARRAY, [
        *(obj.dtype.str, list(obj.shape), order, obj.tobytes(order=order))
    ]


def _reduce_delta(obj: _DeltaSnapshot) -> Reduced:
    return jsonplus.EXT_DELTA_SNAPSHOT, obj.value


def _reduce_model(cls: type) -> Reducer:
    """A pydantic model by its fields, so that nested models keep their own class."""
    name = [cls.__module__, cls.__name__]
    decorators: Any = getattr(cls, "__pydantic_decorators__", None)
    if decorators and (decorators.field_serializers or decorators.model_serializers):
        return lambda obj: (
            jsonplus.EXT_PYDANTIC_V2,
            [*name, obj.model_dump(), "model_validate_json"],
        )
    return lambda obj: (
        jsonplus.EXT_PYDANTIC_V2,
        [*name, {**obj.__dict__, **(obj.__pydantic_extra__ or {})}, "model_validate_json"],
    )


def _reduce_old_model(cls: type) -> Reducer:
    name = [cls.__module__, cls.__name__]
    return lambda obj: (jsonplus.EXT_PYDANTIC_V1, [*name, dict(obj.__dict__)])


def _reduce_dataclass(cls: Any) -> Reducer:
    fields = [field.name for field in dataclasses.fields(cls)]
    accepted = signature(cls).parameters.values()
    open_ended = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in accepted)
    known = {parameter.name for parameter in accepted}
    required = {
        parameter.name
        for parameter in accepted
        if parameter.default is Parameter.empty
        and parameter.kind not in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)
    }
    if not required <= set(fields) or not (open_ended or set(fields) <= known):
        raise unstorable(cls, "its fields are not the arguments that make it")
    name = [cls.__module__, cls.__name__]
    return lambda obj: (KEYWORDS, [*name, {field: getattr(obj, field) for field in fields}])


def _reduce_namedtuple(cls: type) -> Reducer:
    return lambda obj: (KEYWORDS, [cls.__module__, cls.__name__, obj._asdict()])


def _reduce_item(cls: type) -> Reducer:
    slots: Any = Item.__slots__
    return lambda obj: (
        KEYWORDS,
        [cls.__module__, cls.__name__, {slot: getattr(obj, slot) for slot in slots}],
    )


_text: Final = _single(str)
REDUCERS: Final[dict[type, Reducer]] = {
    **{cls: _single(list)(cls) for cls in (tuple, set, frozenset)},
    **{cls: _single(dict)(cls) for cls in (collections.Counter, collections.OrderedDict)},
    collections.deque: _reduce_deque,
    uuid.UUID: _single(lambda obj: obj.hex)(uuid.UUID),
    Decimal: _text(Decimal),
    **{
        cls: _text(cls)
        for cls in (
            ipaddress.IPv4Address,
            ipaddress.IPv4Interface,
            ipaddress.IPv4Network,
            ipaddress.IPv6Address,
            ipaddress.IPv6Interface,
            ipaddress.IPv6Network,
        )
    },
    datetime: _reduce_datetime,
    date: lambda obj: (MANY, ["datetime", "date", [obj.year, obj.month, obj.day]]),
    time: _reduce_time,
    timedelta: lambda obj: (
        MANY,
        ["datetime", "timedelta", [obj.days, obj.seconds, obj.microseconds]],
    ),
    timezone: lambda obj: (MANY, ["datetime", "timezone", list(obj.__getinitargs__())]),
    zoneinfo.ZoneInfo: _reduce_zone,
    type(pathlib.Path()): lambda obj: (
        MANY,
        [type(obj).__module__, type(obj).__name__, list(obj.parts)],
    ),
    re.Pattern: lambda obj: (MANY, ["re", "compile", [obj.pattern, obj.flags]]),
    Send: _reduce_send,
    _DeltaSnapshot: _reduce_delta,
}
SHAPES: Final[tuple[tuple[Callable[[type], bool], Callable[[type], Reducer]], ...]] = (
    (lambda cls: issubclass(cls, enum.Enum), _single(lambda obj: obj.value)),
    (lambda cls: cls.__module__ == "numpy", _single(lambda obj: obj.item())),
    (lambda cls: issubclass(cls, BaseModel), _reduce_model),
    (lambda cls: hasattr(cls, "get_secret_value"), _single(lambda obj: obj.get_secret_value())),
    (lambda cls: hasattr(cls, "dict") and hasattr(cls, "__fields__"), _reduce_old_model),
    (dataclasses.is_dataclass, _reduce_dataclass),
    (lambda cls: issubclass(cls, tuple) and hasattr(cls, "_asdict"), _reduce_namedtuple),
    (lambda cls: cls is Item, _reduce_item),
)
