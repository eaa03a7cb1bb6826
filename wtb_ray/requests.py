"""What users send, checked against what registration found: pure, and before anything is made."""

from collections.abc import Mapping, Sequence
from typing import Any

from wtb_ray import bindings, cases, errors
from wtb_ray.model import Case, GraphInfo, NodeInfo, ProjectVersion, canonical

POSITIONS = ("before", "after")


def graph_of(version: ProjectVersion, binding: Mapping[str, str]) -> GraphInfo:
    """The graph that a binding takes."""
    workflow = bindings.workflow_of(version.spec, binding)
    return version.graph if workflow is None else version.workflows[workflow]


def nodes_of(version: ProjectVersion, binding: Mapping[str, str]) -> list[NodeInfo]:
    """The nodes of the graph that a binding takes; what it replaces has no nodes inside."""
    replaced = [f"{node}/" for node in bindings.implementations(version.spec, binding)]
    return [
        node
        for node in graph_of(version, binding).nodes
        if not any(node.name.startswith(outer) for outer in replaced)
    ]


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
    for node, name in binding.items():
        variant = version.spec.variants.get(node, {}).get(name)
        if variant is not None and not variant.active:
            raise errors.UnknownVariant(
                f"variant {name!r} of node {node!r} is deactivated",
                field=f"{field}.{node}",
                reason="deactivated",
            )
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


def inherited_binding(
    version: ProjectVersion, inherited: Mapping[str, str], changes: Mapping[str, str], *, field: str
) -> dict[str, str]:
    """A binding with changes put over it; what it says of nodes that the graph lacks is left out.

    Raises:
        UnknownNode: The graph has no such node; `field` says where the name stands.
        UnknownVariant: No such variant or workflow is registered, or it is deactivated.
    """
    taken = check_binding(version, _workflow_of(changes) or _workflow_of(inherited), field=field)
    nodes = {node.name for node in graph_of(version, taken).nodes} | {bindings.NAME}
    kept = {node: variant for node, variant in inherited.items() if node in nodes}
    return check_binding(version, {**taken, **kept, **changes}, field=field)


def _workflow_of(binding: Mapping[str, str]) -> dict[str, str]:
    name = binding.get(bindings.WORKFLOW)
    return {} if name is None else {bindings.WORKFLOW: name}


def check_fit(
    version: ProjectVersion,
    binding: Mapping[str, str],
    next_nodes: Sequence[str],
    channels: Sequence[str],
) -> None:
    """Refuses a graph in which a checkpoint cannot be gone on from.

    Args:
        version: The project version that is to run.
        binding: Its binding.
        next_nodes: The nodes that come next at the checkpoint.
        channels: The channels that have a value there.

    Raises:
        Incompatible: The graph lacks one of the nodes or channels; names them all.
    """
    graph = graph_of(version, binding)
    here = {
        "node": sorted(set(next_nodes) - {node.name for node in graph.nodes}),
        "channel": sorted(set(channels) - set(graph.channels)),
    }
    for kind, missing in here.items():
        if missing:
            why = "comes next" if kind == "node" else "has a value"
            raise errors.Incompatible(
                f"the graph of version {version.version[:12]} has no {kind} {missing[0]!r}, which {why}",
                field=kind,
                reason=f"missing are {missing}",
                nodes=here["node"],
                channels=here["channel"],
            )


def check_channels(
    version: ProjectVersion, binding: Mapping[str, str], state: Mapping[str, Any], *, field: str
) -> None:
    """Refuses changes of a state that name channels which the graph lacks.

    Raises:
        InvalidState: Names the channel.
    """
    channels = {c for c in graph_of(version, binding).channels if not c.startswith("__")}
    for name in state:
        if name not in channels:
            raise errors.InvalidState(
                f"the graph has no channel {name!r}",
                field=f"{field}.{name}",
                reason=f"channels are {sorted(channels)}",
                channel=name,
            )


Taken = tuple[ProjectVersion, Mapping[str, str]]


def swapped(old: Taken, new: Taken) -> dict[str, tuple[str | None, str | None]]:
    """The nodes that run differently, with the fingerprints of what they ran and will run."""
    before, after = _implementations(*old), _implementations(*new)
    return {
        node: (before.get(node, (None,))[0], after.get(node, (None,))[0])
        for node in sorted(before.keys() | after.keys())
        if before.get(node) != after.get(node)
    }


def _implementations(
    version: ProjectVersion, binding: Mapping[str, str]
) -> dict[str, tuple[str | None, str, str]]:
    """Fingerprint, variant and params of each node of the graph that a binding takes."""
    found: dict[str, tuple[str | None, str, str]] = {}
    chosen = bindings.chosen(version.spec, binding)
    for node in graph_of(version, binding).nodes:
        variant = chosen.get(node.name)
        name = binding.get(node.name, bindings.DEFAULT)
        own = variant is None or variant.implementation is None
        fingerprint = node.fingerprint if own else node.variants.get(name)
        found[node.name] = (fingerprint, name, canonical(variant.params if variant else {}))
    return found
