"""Fingerprints of implementations: one digest for the same behaviour, another one for another.

Closures, partial objects and callable objects share their code, so what they hold counts too, and
so do the helper functions of the same package and the constants that the code reads. Addresses,
line numbers and file names do not count. A fingerprint is compared, never executed.
"""

import enum
import functools
import hashlib
import inspect
import pathlib
import pickle
import re
import types
from collections.abc import Mapping
from typing import Any, Final

from wtb_ray.model import canonical

PRIMITIVE: Final = (str, int, float, bool, complex, type(None), type(Ellipsis))
MOST_VALUES: Final = 20_000
DEEPEST: Final = 24


def fingerprint(obj: Any) -> str:
    """SHA-256 in hex of an implementation's code and of the values it carries."""
    return _digest(_Walk().of(obj, 0))


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()


class _Walk:
    """One walk over an object and all that it holds; shared parts are walked once."""

    def __init__(self) -> None:
        self._done: dict[int, Any] = {}
        self._kept: list[Any] = []

    def of(self, obj: Any, depth: int) -> Any:
        if isinstance(obj, PRIMITIVE) and type(obj) in PRIMITIVE:
            return [type(obj).__name__, repr(obj)]
        if isinstance(obj, bytes | bytearray):
            return ["bytes", hashlib.sha256(obj).hexdigest()]
        if id(obj) in self._done:
            return self._done[id(obj)]
        if depth > DEEPEST or len(self._done) > MOST_VALUES:
            return ["deep", _label(type(obj))]
        self._kept.append(obj)  # an id is good only while its object lives
        self._done[id(obj)] = ["cycle", _label(type(obj))]
        self._done[id(obj)] = found = _digest(self._walk(obj, depth + 1))
        return found

    def _walk(self, obj: Any, depth: int) -> Any:
        if isinstance(obj, list | tuple):
            return [_label(type(obj)), [self.of(v, depth) for v in obj]]
        if isinstance(obj, set | frozenset):
            return [_label(type(obj)), sorted(canonical(self.of(v, depth)) for v in obj)]
        if isinstance(obj, Mapping):
            pairs = [[self.of(k, depth), self.of(v, depth)] for k, v in obj.items()]
            return [_label(type(obj)), pairs]
        if isinstance(obj, enum.Enum | pathlib.PurePath | re.Pattern):
            return [_label(type(obj)), repr(obj)]
        if isinstance(obj, types.ModuleType):
            return ["module", obj.__name__]
        if isinstance(obj, type):
            return self._class(obj, depth)
        return self._callable(obj, depth)

    def _callable(self, obj: Any, depth: int) -> Any:
        if isinstance(obj, types.FunctionType):
            return self._function(obj, depth)
        if isinstance(obj, types.MethodType):
            return ["method", self.of(obj.__func__, depth), self.of(obj.__self__, depth)]
        if isinstance(obj, functools.partial):
            return ["partial", *(self.of(v, depth) for v in (obj.func, obj.args, obj.keywords))]
        if isinstance(obj, types.BuiltinFunctionType | types.MethodWrapperType):
            return ["builtin", obj.__qualname__]
        return self._object(obj, depth)

    def _function(self, function: types.FunctionType, depth: int) -> Any:
        wrapped = getattr(function, "__wrapped__", None)
        return [
            "function",
            function.__module__,
            function.__qualname__,
            self._code(function.__code__, depth),
            self.of(function.__defaults__, depth),
            self.of(function.__kwdefaults__, depth),
            [self.of(_cell(cell), depth) for cell in function.__closure__ or ()],
            self._globals(function, depth),
            None if wrapped is None else self.of(wrapped, depth),
        ]

    def _code(self, code: types.CodeType, depth: int) -> Any:
        constants = [
            self._code(c, depth) if isinstance(c, types.CodeType) else self.of(c, depth)
            for c in code.co_consts
        ]
        names = [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
        return [hashlib.sha256(code.co_code).hexdigest(), constants, names, code.co_flags]

    def _globals(self, function: types.FunctionType, depth: int) -> Any:
        """Helpers of the same package and constants by convention: variables may change as it runs."""
        package = function.__module__.partition(".")[0]
        read = {}
        for name in sorted(_names(function.__code__)):
            value = function.__globals__.get(name)
            if isinstance(value, types.FunctionType):
                if value.__module__.partition(".")[0] == package:
                    read[name] = self.of(value, depth)
            elif name.isupper() and isinstance(value, (*PRIMITIVE, bytes, tuple, frozenset)):
                read[name] = self.of(value, depth)
        return read

    def _class(self, cls: type, depth: int) -> Any:
        package = cls.__module__.partition(".")[0]
        functions = {
            f"{base.__qualname__}.{name}": self.of(inspect.unwrap(value), depth)
            for base in cls.__mro__
            if base.__module__.partition(".")[0] == package
            for name, value in sorted(vars(base).items())
            if isinstance(value, types.FunctionType)
        }
        return ["class", _label(cls), functions]

    def _object(self, obj: Any, depth: int) -> Any:
        cls = type(obj)
        state: Any
        if hasattr(obj, "__dict__"):
            kept = sorted(item for item in vars(obj).items() if not _is_computed(cls, item[0]))
            state = [[name, self.of(value, depth)] for name, value in kept]
        elif slots := [s for base in cls.__mro__ for s in getattr(base, "__slots__", ())]:
            state = [
                [s, self.of(getattr(obj, s, None), depth)] for s in slots if s != "__weakref__"
            ]
        else:
            state = _pickled(obj)
        return ["object", self.of(cls, depth), state]


def _names(code: types.CodeType) -> set[str]:
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*(_names(c) for c in inner))


def _is_computed(cls: type, name: str) -> bool:
    """Whether it is there only once somebody asked for it."""
    return isinstance(getattr(cls, name, None), functools.cached_property)


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _label(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _pickled(obj: Any) -> str:
    try:
        return hashlib.sha256(pickle.dumps(obj, protocol=4)).hexdigest()
    except (pickle.PicklingError, TypeError, AttributeError, NotImplementedError):
        return "opaque"
