"""The graphs of a project: imported once, compiled once per choice of implementations, then run.

What belongs to one run is never compiled in, so one compiled graph serves all executions of a
binding at once, and bindings that differ in params alone. Running is in `running`, which this module
makes available as the layer's one face.
"""

import copy
import dataclasses
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from wtb_ray import bindings, entries, errors
from wtb_ray.apartness import Description, check
from wtb_ray.bindings import Apart
from wtb_ray.context import cache_scope, params
from wtb_ray.crossing import Call, Crossing
from wtb_ray.environment import ExecutionConfig
from wtb_ray.model import GraphInfo, ProjectSpec, digest
from wtb_ray.policies import Policies
from wtb_ray.running import Compiled, Control, Outcome, run
from wtb_ray.saver import Saver
from wtb_ray.serde import Serializer

__all__ = ["Compiled", "Control", "Graphs", "Outcome", "describe", "params", "run"]

COMPILED_GRAPHS: Final = 64
"""Compiled graphs that a process keeps for one project version."""


@dataclasses.dataclass(frozen=True)
class _Taken:
    """What a binding takes: the graph, what replaces its nodes, and their params."""

    key: str
    """Equal where the same graph is to be compiled."""
    workflow: str | None
    implementations: Mapping[str, str]
    """Import paths, by node, of those that run here."""
    apart: Mapping[str, Apart]
    """The nodes that run in actors of their own."""
    params: Mapping[str, Mapping[str, Any]]


