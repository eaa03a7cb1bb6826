"""Which nodes can run in an actor of their own, and what they say of themselves there.

What cannot cross is refused when a project is registered: a subgraph, LangGraph's store, managed
values such as `RemainingSteps`, an error handler, and a schema that the graph's process would need.
"""

import dataclasses
import typing
from typing import Any, Final

from langgraph._internal._runnable import RunnableCallable

from wtb_ray import errors
from wtb_ray.bindings import Apart
from wtb_ray.entries import Graph, fingerprint_of, home, is_graph, node_info
from wtb_ray.environment import EnvSpec
from wtb_ray.model import digest

UNCROSSED: Final = {
    "store": "LangGraph's store, which is in the process of the graph",
    "previous": "the previous return value of a functional graph",
    "error": "the error of another node",
}
"""Parameters of a node that LangGraph fills, and that cannot be had elsewhere."""


@dataclasses.dataclass(frozen=True)
class Description:
    """What a node is, as the process that runs it says."""

    implementation: str
    is_async: bool
    fingerprint: str
    """Of its code and of its environment."""
    schema: str | None
    """`module:name` of the schema that its annotation states; None is that of its node."""
    fields: tuple[str, ...] | None
    """The names that it reads, where that schema is a TypedDict."""


def describe(
    apart: Apart, runnable: Any, schema: type | None, environment: EnvSpec | None
) -> Description:
    """What a node says of itself, in its own process.

    Raises:
        UnsupportedNode: It uses what cannot be had there.
    """
    if is_graph(runnable):
        raise _unsupported(apart, "it is a subgraph: give its inner nodes what they need")
    if isinstance(runnable, RunnableCallable):
        for name, what in UNCROSSED.items():
            if name in runnable.func_accepts:
                raise _unsupported(apart, f"it takes {what}")
    info = node_info(apart.node, _Spec(runnable))
    env = None if environment is None else environment.digest()
    read = tuple(typing.get_type_hints(schema)) if typing.is_typeddict(schema) else None
    return Description(
        implementation=info.implementation,
        is_async=info.is_async,
        fingerprint=digest([fingerprint_of(runnable), env]),
        schema=None if schema is None else f"{schema.__module__}:{schema.__qualname__}",
        fields=read,
    )


def check(graph: Graph, apart: Apart, found: Description | None) -> None:
    """Refuses a node that cannot run apart, by what the graph knows of it.

    Raises:
        UnsupportedNode: It cannot.
    """
    builder, spec = home(graph.builder, apart.node)
    if is_graph(spec.runnable):
        raise _unsupported(apart, "it is a subgraph: give its inner nodes what they need")
    if spec.is_error_handler:
        raise _unsupported(apart, "it handles the errors of other nodes")
    managed = sorted(set(builder.schemas.get(spec.input_schema, ())) & set(builder.managed))
    if managed:
        raise _unsupported(apart, f"its schema has the managed value {managed[0]!r}")
    if found is None or found.schema is None:
        return
    own = spec.input_schema
    if found.schema == f"{own.__module__}:{own.__qualname__}":
        return
    known = set(builder.schemas.get(own, ()))
    if not typing.is_typeddict(own) or found.fields is None or not set(found.fields) <= known:
        raise _unsupported(
            apart,
            f"its annotation states {found.schema}, and the graph's process, which cannot import it,"
            f" gives {own.__module__}:{own.__qualname__}",
        )


@dataclasses.dataclass(frozen=True)
class _Spec:
    """What `node_info` asks of a node."""

    runnable: Any


def _unsupported(apart: Apart, reason: str) -> errors.UnsupportedNode:
    return errors.UnsupportedNode(
        f"node {apart.node!r} cannot run in an actor of its own: {reason}",
        field=apart.node,
        node=apart.node,
        reason=reason,
    )
