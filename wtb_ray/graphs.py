"""The graphs of a project: imported once, compiled once per choice of implementations, then run.

What belongs to one run is never compiled in, so one compiled graph serves all executions of a
binding at once, and bindings that differ in params alone. Running is in `running`, which this module
makes available as the layer's one face.
"""

import copy
import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from wtb_ray import bindings, entries, errors
from wtb_ray.context import cache_scope, params
from wtb_ray.model import GraphInfo, ProjectSpec, digest
from wtb_ray.running import Compiled, Control, Outcome, run
from wtb_ray.saver import Saver
from wtb_ray.serde import Serializer

__all__ = ["Compiled", "Control", "Graphs", "Outcome", "describe", "params", "run"]

COMPILED_GRAPHS: Final = 64
"""Compiled graphs that a process keeps for one project version."""


class Graphs:
    """The graphs of one project version in one process; safe to use from several threads."""

    def __init__(
        self, spec: ProjectSpec, saver: Saver | None = None, *, timeout_s: float = 60.0
    ) -> None:
        self.spec = spec
        self._saver = saver
        self._timeout_s = timeout_s
        self._lock = threading.RLock()  # describing and compiling run in threads
        self._graphs: dict[str | None, entries.Graph] = {}
        self._implementations: dict[str, Any] = {}
        self._compiled: OrderedDict[str, Compiled] = OrderedDict()

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
        self.validate_binding(binding)
        workflow = bindings.workflow_of(self.spec, binding)
        implementations = bindings.implementations(self.spec, binding)
        key = digest([workflow, implementations])
        with self._lock:
            if key not in self._compiled:
                self._compiled[key] = self._compile(workflow, implementations)
            self._compiled.move_to_end(key)
            if len(self._compiled) > COMPILED_GRAPHS:
                self._compiled.popitem(last=False)
            made = self._compiled[key]
        return dataclasses.replace(made, params=bindings.params(self.spec, binding))

    def describe(self) -> tuple[GraphInfo, dict[str, GraphInfo]]:
        """Imports and compiles all that the project names: its graphs and each variant in turn.

        Raises:
            UnknownNode: Variants are registered for a node that no graph has.
            NotImportable: An implementation or entry cannot be imported.
            EntryFailed: An entry gave no graph, or a graph does not compile.
            UnsupportedGraph: A graph cannot be checkpointed exactly.
        """
        main = self._info({})
        workflows = {w: self._info({bindings.WORKFLOW: w}) for w in self.spec.workflow_variants}
        homes = {bindings.DEFAULT: main, **workflows}
        for node, variants in self.spec.variants.items():
            having = [w for w, i in homes.items() if node in {n.name for n in i.nodes}]
            if not having:
                raise errors.UnknownNode(
                    f"variants are registered for {node!r}, which no graph has",
                    field=f"variants.{node}",
                    reason=f"nodes are {sorted(n.name for n in main.nodes)}",
                )
            for workflow in having:
                for name in variants:
                    self.compiled({bindings.WORKFLOW: workflow, node: name})
        return main, workflows

    def _info(self, binding: Mapping[str, str]) -> GraphInfo:
        self.compiled(binding)
        return entries.info(self.graph(bindings.workflow_of(self.spec, binding)))

    def _compile(self, workflow: str | None, paths: Mapping[str, str]) -> Compiled:
        graph = self.graph(workflow)
        taken = {node: self._implementation(node, path) for node, path in paths.items()}
        try:
            builder = entries.bind(graph.builder, taken)
            made = entries.compiled(
                builder, graph.options, saver=self._allowing(builder), scope=cache_scope
            )
        except (ValueError, TypeError, KeyError) as e:
            field = ", ".join(f"variants.{node}" for node in paths) or "entry"
            reason = f"{type(e).__name__}: {e}"
            raise errors.EntryFailed(
                f"the graph of {graph.entry} does not compile: {reason}", field=field, reason=reason
            ) from e
        return Compiled(
            graph=made,
            breakpoints=graph.breakpoints(),
            fingerprints={p: entries.fingerprint_of(s.runnable) for p, s in entries.walk(builder)},
        )

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


def describe(
    spec: ProjectSpec, *, timeout_s: float = 60.0
) -> tuple[GraphInfo, dict[str, GraphInfo]]:
    """What a project's code is: its graph and those of its workflow variants; see `Graphs`."""
    return Graphs(spec, timeout_s=timeout_s).describe()