class Graphs:
    """The graphs of one project version in one process; safe to use from several threads."""

    def __init__(
        self,
        spec: ProjectSpec,
        saver: Saver | None = None,
        *,
        timeout_s: float = 60.0,
        call: Call | None = None,
    ) -> None:
        """The graphs of a version.

        Args:
            spec: The version.
            saver: Keeps the checkpoints of what runs.
            timeout_s: Longest time that importing an entry may take.
            call: Has nodes that run in actors of their own called; without it, they are refused.
        """
        self.spec = spec
        self._saver = saver
        self._call = call
        self._timeout_s = timeout_s
        self._lock = threading.RLock()  # describing and compiling run in threads
        self._graphs: dict[str | None, entries.Graph] = {}
        self._implementations: dict[str, Any] = {}
        self._compiled: OrderedDict[str, Compiled] = OrderedDict()
        self._known: dict[frozenset[tuple[str, str]], _Taken] = {}

    def graph(self, workflow: str | None = None) -> entries.Graph:
        """The project's own graph, or a workflow variant's; imported when first asked for."""
        with self._lock:
            if workflow not in self._graphs:
                own = workflow is None
                entry = self.spec.entry if own else self.spec.workflow_variants[workflow or ""]
                field = "entry" if own else f"workflow_variants.{workflow}"
                self._graphs[workflow] = entries.load_entry(
                    entry, field=field, timeout_s=self._timeout_s
                )
            return self._graphs[workflow]

    def validate_binding(self, binding: Mapping[str, str]) -> None:
        """Refuses a binding that names a node, variant or workflow which does not exist.

        Raises:
            UnknownNode: The graph that the binding takes has no such node.
            UnknownVariant: No such variant or workflow is registered.
        """
        workflow = bindings.workflow_of(self.spec, binding)
        bindings.check_nodes(binding, dict(entries.walk(self.graph(workflow).builder)))
        bindings.chosen(self.spec, binding)

    def compiled(self, binding: Mapping[str, str]) -> Compiled:
        """The graph of a binding. Bindings that differ in params alone share what was compiled.

        Raises:
            UnknownNode: The graph that the binding takes has no such node.
            UnknownVariant: No such variant or workflow is registered.
            NotImportable: An implementation or entry cannot be imported.
            EntryFailed: An entry gave no graph, or the graph does not compile.
            UnsupportedGraph: The graph cannot be checkpointed exactly.
        """
        with self._lock:
            taken = self._taken(binding)
            if taken.key not in self._compiled:
                self._compiled[taken.key] = self._compile(taken)
                if len(self._compiled) > COMPILED_GRAPHS:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(taken.key)
            return dataclasses.replace(self._compiled[taken.key], params=taken.params)

    def apart(self, binding: Mapping[str, str]) -> set[str]:
        """Keys of the nodes of a binding that run in actors of their own."""
        with self._lock:
            return {one.key for one in self._taken(binding).apart.values()}

    def forget(
        self, binding: Mapping[str, str], others: Iterable[Mapping[str, str]]
    ) -> "list[weakref.ref[Any]] | None":
        """Drops the graph of a binding, what was imported for it, and its caches.

        It is made again when it is next asked for.

        Returns:
            What was dropped, so that its end can be seen; None where one of the other bindings has
            the same graph: nothing is dropped then.
        """
        with self._lock:
            taken = self._taken(binding)
            used = [self._taken(other) for other in others]
            if any(other.key == taken.key for other in used):
                return None
            dropped = [self._compiled.pop(taken.key, None)]
            if all(other.workflow != taken.workflow for other in used):
                self._graphs.pop(taken.workflow, None)
            needed = {path for other in used for path in other.implementations.values()}
            for path in set(taken.implementations.values()) - needed:
                self._implementations.pop(path, None)
            return [weakref.ref(compiled.graph) for compiled in dropped if compiled is not None]

    def _taken(self, binding: Mapping[str, str]) -> "_Taken":
        names = frozenset(item for item in binding.items() if item[0] != bindings.NAME)
        if names not in self._known:
            self.validate_binding(binding)
            workflow = bindings.workflow_of(self.spec, binding)
            nodes = [path for path, _ in entries.walk(self.graph(workflow).builder)]
            apart = bindings.apart(self.spec, binding, nodes)
            implementations = {
                node: path
                for node, path in bindings.implementations(self.spec, binding).items()
                if node not in apart
            }
            params = {n: v for n, v in bindings.params(self.spec, binding).items() if v}
            keys = {node: one.key for node, one in apart.items()}
            key = digest([workflow, implementations, keys])
            self._known[names] = _Taken(key, workflow, implementations, apart, params)
        return self._known[names]

    def describe(
        self, apart: Mapping[str, Description] = MappingProxyType({})
    ) -> tuple[GraphInfo, dict[str, GraphInfo]]:
        """Imports and compiles all that the project names: its graphs and each variant in turn.

        Args:
            apart: What the nodes that run in actors of their own said of themselves there, by key.

        Raises:
            UnknownNode: Variants are registered for a node that no graph has.
            NotImportable: An implementation or entry cannot be imported.
            EntryFailed: An entry gave no graph, or a graph does not compile.
            UnsupportedGraph: A graph cannot be checkpointed exactly.
        """
        main = self._info({}, apart)
        workflows = {
            w: self._info({bindings.WORKFLOW: w}, apart) for w in self.spec.workflow_variants
        }
        homes: list[tuple[dict[str, str], GraphInfo]]
        homes = [({}, main), *(({bindings.WORKFLOW: w}, i) for w, i in workflows.items())]
        for node, variants in self.spec.variants.items():
            home = next((b for b, i in homes if node in {n.name for n in i.nodes}), None)
            if home is None:
                raise errors.UnknownNode(
                    f"variants are registered for {node!r}, which no graph has",
                    field=f"variants.{node}",
                    reason=f"nodes are {sorted(n.name for n in main.nodes)}",
                )
            found = {name: self._found({**home, node: name}, node, apart) for name in variants}
            own = {name: found[name] for name, v in variants.items() if v.implementation}
            main = _with_variants(main, node, own)
            workflows = {w: _with_variants(info, node, own) for w, info in workflows.items()}
        return main, workflows

    def _found(
        self, binding: Mapping[str, str], node: str, apart: Mapping[str, Description]
    ) -> str:
        """The fingerprint of what a node runs under a binding."""
        compiled, one = self.compiled(binding), self._taken(binding).apart.get(node)
        if one is None or one.key not in apart:
            return compiled.implementations[node]
        check(self.graph(one.workflow), one, apart[one.key])
        return apart[one.key].fingerprint

    def _info(self, binding: Mapping[str, str], apart: Mapping[str, Description]) -> GraphInfo:
        self.compiled(binding)
        graph = self.graph(bindings.workflow_of(self.spec, binding))
        info, taken = entries.info(graph), self._taken(binding).apart
        nodes = []
        for node in info.nodes:
            if (one := taken.get(node.name)) is not None and one.key in apart:
                check(graph, one, apart[one.key])
                told = {"fingerprint": apart[one.key].fingerprint, "apart": True}
                node = node.model_copy(update=told)
            nodes.append(node)
        return info.model_copy(update={"nodes": tuple(nodes)})

    def _compile(self, taken: _Taken) -> Compiled:
        graph = self.graph(taken.workflow)
        found = {node: self._implementation(node, p) for node, p in taken.implementations.items()}
        found |= {node: self._crossing(graph, one) for node, one in taken.apart.items()}
        try:
            builder = entries.bind(graph.builder, found)
            policies = Policies(self.spec.execution or ExecutionConfig())
            made = entries.compiled(
                builder, graph.options, self._allowing(builder), cache_scope, policies
            )
        except (ValueError, TypeError, KeyError) as e:
            field = ", ".join(f"variants.{node}" for node in found) or "entry"
            reason = f"{type(e).__name__}: {e}"
            raise errors.EntryFailed(
                f"the graph of {graph.entry} does not compile: {reason}", field=field, reason=reason
            ) from e
        return Compiled(
            graph=made,
            breakpoints=graph.breakpoints(),
            implementations={
                path: entries.fingerprint_of(spec.runnable) for path, spec in entries.walk(builder)
            },
        )

    def _crossing(self, graph: entries.Graph, apart: Apart) -> Crossing:
        if self._call is None:
            raise errors.UnsupportedNode(
                f"node {apart.node!r} needs an actor of its own, and there are none here",
                field=apart.node,
                reason="no actors",
            )
        check(graph, apart, None)
        return Crossing(apart, self._call)

    def aparts(self) -> list[Apart]:
        """All nodes, as each variant has them, that run in actors of their own.

        Raises:
            UnknownNode: Something is configured for a node that no graph has.
        """
        found: dict[str, Apart] = {}
        known: set[str] = set()
        for workflow in (None, *self.spec.workflow_variants):
            home = {} if workflow is None else {bindings.WORKFLOW: workflow}
            nodes = [path for path, _ in entries.walk(self.graph(workflow).builder)]
            known.update(nodes)
            takes = [home, *({**home, n: v} for n in nodes for v in self.spec.variants.get(n, ()))]
            for binding in takes:
                found |= {
                    one.key: one for one in bindings.apart(self.spec, binding, nodes).values()
                }
        named = {} if self.spec.environment is None else self.spec.environment.node_environments
        execution = self.spec.execution or ExecutionConfig()
        for field, names in (
            ("environment.node_environments", named),
            ("node_resources", execution.node_resources),
            ("execution.volatile_nodes", execution.volatile_nodes),
            ("execution.node_timeouts", execution.node_timeouts),
            ("execution.retries", execution.retries),
        ):
            if unknown := sorted({*names} - known):
                raise errors.UnknownNode(
                    f"no graph has a node {unknown[0]!r}",
                    field=f"{field}.{unknown[0]}",
                    reason=f"nodes are {sorted(known)}",
                )
        return list(found.values())

    def node(self, apart: Apart) -> tuple[Any, type | None]:
        """What a node that runs apart is in its own process, and the schema that it states, if any.

        Raises:
            NotImportable: It cannot be imported in this environment.
            EntryFailed: Its module raised, or the graph that it is in cannot be made.
            UnsupportedNode: It uses what cannot be had there.
        """
        with self._lock:
            if apart.implementation is None:
                builder = self.graph(apart.workflow).builder
                spec, schema = dict(entries.walk(builder))[apart.node], None
            else:
                made = self._implementation(apart.node, apart.implementation)
                spec, schema = entries.stated(apart.node.rpartition("/")[2], made)
            return spec.runnable, schema

    def _implementation(self, node: str, path: str) -> Any:
        if path not in self._implementations:
            self._implementations[path] = entries.load_implementation(
                path, field=f"variants.{node}", timeout_s=self._timeout_s
            )
        return self._implementations[path]

    def _allowing(self, builder: entries.Builder) -> Saver | None:
        """The saver, with the classes that may stand in this graph's state."""
        if self._saver is None:
            return None
        made = copy.copy(self._saver)  # as LangGraph does it: all copies share their connections
        made.serde = Serializer(
            entries.storable_types(builder, self.spec), entries.packages(self.spec)
        )
        return made


def _with_variants(info: GraphInfo, node: str, fingerprints: dict[str, str]) -> GraphInfo:
    nodes = (
        n.model_copy(update={"variants": fingerprints}) if n.name == node else n for n in info.nodes
    )
    return info.model_copy(update={"nodes": tuple(nodes)})


def describe(
    spec: ProjectSpec, *, timeout_s: float = 60.0
) -> tuple[GraphInfo, dict[str, GraphInfo]]:
    """What a project's code is: its graph and those of its workflow variants; see `Graphs`."""
    return Graphs(spec, timeout_s=timeout_s).describe()
