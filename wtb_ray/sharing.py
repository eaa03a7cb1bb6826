"""Which variants of a batch go on together: the split rule of the execution tree.

All cells of one case and repetition begin as one execution. Before each super-step the nodes that
come next are looked at: variants that have the same implementations of all of them go on together,
others part. So a node run is shared exactly when the whole sequence of such choices before it is
equal. Pure: what comes next was decided by the graph, which routes as it does without a bench.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from wtb_ray.bindings import DEFAULT, WORKFLOW, chosen
from wtb_ray.model import ProjectSpec, VariantSpec, digest

_OWN: Final = VariantSpec()
"""A variant that changes nothing of its node."""

Part = tuple[int, ...]
"""Places of variants in their batch that go on together, in order."""


class _Choice(NamedTuple):
    node: str
    implementation: str
    """Digest of all that the variant says: code, params, environment, resources."""


class Group:
    """The variants that one execution still runs for."""

    def __init__(self, spec: ProjectSpec, bindings: Mapping[int, Mapping[str, str]]) -> None:
        """A group of variants of one project version, which all take the same graph.

        Args:
            spec: The version.
            bindings: What each variant binds, by its place in the batch.
        """
        self.members: Part = tuple(sorted(bindings))
        configured = spec.execution
        self._volatile = frozenset(configured.volatile_nodes if configured is not None else ())
        self._choices = {
            member: tuple(
                _Choice(node, digest(variant.model_dump(mode="json", exclude={"active"})))
                for node, variant in sorted(chosen(spec, bindings[member]).items())
                if variant.model_copy(update={"active": True}) != _OWN
            )
            for member in self.members
        }
        self._known: dict[str, tuple[tuple[_Choice, ...], ...] | None] = {}

    def parts(self, nodes: Collection[str]) -> tuple[Part, ...]:
        """How the group goes on when these nodes come next: in one part, or in several.

        The part of the first variant is the first one. A volatile node among them ends all sharing.
        """
        if len(self.members) < 2:
            return (self.members,)
        if any(_within(path, node) for path in self._volatile for node in nodes):
            return tuple((member,) for member in self.members)
        varying = [found for node in sorted(set(nodes)) if (found := self._varying(node))]
        if not varying:
            return (self.members,)
        parts: dict[tuple[tuple[_Choice, ...], ...], list[int]] = {}
        for member, *choices in zip(self.members, *varying, strict=True):
            parts.setdefault(tuple(choices), []).append(member)
        return tuple(tuple(part) for part in parts.values())

    def _varying(self, node: str) -> tuple[tuple[_Choice, ...], ...] | None:
        """What each member runs in a node and below it; None where that is the same for all."""
        if node not in self._known:
            found = tuple(
                tuple(c for c in self._choices[member] if _within(c.node, node))
                for member in self.members
            )
            self._known[node] = found if len(set(found)) > 1 else None
        return self._known[node]


def _within(path: str, node: str) -> bool:
    return path == node or path.startswith(f"{node}/")


def together(bindings: Sequence[Mapping[str, str]], members: Collection[int]) -> list[Part]:
    """Which of these variants begin together: those that take the same graph."""
    found: dict[str, list[int]] = {}
    for member in sorted(members):
        found.setdefault(bindings[member].get(WORKFLOW, DEFAULT), []).append(member)
    return [tuple(part) for part in found.values()]
