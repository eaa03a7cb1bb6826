"""What users send, checked against what registration found: pure, and before anything is made."""

from collections.abc import Mapping, Sequence
from typing import Any

from wtb_ray import bindings, cases, errors
from wtb_ray.model import Case, GraphInfo, ProjectVersion

POSITIONS = ("before", "after")


def graph_of(version: ProjectVersion, binding: Mapping[str, str]) -> GraphInfo:
    """The graph that a binding takes."""
    workflow = bindings.workflow_of(version.spec, binding)
    return version.graph if workflow is None else version.workflows[workflow]


def check_binding(
    version: ProjectVersion, binding: Mapping[str, str], *, field: str
) -> dict[str, str]:
    """The binding, if all that it names exists.

    Raises:
        UnknownNode: The graph has no such node; `field` says where the name stands.
        UnknownVariant: No such variant or workflow is registered.
    """
    try:
        bindings.check(version.spec, version.graph, version.workflows, binding)
    except errors.InvalidRequest as e:
        inner = e.details.get("field")
        where = f"{field}.{inner}" if inner else field
        raise type(e)(e.message, **{**e.details, "field": where}) from e
    return dict(binding)


def check_state(
    version: ProjectVersion,
    taken: Sequence[Mapping[str, str]],
    state: Mapping[str, Any],
    *,
    field: str,
) -> None:
    """Refuses a state with keys that no graph of these bindings takes: LangGraph drops them silently.

    Raises:
        InvalidState: Names the key.
    """
    known = {name for binding in taken for name in graph_of(version, binding).input_channels}
    if "__root__" in known:
        return
    for key in state:
        if key not in known:
            raise errors.InvalidState(
                f"the graph has no input {key!r}",
                field=f"{field}.{key}",
                reason=f"inputs are {sorted(known)}",
            )


def check_cases(items: Sequence[Case | Mapping[str, Any]], *, field: str) -> list[Case]:
    """The cases of a request; none at all is left to the matrix to refuse.

    Raises:
        InvalidCases: `field` says which case and which part of it.
    """
    try:
        return cases.from_list(items) if items else []
    except errors.InvalidCases as e:
        place = (e.details.get("index"), e.details.get("field"))
        where = ".".join([field, *(str(part) for part in place if part is not None)])
        raise errors.InvalidCases(e.message, **{**e.details, "field": where}) from e


def check_breakpoints(
    version: ProjectVersion, binding: Mapping[str, str], breakpoints: Sequence[str]
) -> tuple[str, ...]:
    """Breakpoints as `before:node` or `after:node`; a bare node name means before it.

    Raises:
        UnknownNode: The graph has no such node.
        InvalidRequest: The position is neither `before` nor `after`.
    """
    nodes = {node.name for node in graph_of(version, binding).nodes}
    checked = []
    for i, text in enumerate(breakpoints):
        position, colon, node = text.partition(":")
        if not colon:
            position, node = "before", text
        where = f"breakpoints.{i}"
        if position not in POSITIONS:
            raise errors.InvalidRequest(
                f"{text!r} is no breakpoint", field=where, reason=f"positions are {POSITIONS}"
            )
        if node not in nodes:
            raise errors.UnknownNode(
                f"the graph has no node {node!r}", field=where, reason=f"nodes are {sorted(nodes)}"
            )
        checked.append(f"{position}:{node}")
    return tuple(checked)
