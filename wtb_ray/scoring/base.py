"""The scorer contract: what a scorer gets and may give, how it is found, checked and called.

A scorer is an async function under `@scorer`. It is found by a built-in name, by the name of an
entry point in the group `wtb_ray.scorers`, or by `"pkg.module:function"`. Guarantees: arguments fit
the function's signature before any cell is scored; `score` gives exactly one `Score` for each
declared metric, finite or null; whatever a scorer raises comes out as `ScorerFailed`. Never
retries, never writes.
"""

import asyncio
import difflib
import functools
import importlib
import inspect
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, Final, SupportsFloat, get_type_hints

import orjson
from pydantic import TypeAdapter, ValidationError

from wtb_ray import errors
from wtb_ray.model import Case, Score, ScorerSpec, Step

ENTRY_POINTS: Final = "wtb_ray.scorers"
"""Entry point group in which packages offer scorers by name."""

BUILT_IN: Final = {
    "exact": "wtb_ray.scoring.text:exact",
    "includes": "wtb_ray.scoring.text:includes",
    "regex": "wtb_ray.scoring.text:regex",
    "numeric": "wtb_ray.scoring.text:numeric",
    "token_f1": "wtb_ray.scoring.text:token_f1",
    "recall_at_k": "wtb_ray.scoring.retrieval:recall_at_k",
    "mrr": "wtb_ray.scoring.retrieval:mrr",
    "json_schema": "wtb_ray.scoring.structure:json_schema",
}
"""Names that are always there; no entry point can replace one."""

_LABEL: Final = re.compile(r"[\w@][\w@./ -]{0,99}")


@dataclass(frozen=True)
class CellOutcome:
    """What a scorer looks at: a case and what one execution made of it."""

    case: Case
    state: Mapping[str, Any]
    """The final state, in Python values."""
    steps: Sequence[Step] = ()
    """Newest first."""
    latency_ms: float | None = None


Reply = SupportsFloat | Mapping[str, SupportsFloat | None] | Score | None
"""What a scorer may give: a number or bool for its one metric, numbers by metric, a `Score` with an
explanation, or None: not scored."""

ScorerFunction = Callable[..., Awaitable[Reply]]


