"""Bindings: which variant every node of an execution gets, checked without importing user code.

A binding is `{node: variant}` plus an optional `_workflow` (a whole other graph) and `_name` (how a
batch calls the row). The variant `default` is the node's own implementation unless one of that name
is registered.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Final

from wtb_ray import errors
from wtb_ray.environment import EnvSpec, NodeResourceConfig
from wtb_ray.model import GraphInfo, ProjectSpec, VariantSpec, digest

DEFAULT: Final = "default"
WORKFLOW: Final = "_workflow"
NAME: Final = "_name"


@dataclasses.dataclass(frozen=True)
class Apart:
    """A node that runs in an actor of its own, as a binding takes it."""

    node: str
    workflow: str | None
    """The graph that it is in; None is the project's own."""
    implementation: str | None
    """Import path; None is the node's own implementation in that graph."""
    environment: EnvSpec | None
    """None is that of the runner."""
    resources: NodeResourceConfig | None

    @property
    def key(self) -> str:
        """Equal where the same actor can serve."""
        env = None if self.environment is None else self.environment.digest()
        asked = None if self.resources is None else self.resources.model_dump(mode="json")
        return digest([self.node, self.workflow, self.implementation, env, asked])


def apart(
    spec: ProjectSpec, binding: Mapping[str, str], nodes: Collection[str]
) -> dict[str, Apart]:
    """The nodes that run in actors of their own: they have an environment or resources."""
    variants, found = chosen(spec, binding), {}
    for node in nodes:
        variant = variants.get(node)
        environment = spec.environment_of(node, variant)
        if environment == spec.environment_of_all:
            environment = None
        resources = spec.resources_of(node, variant)
        if environment is not None or resources is not None:
            implementation = None if variant is None else variant.implementation
            workflow = workflow_of(spec, binding)
            found[node] = Apart(node, workflow, implementation, environment, resources)
    return found


def chosen(spec: ProjectSpec, binding: Mapping[str, str]) -> dict[str, VariantSpec]:
    """The variants that the binding takes, by node; nodes left as they are do not appear.

    Raises:
        UnknownNode: It names a node inside one that it replaces.
        UnknownVariant: No such variant or workflow is registered.
    """
    workflow_of(spec, binding)
    variants = {}
    for node, name in binding.items():
        if node in (WORKFLOW, NAME):
            continue
        known = spec.variants.get(node, {})
        if name in known:
            variants[node] = known[name]
        elif name != DEFAULT:
            raise _unknown(spec, node, name, known)
    for node in variants:
        outer = node.rpartition("/")[0]
        if outer in variants and variants[outer].implementation is not None:
            raise errors.UnknownNode(
                f"{outer!r} is replaced, so there is no {node!r} in it",
                field=node,
                reason=f"the binding takes another implementation of {outer!r}",
            )
    return variants


def workflow_of(spec: ProjectSpec, binding: Mapping[str, str]) -> str | None:
    """Name of the workflow variant that the binding takes, None for the project's own graph."""
    name = binding.get(WORKFLOW, DEFAULT)
    if name in spec.workflow_variants:
        return name
    if name == DEFAULT:
        return None
    raise errors.UnknownVariant(
        f"no workflow variant {name!r} is registered",
        field=WORKFLOW,
        reason=f"known are {sorted(spec.workflow_variants)}",
    )


def check(
    spec: ProjectSpec,
    graph: GraphInfo,
    workflows: Mapping[str, GraphInfo],
    binding: Mapping[str, str],
) -> None:
    """Refuses a binding that names a node, variant or workflow which does not exist.

    Raises:
        UnknownNode: The graph that the binding takes has no such node.
        UnknownVariant: No such variant or workflow is registered.
    """
    workflow = workflow_of(spec, binding)
    taken = graph if workflow is None else workflows[workflow]
    check_nodes(binding, {node.name for node in taken.nodes})
    chosen(spec, binding)


def check_nodes(binding: Mapping[str, str], nodes: Collection[str]) -> None:
    """Refuses a binding that names a node which is not among these.

    Raises:
        UnknownNode: It does.
    """
    for node in binding:
        if node not in (WORKFLOW, NAME) and node not in nodes:
            raise errors.UnknownNode(
                f"the graph has no node {node!r}", field=node, reason=f"nodes are {sorted(nodes)}"
            )


def params(spec: ProjectSpec, binding: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What `wtb_ray.params()` gives, by node."""
    return {node: variant.params for node, variant in chosen(spec, binding).items()}


def implementations(spec: ProjectSpec, binding: Mapping[str, str]) -> dict[str, str]:
    """Import paths of the implementations that replace a node's own, by node."""
    return {
        node: variant.implementation
        for node, variant in chosen(spec, binding).items()
        if variant.implementation is not None
    }


def _unknown(
    spec: ProjectSpec, node: str, name: str, known: Mapping[str, VariantSpec]
) -> errors.InvalidRequest:
    if node not in spec.variants:
        return errors.UnknownVariant(
            f"node {node!r} has no variants, so no {name!r}",
            field=node,
            reason=f"variants are registered for {sorted(spec.variants)}",
        )
    return errors.UnknownVariant(
        f"node {node!r} has no variant {name!r}", field=node, reason=f"known are {sorted(known)}"
    )
