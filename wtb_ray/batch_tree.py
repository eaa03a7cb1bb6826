"""The tree of a batch: which ways its cells took, what ran on them, and how often each run served.

Paths of all cases are laid over each other: super-steps with the same nodes and the same variants of
them, after the same ones, are one node of the tree. Pure: from the rows of a batch.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from wtb_ray.bindings import DEFAULT
from wtb_ray.frozen import Frozen

Label = tuple[str, ...]


class TreeNode(Frozen):
    """One super-step of the ways that begin alike."""

    parent: int | None
    """Place in the list of the super-step before it; null for the root."""
    nodes: Label
    """Its nodes, as `node` or `node=variant`; empty for the root."""
    runs: int
    """How often it was really run."""
    cells: int
    """Whose ways lead through it: shared runs serve several."""
    duration_ms: float
    """Of all its runs."""
    usage: dict[str, float]
    """What all its runs used."""
    ended: dict[str, int]
    """Cells whose ways end here, by their status."""


class Reuse(Frozen):
    """What sharing came to."""

    node_runs: int
    """That were really made; those that were rolled back included."""
    served: int
    """That there would have been without sharing: the sum over the ways of all cells."""
    duration_ms: float
    """Of the super-steps that were really run."""
    served_ms: float
    """Of those on the ways of all cells."""
    usage: dict[str, float]
    """Really used."""
    served_usage: dict[str, float]


class BatchTree(Frozen):
    """Answer of `GET batch-tests/{id}/tree`."""

    batch_id: str
    executions: int
    cells: int
    """Those that have begun."""
    reuse: Reuse
    nodes: tuple[TreeNode, ...]
    """The root first, each before what follows it. A list, since ways are longer than JSON is deep."""


class StepRow(NamedTuple):
    """A super-step of a batch as it is stored."""

    thread_id: str
    step: int
    nodes: str
    """JSON list of NodeRun."""
    duration_ms: float


class BranchRow(NamedTuple):
    """A branch of one of its executions, and the last step that it took over from its parent."""

    thread_id: str
    parent_thread: str | None
    parent_step: int | None


class WayRow(NamedTuple):
    """An execution with the cells that it runs for, by status."""

    thread_id: str
    binding: Mapping[str, str]
    cells: Mapping[str, int]


@dataclass
class _Step:
    number: int
    runs: Sequence[Mapping[str, Any]]
    duration_ms: float
    usage: Counter[str]


@dataclass
class _Node:
    nodes: Label = ()
    steps: dict[int, _Step] = field(default_factory=dict)
    """By identity: each counts once, however many cells it serves."""
    cells: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    children: "dict[Label, _Node]" = field(default_factory=dict)


def tree(
    batch_id: str,
    ways: Sequence[WayRow],
    branches: Iterable[BranchRow],
    steps: Iterable[StepRow],
) -> BatchTree:
    """The tree of these executions."""
    known = {branch.thread_id: branch for branch in branches}
    made: dict[str, list[_Step]] = {}
    for row in sorted(steps, key=lambda row: row.step):
        made.setdefault(row.thread_id, []).append(_step(row))
    root, served = _Node(), _Tally()
    for way in ways:
        count = sum(way.cells.values())
        if not count:
            continue
        at = root
        at.cells += count
        for step in _path(way.thread_id, known, made):
            label = tuple(sorted(_label(str(run["name"]), way.binding) for run in step.runs))
            at = at.children.setdefault(label, _Node(label))
            at.steps[id(step)] = step
            at.cells += count
            served.add(step, count)
        at.ended.update(way.cells)
    spent = _Tally()
    for found in made.values():
        for step in found:
            spent.add(step, 1)
    return BatchTree(
        batch_id=batch_id,
        executions=len(ways),
        cells=root.cells,
        reuse=Reuse(
            node_runs=spent.node_runs,
            served=served.node_runs,
            duration_ms=spent.duration_ms,
            served_ms=served.duration_ms,
            usage=dict(spent.usage),
            served_usage=dict(served.usage),
        ),
        nodes=tuple(_listed(root)),
    )


@dataclass
class _Tally:
    node_runs: int = 0
    duration_ms: float = 0.0
    usage: Counter[str] = field(default_factory=Counter)

    def add(self, step: _Step, times: int) -> None:
        self.node_runs += times * len(step.runs)
        self.duration_ms += times * step.duration_ms
        for key, amount in step.usage.items():
            self.usage[key] += times * amount


def _step(row: StepRow) -> _Step:
    runs = orjson.loads(row.nodes)
    usage: Counter[str] = Counter()
    for run in runs:
        for key, amount in run.get("usage", {}).items():
            usage[key] += amount
    return _Step(row.step, runs, row.duration_ms, usage)


def _path(
    thread: str, branches: Mapping[str, BranchRow], steps: Mapping[str, Sequence[_Step]]
) -> Iterator[_Step]:
    """The super-steps with nodes that led to the head of a thread, oldest first."""
    chain: list[tuple[str, int | None]] = [(thread, None)]
    while (branch := branches.get(chain[-1][0])) is not None and branch.parent_thread is not None:
        chain.append((branch.parent_thread, branch.parent_step))
    for place, last in reversed(chain):
        for step in steps.get(place, ()):
            if step.runs and (last is None or step.number <= last):
                yield step


def _label(node: str, binding: Mapping[str, str]) -> str:
    own = binding.get(node, DEFAULT)
    inner = sorted(
        f"{path.removeprefix(node + '/')}={variant}"
        for path, variant in binding.items()
        if path.startswith(f"{node}/") and variant != DEFAULT
    )
    label = node if own == DEFAULT else f"{node}={own}"
    return f"{label}({', '.join(inner)})" if inner else label


def _listed(root: _Node) -> Iterator[TreeNode]:
    waiting: list[tuple[int | None, _Node]] = [(None, root)]
    for place in itertools.count():
        if not waiting:
            return
        parent, node = waiting.pop()
        usage: Counter[str] = Counter()
        for step in node.steps.values():
            usage.update(step.usage)
        yield TreeNode(
            parent=parent,
            nodes=node.nodes,
            runs=len(node.steps),
            cells=node.cells,
            duration_ms=sum(step.duration_ms for step in node.steps.values()),
            usage=dict(usage),
            ended=dict(sorted(node.ended.items())),
        )
        following = sorted(node.children.values(), key=lambda child: (-child.cells, child.nodes))
        waiting += ((place, child) for child in reversed(following))
