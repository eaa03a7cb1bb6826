"""Graphs from import paths, and graphs with other implementations in their nodes.

An entry is a `StateGraph`, a function that gives one, or a compiled graph whose builder is taken and
whose compile options are kept. The user's objects are never changed: a replacement happens on a copy
of the builder, before it is compiled. Nothing here runs a graph.
"""

import asyncio
import contextvars
import copy
import dataclasses
import inspect
import sys
import sysconfig
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeGuard, cast

from langchain_core.runnables import Runnable
from langgraph._internal._runnable import RunnableCallable
from langgraph._internal._serde import build_serde_allowlist
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel
from langgraph.types import CachePolicy

from wtb_ray import errors
from wtb_ray.crossing import Crossing
from wtb_ray.faults import guarded
from wtb_ray.fingerprints import fingerprint
from wtb_ray.imports import locate
from wtb_ray.model import GraphInfo, NodeInfo, ProjectSpec, digest
from wtb_ray.policies import NO_POLICIES, Policies

Builder = StateGraph[Any, Any, Any, Any]
CompiledGraph = CompiledStateGraph[Any, Any, Any, Any]
Scope = Callable[[str], str]
"""Prefix of a node's cache keys in the run at hand, from its fingerprint."""

DEFAULT_HANDLER: Final = "__default_error_handler__"
KEPT: Final = ("step_timeout", "stream_eager", "retry_policy", "cache_policy", "config")
"""Attributes of a compiled graph that `compile()` does not take."""


@dataclasses.dataclass(frozen=True)
class Graph:
    """A graph as its entry gave it: the builder, and the compiled graph whose options to keep."""

    entry: str
    builder: Builder
    options: CompiledGraph | None = None

    def breakpoints(self) -> tuple[str, ...]:
        """`before:node` and `after:node` of the entry's own compile options; `*` is every node."""
        if self.options is None:
            return ()
        return tuple(
            f"{when}:{node}"
            for when, nodes in (
                ("before", self.options.interrupt_before_nodes),
                ("after", self.options.interrupt_after_nodes),
            )
            for node in ("*" if nodes == "*" else nodes)
        )


def load_entry(entry: str, *, field: str = "entry", timeout_s: float = 60.0) -> Graph:
    """The graph of an import path. A factory is called without arguments, in a thread of its own.

    Raises:
        NotImportable: There is no such module or name.
        EntryFailed: It raised, did not return in time, or gave something that is no graph.
        UnsupportedGraph: The graph cannot be checkpointed exactly.
    """
    found = _in_time(lambda: _called(locate(entry, field=field)), entry, field, timeout_s)
    graph = _graph(entry, found, field)
    for name, spec in walk(graph.builder):
        if is_graph(spec.runnable):
            _refuse_delta(spec.runnable.builder, f"{entry} node {name}", field)
    _refuse_delta(graph.builder, entry, field)
    return graph


def load_implementation(path: str, *, field: str, timeout_s: float = 60.0) -> Any:
    """What replaces a node: a function, a callable object, a runnable, or a graph.

    Raises:
        NotImportable: There is no such module or name.
        EntryFailed: Its module raised, or it is nothing that can be a node.
    """
    found = _in_time(lambda: locate(path, field=field), path, field, timeout_s)
    if isinstance(found, StateGraph):
        return found.compile()
    if inspect.isclass(found):
        raise _no_graph(path, field, "a class cannot be a node; name an instance of it")
    if not callable(found) and not isinstance(found, Runnable):
        raise _no_graph(path, field, f"a {type(found).__name__} cannot be a node")
    return found


def is_graph(runnable: Any) -> TypeGuard[CompiledGraph]:
    """Whether a node is a subgraph: its nodes can be addressed as `outer/inner`."""
    return isinstance(runnable, CompiledStateGraph)