class Scorer:
    """A scorer function with the metrics it declares; called, it is that function."""

    __name__: str
    __qualname__: str

    def __init__(self, function: ScorerFunction, metrics: Sequence[str]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.metrics = tuple(metrics)

    async def __call__(self, result: CellOutcome, **args: Any) -> Reply:
        return await self.function(result, **args)

    def __repr__(self) -> str:
        return f"<scorer {self.path}>"

    def __reduce__(self) -> str:
        return self.__qualname__

    @property
    def path(self) -> str:
        """The import path, `"pkg.module:function"`."""
        return f"{self.__module__}:{self.__qualname__}"

    def spec(self, **args: Any) -> ScorerSpec:
        """The spec that a batch takes, with checked arguments."""
        self.arguments(args)
        names = {path: name for name, path in BUILT_IN.items()}
        return ScorerSpec(name=names.get(self.path, self.path), args=args)

    @functools.cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The function's parameters but the first, which takes the outcome."""
        items = list(inspect.signature(self.function).parameters.items())[1:]
        return dict(items)

    @functools.cached_property
    def _types(self) -> dict[str, TypeAdapter[Any]]:
        return {
            name: TypeAdapter(_annotation(self.function, parameter))
            for name, parameter in self.parameters.items()
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        }

    def arguments(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """The checked keyword arguments of a call, `label` left out.

        Raises:
            InvalidRequest: An argument is unknown, missing or of another type.
        """
        types, checked = self._types, {}
        open_ended = any(p.kind is p.VAR_KEYWORD for p in self.parameters.values())
        for name, value in args.items():
            if name in types:
                checked[name] = self._checked(name, value)
            elif name == "label":
                self._check_label(value)
            elif open_ended:
                checked[name] = value
            else:
                known = ", ".join([*types, "label"])
                raise self._invalid(name, f"unknown; it takes {known}")
        for name in types:
            if name not in checked and self.parameters[name].default is inspect.Parameter.empty:
                raise self._invalid(name, "missing")
        return checked

    def names(self, args: Mapping[str, Any]) -> tuple[str, ...]:
        """The metrics in declared order as they are stored, with arguments and label filled in."""
        declared, label = self._declared(args), self._label(args)
        if label is None:
            return declared
        return (label,) if len(declared) == 1 else tuple(f"{label}.{name}" for name in declared)

    def scores(self, reply: Reply, args: Mapping[str, Any]) -> list[Score]:
        """A reply as one score for each metric.

        Raises:
            ScorerFailed: The reply is no number, not finite, or has a metric that is not declared.
        """
        declared = self._declared(args)
        given = self._by_metric(reply, declared)
        if unknown := [name for name in given if name not in declared]:
            raise self._failed(f"gave the metric {unknown[0]!r}, but declares {list(declared)}")
        return [
            self._score(name, given.get(key))
            for key, name in zip(declared, self.names(args), strict=True)
        ]

    def _by_metric(self, reply: Reply, declared: tuple[str, ...]) -> Mapping[str, Any]:
        match reply:
            case None:
                return {}
            case Score():
                return {reply.metric: reply}
            case Mapping():
                return reply
            case _ if len(declared) == 1:
                return {declared[0]: reply}
        raise self._failed(f"gave {reply!r} for the metrics {list(declared)}; give a dict of them")

    def _score(self, name: str, given: SupportsFloat | Score | None) -> Score:
        explanation = given.explanation if isinstance(given, Score) else None
        raw = given.value if isinstance(given, Score) else given
        if raw is not None and not isinstance(raw, SupportsFloat):
            raise self._failed(f"gave {raw!r} for {name!r}, which is no number")
        value = None if raw is None else float(raw)
        if value is not None and not math.isfinite(value):
            raise self._failed(f"gave {value} for {name!r}; a score is finite, or None")
        return Score(metric=name, value=value, explanation=explanation and _storable(explanation))

    def _declared(self, args: Mapping[str, Any]) -> tuple[str, ...]:
        values = {
            name: args.get(name, parameter.default) for name, parameter in self.parameters.items()
        }
        return tuple(metric.format_map(values) for metric in self.metrics)

    def _label(self, args: Mapping[str, Any]) -> str | None:
        return None if "label" in self.parameters else args.get("label")

    def _check_label(self, value: Any) -> None:
        if not isinstance(value, str) or not _LABEL.fullmatch(value):
            raise self._invalid("label", "up to 100 letters, digits, blanks and any of _@./-")

    def _checked(self, name: str, value: Any) -> Any:
        try:
            # Arguments are JSON wherever they come from, so they are held to JSON's types.
            return self._types[name].validate_json(orjson.dumps(value), strict=True)
        except ValidationError as e:
            first = e.errors(include_url=False)[0]
            place = "".join(f"[{part!r}]" for part in first["loc"])
            raise self._invalid(name, f"{place} {first['msg']}".strip()) from e
        except TypeError as e:
            raise self._invalid(name, f"no JSON value: {e}") from e

    def _invalid(self, name: str, reason: str) -> errors.InvalidRequest:
        return errors.InvalidRequest(
            f"scorer {self.__name__!r}, argument {name!r}: {reason}",
            field=f"args.{name}",
            reason=reason,
        )

    def _failed(self, reason: str) -> errors.ScorerFailed:
        return errors.ScorerFailed(
            f"scorer {self.__name__!r} {reason}", scorer=self.path, reason=reason
        )


def scorer(metrics: Sequence[str]) -> Callable[[ScorerFunction], Scorer]:
    """Declares an async function a scorer that gives these metrics.

    The function takes a `CellOutcome` and keyword arguments, which come from the batch's scorer
    specs and are checked by its annotations. A metric may name arguments: `"recall_at_{k}"`.
    Every scorer also takes the argument `label`, which renames its metric (or is put before each
    of several), so that a batch can use one scorer twice. Higher values are better.

    Raises:
        TypeError: The function is not async, no metric is declared, or one names no parameter.
    """
    if isinstance(metrics, str) or not metrics or len(set(metrics)) < len(metrics):
        raise TypeError(f"metrics is a list of at least one name, each once, not {metrics!r}")

    def declare(function: ScorerFunction) -> Scorer:
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"a scorer is an async function, and {function!r} is not")
        made = Scorer(function, metrics)
        try:
            made.names({})
        except (KeyError, IndexError, ValueError) as e:
            raise TypeError(f"a metric in {metrics!r} names no parameter: {e}") from e
        return made

    return declare


def resolve(spec: ScorerSpec) -> Scorer:
    """The scorer of a spec, with the spec's arguments checked.

    Raises:
        UnknownScorer: No scorer has this name, or it cannot be imported.
        InvalidRequest: An argument is unknown, missing or of another type.
    """
    found = _load(spec.name)
    found.arguments(spec.args)
    return found


def check(spec: ScorerSpec) -> tuple[str, ...]:
    """The metrics that a scorer gives with these arguments.

    Raises:
        UnknownScorer: No scorer has this name, or it cannot be imported.
        InvalidRequest: An argument is unknown, missing or of another type.
    """
    return resolve(spec).names(spec.args)


def validate(specs: Sequence[ScorerSpec], *, importable: bool = True) -> list[str]:
    """The metrics of a batch in the order of its scorers.

    Without `importable`, where the project's code is not at hand, scorers by import path are left
    out.

    Raises:
        UnknownScorer: A scorer does not exist.
        InvalidRequest: An argument does not fit, or two scorers give the same metric.
    """
    owners: dict[str, int] = {}
    for i, spec in enumerate(specs):
        try:
            names = check(spec) if importable or ":" not in spec.name else ()
        except errors.InvalidRequest as e:
            place = f"scorers.{i}.{e.details.get('field', 'name')}"
            raise type(e)(e.message, **{**e.details, "field": place}) from e
        for name in names:
            if (first := owners.setdefault(name, i)) != i:
                raise errors.InvalidRequest(
                    f"scorers.{first} and scorers.{i} both give the metric {name!r};"
                    " rename one with the argument 'label'",
                    field=f"scorers.{i}",
                    reason="double metric",
                )
    return list(owners)


async def score(spec: ScorerSpec, outcome: CellOutcome) -> list[Score]:
    """One score for each metric of the scorer.

    Raises:
        UnknownScorer: No scorer has this name, or it cannot be imported.
        InvalidRequest: An argument is unknown, missing or of another type.
        ScorerFailed: The scorer raised, or gave what is no score.
    """
    found = _load(spec.name)
    args = found.arguments(spec.args)
    try:
        reply = await found.function(outcome, **args)
    except BaseException as e:
        if isinstance(e, GeneratorExit) or _is_cancelled(e):
            raise
        raise errors.ScorerFailed(
            f"scorer {spec.name!r} raised {type(e).__name__}: {e}",
            scorer=spec.name,
            type=type(e).__name__,
            reason=str(e),
        ) from e
    return found.scores(reply, spec.args)


def _is_cancelled(error: BaseException) -> bool:
    """Whether it is the caller that is cancelled, and not something that the scorer waited for."""
    task = asyncio.current_task()
    cancelled = task is not None and task.cancelling() > 0
    return isinstance(error, asyncio.CancelledError) and cancelled


@functools.lru_cache(maxsize=256)
def _load(name: str) -> Scorer:
    if name in BUILT_IN:
        return _imported(BUILT_IN[name])
    if ":" in name:
        return _imported(name)
    points = {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}
    if name in points:
        return _imported(points[name].value)
    known = sorted({*BUILT_IN, *points})
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
    raise errors.UnknownScorer(
        f"no scorer {name!r}; {hint} One of the project is named 'pkg.module:function'.",
        field="name",
        reason="unknown",
        known=known,
    )


def _imported(path: str) -> Scorer:
    module, _, name = path.partition(":")
    try:
        found = attrgetter(name.strip())(importlib.import_module(module.strip()))
    except (Exception, SystemExit) as e:
        reason = f"{type(e).__name__}: {e}"
        raise errors.UnknownScorer(
            f"scorer {path!r} cannot be imported: {reason}", field="name", reason=reason
        ) from e
    if isinstance(found, Scorer):
        return found
    if inspect.iscoroutinefunction(found):  # undecorated: its one metric has its name
        return Scorer(found, [found.__name__])
    raise errors.UnknownScorer(
        f"{path!r} is no scorer: it must be an async function",
        field="name",
        reason=f"it is a {type(found).__name__}",
    )


def _annotation(function: ScorerFunction, parameter: inspect.Parameter) -> Any:
    """The parameter's type; each by itself, as one name only known to type checkers hides no other."""
    if parameter.annotation is inspect.Parameter.empty:
        return Any
    alone = SimpleNamespace(__annotations__={"it": parameter.annotation})
    try:
        scope = getattr(function, "__globals__", {})
        return get_type_hints(alone, globalns=scope, include_extras=True)["it"]
    except NameError:
        return Any


def _storable(text: str) -> str:
    """Text without what Postgres refuses: NUL and lone surrogates."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