def walk(builder: Builder, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All nodes with their paths; those inside a subgraph follow it as `outer/inner`."""
    for name, spec in builder.nodes.items():
        if name == DEFAULT_HANDLER:
            continue
        yield prefix + name, spec
        if is_graph(spec.runnable):
            yield from walk(spec.runnable.builder, f"{prefix}{name}/")


def home(builder: Builder, path: str) -> tuple[Builder, Any]:
    """The builder that a node is in, which is a subgraph's where the path leads into one; the node."""
    outer, inside, rest = path.partition("/")
    if not inside:
        return builder, builder.nodes[path]
    return home(cast(CompiledGraph, builder.nodes[outer].runnable).builder, rest)


def bind(builder: Builder, implementations: Mapping[str, Any], prefix: str = "") -> Builder:
    """A copy of the builder with other implementations in the named nodes; all else stays."""
    made = _copied(builder)
    order = list(made.nodes)
    for name in order:
        path = prefix + name
        runnable = made.nodes[name].runnable
        if path in implementations:
            _replace(made, name, implementations[path])
        elif is_graph(runnable) and _touches(runnable, implementations, path):
            inner = bind(runnable.builder, implementations, f"{path}/")
            made.nodes[name].runnable = _compiled_like(inner, runnable, runnable.checkpointer)
    made.nodes = {name: made.nodes[name] for name in order} | made.nodes
    return made


def compiled(
    builder: Builder,
    options: CompiledGraph | None,
    saver: BaseCheckpointSaver[Any] | None,
    scope: Scope,
    policies: Policies = NO_POLICIES,
) -> CompiledGraph:
    """Compiles a copy of the builder as a root graph, with the options of another compiled graph.

    Its breakpoints are left out, since the runner decides on them; its cache keys are put under the
    run's scope, those of its subgraphs too; its nodes get these policies where they say something;
    and no node can end the process.
    """
    return _compiled(builder, options, saver, scope, policies, root=True)


def _compiled(
    builder: Builder,
    options: CompiledGraph | None,
    saver: BaseCheckpointSaver[Any] | None,
    scope: Scope,
    policies: Policies,
    *,
    prefix: str = "",
    root: bool = False,
) -> CompiledGraph:
    made = _copied(builder)
    for name, spec in made.nodes.items():
        timed = policies.put_on(prefix + name, spec, builder)
        if is_graph(spec.runnable):
            inner = spec.runnable
            own = inner.checkpointer if isinstance(inner.checkpointer, bool) else None
            path = f"{prefix}{name}/"
            spec.runnable = _compiled(
                inner.builder, inner, cast(Any, own), scope, policies, prefix=path
            )
        else:
            spec.runnable = guarded(spec.runnable, timed=timed)
    made.branches = _guarded_branches(builder)
    graph = _compiled_like(made, options, saver, root=root)
    for name, node in graph.nodes.items():
        policy = node.cache_policy or graph.cache_policy
        if policy is not None and name in builder.nodes:
            node.cache_policy = _scoped(policy, scope, fingerprint_of(builder.nodes[name].runnable))
    return graph


def _compiled_like(
    builder: Builder, options: CompiledGraph | None, saver: Any, *, root: bool = False
) -> CompiledGraph:
    if options is None:
        return builder.compile(checkpointer=saver)
    graph = builder.compile(
        checkpointer=saver,
        cache=options.cache,
        store=options.store,
        interrupt_before=None if root else cast(Any, options.interrupt_before_nodes),
        interrupt_after=None if root else cast(Any, options.interrupt_after_nodes),
        debug=options.debug,
        name=options.name,
        transformers=options.stream_transformers,
    )
    for name in KEPT:
        setattr(graph, name, getattr(options, name))
    return graph


def info(graph: Graph) -> GraphInfo:
    """What registration keeps of a graph."""
    builder = graph.builder
    return GraphInfo(
        nodes=tuple(node_info(path, spec) for path, spec in walk(builder)),
        edges=tuple(_edges(builder)),
        channels=tuple(sorted(builder.channels)),
        input_channels=tuple(sorted(builder.schemas[builder.input_schema])),
    )


def storable_types(builder: Builder, spec: ProjectSpec) -> set[tuple[str, ...]]:
    """Classes that may be stored, as (module, name): those of all schemas, and `state_types`."""
    builders = [builder]
    builders += [s.runnable.builder for _, s in walk(builder) if is_graph(s.runnable)]
    types = [locate(path, field="state_types") for path in spec.state_types]
    allowed = {(cls.__module__, cls.__name__) for cls in types}
    return allowed.union(
        *(
            build_serde_allowlist(schemas=[*one.schemas], channels=dict(one.channels))
            for one in builders
        )
    )


def packages(spec: ProjectSpec) -> set[str]:
    """Top-level names of the code that came with the project: all its classes may be stored.

    These are the packages of its import paths and, unless they are installed ones, what lies beside.
    """
    paths = [spec.entry, *spec.workflow_variants.values()]
    paths += [
        v.implementation for vs in spec.variants.values() for v in vs.values() if v.implementation
    ]
    names = {path.partition(":")[0].partition(".")[0] for path in paths}
    folders = {
        Path(location).parent
        for name in names
        if (module := sys.modules.get(name)) is not None
        for location in [*getattr(module, "__path__", ())] or [module.__file__ or ""]
    }
    installed = {Path(path) for path in sysconfig.get_paths().values()}
    beside = (path for folder in folders - installed for path in folder.iterdir())
    return names | {p.stem for p in beside if p.stem.isidentifier() and p.suffix in ("", ".py")}


def node_info(path: str, spec: Any) -> NodeInfo:
    runnable = spec.runnable
    function = _function(runnable)
    return NodeInfo(
        name=path,
        implementation=_described(function),
        is_async=_is_async(runnable),
        subgraph=is_graph(runnable),
        fingerprint=fingerprint_of(runnable),
    )


def fingerprint_of(runnable: Any) -> str:
    """The fingerprint of what a node runs; a subgraph's is that of its nodes and edges."""
    if isinstance(runnable, Crossing):
        return runnable.apart.key
    if is_graph(runnable):
        nodes = [[path, fingerprint_of(spec.runnable)] for path, spec in walk(runnable.builder)]
        return digest([nodes, sorted(_edges(runnable.builder))])
    if isinstance(runnable, RunnableCallable):
        return fingerprint([_function(runnable), runnable.kwargs])
    return fingerprint(runnable)


def _copied(builder: Builder) -> Builder:
    """A builder that can be changed and compiled without the user's one noticing."""
    made = copy.copy(builder)
    made.nodes = {
        name: dataclasses.replace(spec)
        for name, spec in builder.nodes.items()
        if name != DEFAULT_HANDLER  # compile() adds it and refuses to find it there
    }
    made.schemas = dict(builder.schemas)
    made.channels = dict(builder.channels)
    made.managed = dict(builder.managed)
    made.compiled = False
    return made


class _Unstated:
    """State schema of a probe: a node that still has it did not state its own."""


def stated(name: str, implementation: Any) -> tuple[Any, type | None]:
    """The node that `add_node` makes of an implementation, and the schema that it states, if any."""
    probe: Builder = StateGraph(_Unstated)
    probe.add_node(name, implementation)
    made = probe.nodes[name]
    return made, None if made.input_schema is _Unstated else made.input_schema


def _replace(builder: Builder, name: str, implementation: Any) -> None:
    """Puts an implementation into a node. Its annotations count as they do in `add_node`."""
    old = builder.nodes.pop(name)
    new, schema = stated(name, implementation)
    builder.add_node(
        name,
        implementation,
        defer=old.defer,
        metadata=old.metadata,
        input_schema=schema or old.input_schema,
        retry_policy=old.retry_policy,
        cache_policy=old.cache_policy,
        destinations=cast(Any, new.ends or old.ends),
        timeout=old.timeout,
        trace_policy=old.trace_policy,
    )
    made = builder.nodes[name]
    made.is_error_handler = old.is_error_handler
    made.error_handler_node = old.error_handler_node


def _touches(graph: CompiledGraph, implementations: Mapping[str, Any], path: str) -> bool:
    return any(name.startswith(f"{path}/") for name in implementations)


def _guarded_branches(builder: Builder) -> Any:
    found: Any = defaultdict(dict)
    for start, branches in builder.branches.items():
        for name, branch in branches.items():
            found[start][name] = branch._replace(path=guarded(branch.path))
    return found


def _scoped(policy: CachePolicy[Any], scope: Scope, made: str) -> CachePolicy[Any]:
    def key(*args: Any, **kwargs: Any) -> bytes:
        own = policy.key_func(*args, **kwargs)
        return scope(made).encode() + (own.encode() if isinstance(own, str) else own)

    return dataclasses.replace(policy, key_func=key)


def _called(found: Any) -> Any:
    """The graph itself, or what its factory gives; an async one runs on a loop of its own."""
    if isinstance(found, StateGraph | Pregel) or not callable(found):
        return found
    made = found()
    if inspect.iscoroutine(made):
        return asyncio.run(made)
    return made


def _graph(entry: str, found: Any, field: str) -> Graph:
    if isinstance(found, StateGraph):
        return Graph(entry, found)
    if isinstance(found, CompiledStateGraph):
        return Graph(entry, found.builder, found)
    if isinstance(found, Pregel):
        raise errors.UnsupportedGraph(
            f"{entry} is no StateGraph",
            field=field,
            reason="functional graphs have no nodes to vary",
        )
    raise _no_graph(entry, field, f"it gave a {type(found).__name__}, which is no graph")


def _in_time(call: Callable[[], Any], path: str, field: str, timeout_s: float) -> Any:
    """The call's result. It runs in a thread so that code that hangs can be left behind."""
    context = contextvars.copy_context()
    done: list[tuple[Any, BaseException | None]] = []

    def work() -> None:
        try:
            done.append((context.run(call), None))
        except BaseException as e:  # noqa: BLE001 - told to the caller, whatever it is
            done.append((None, e))

    thread = threading.Thread(target=work, name=f"load {path}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not done:
        raise _no_graph(path, field, f"it did not return within {timeout_s:g} s")
    result, error = done[0]
    if error is None:
        return result
    if isinstance(error, errors.WTBError):
        raise error
    raise _no_graph(path, field, f"it raised {type(error).__name__}: {error}") from error


def _no_graph(path: str, field: str, reason: str) -> errors.EntryFailed:
    return errors.EntryFailed(f"{path}: {reason}", field=field, reason=reason, path=path)


def _refuse_delta(builder: Builder, what: str, field: str) -> None:
    for channel, spec in builder.channels.items():
        if isinstance(spec, DeltaChannel):
            raise errors.UnsupportedGraph(
                f"{what} has the DeltaChannel {channel!r}",
                field=field,
                reason="its checkpoints are not complete by themselves, so they cannot be forked",
            )


def _edges(builder: Builder) -> Iterator[tuple[str, str]]:
    """Where every node can lead: edges, joins, routers, and the destinations of commands."""
    found = dict.fromkeys(sorted(builder.edges))
    for starts, end in sorted(builder.waiting_edges):
        found.update(dict.fromkeys((start, end) for start in starts))
    for start, branches in builder.branches.items():
        for branch in branches.values():
            ends = branch.ends.values() if branch.ends is not None else [*builder.nodes, END]
            found.update(dict.fromkeys((start, end) for end in ends if end != start or branch.ends))
    for name, spec in builder.nodes.items():
        found.update(dict.fromkeys((name, end) for end in spec.ends or ()))
    yield from found


def _function(runnable: Any) -> Any:
    if isinstance(runnable, RunnableCallable):
        return runnable.func or runnable.afunc
    return runnable


def _described(obj: Any) -> str:
    while hasattr(obj, "func") and not inspect.isfunction(obj):
        obj = obj.func  # a partial object or a RunnableLambda: what it calls
    named = obj if hasattr(obj, "__qualname__") else type(obj)
    return f"{named.__module__}:{named.__qualname__}"


def _is_async(runnable: Any) -> bool:
    if isinstance(runnable, RunnableCallable):
        return runnable.func is None  # a sync function has one too, which runs it in a thread
    return type(runnable).ainvoke is not Runnable.ainvoke
