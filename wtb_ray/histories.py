"""What the steps of an execution say about its nodes, and how two states differ: pure functions."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from wtb_ray.api import StateChange
from wtb_ray.control import NodeHistory
from wtb_ray.model import Execution, InnerStep, NodeRun, Step
from wtb_ray.states import ExecutionStatus

Status = Literal["pending", "running", "completed", "failed", "skipped", "unknown"]

OVER = frozenset({ExecutionStatus.COMPLETED, ExecutionStatus.CANCELLED})
"""Statuses in which a node that was not reached will not be, unless somebody goes back."""

Place = tuple[str, str]
"""Thread and root checkpoint after which a super-step was run."""


def nodes(
    names: Iterable[str],
    steps: Sequence[Step],
    execution: Execution,
    subgraphs: Collection[str] = (),
    inner: Sequence[InnerStep] = (),
) -> list[NodeHistory]:
    """What each of these nodes has done.

    Args:
        names: The nodes of the execution's graph; a subgraph comes before the nodes inside it.
        steps: The steps that led to its head, newest first.
        execution: As it is now.
        subgraphs: Which of the nodes are subgraphs.
        inner: What subgraphs did at `places`.
    """
    found: dict[str, NodeHistory] = {}
    for name in names:
        outer = _outer(name, subgraphs)
        if outer is None:
            found[name] = _node(name, steps, execution)
        elif outer in found:
            found[name] = _inner(name, found[outer], _valid(inner, steps, execution), execution)
    return list(found.values())


def places(steps: Sequence[Step], execution: Execution) -> dict[Place, tuple[str, ...]]:
    """Where root super-steps were run, and which nodes ran there, or run there now."""
    ran = {
        (step.thread_id, before.checkpoint_id): tuple(run.name for run in step.nodes)
        for step, before in pairwise(steps)
    }
    if steps:
        ran[execution.thread_id, steps[0].checkpoint_id] = steps[0].next_nodes
    return ran


def _valid(
    inner: Sequence[InnerStep], steps: Sequence[Step], execution: Execution
) -> list[InnerStep]:
    """Without what was run after a checkpoint and then given up, as by a change of the state."""
    known = places(steps, execution)
    return [
        one
        for one in inner
        if any(
            one.path == name or one.path.startswith(f"{name}/")
            for name in known.get((one.thread_id, one.root), ())
        )
    ]


def _outer(name: str, subgraphs: Collection[str]) -> str | None:
    """The subgraph that a node is in."""
    around = [graph for graph in subgraphs if name.startswith(f"{graph}/")]
    return max(around, key=len, default=None)


def _inner(
    name: str, outer: NodeHistory, inner: Sequence[InnerStep], execution: Execution
) -> NodeHistory:
    own = name.removeprefix(f"{outer.name}/")
    steps = [one for one in inner if one.path == outer.name]
    runs = sum(own in one.ran for one in steps)
    upcoming = any(own in one.following for one in steps) and execution.status not in OVER
    return NodeHistory(
        name=name,
        status=_inner_status(name, outer, runs if steps else None, execution, upcoming=upcoming),
        runs=runs,
        duration_ms=None,
        entry=None,
        exit=None,
    )


def _inner_status(
    name: str, outer: NodeHistory, runs: int | None, execution: Execution, *, upcoming: bool
) -> Status:
    """Its status; `runs` is None where the subgraph has left nothing behind."""
    if outer.status == "failed" and _is_blamed(name, execution):
        return "failed"
    if upcoming:
        return "running" if execution.status == ExecutionStatus.RUNNING else "pending"
    if runs:
        return "completed"
    if runs is None and (outer.runs or outer.status in ("running", "failed", "unknown")):
        return "unknown"
    return "skipped" if execution.status in OVER else "pending"


def _is_blamed(name: str, execution: Execution) -> bool:
    """Whether the execution has failed in this node, or inside it."""
    if execution.status != ExecutionStatus.FAILED or execution.error is None:
        return False
    blamed = execution.error.node or ""
    return blamed == name or blamed.startswith(f"{name}/")


def _node(name: str, steps: Sequence[Step], execution: Execution) -> NodeHistory:
    runs = [(i, run) for i, step in enumerate(steps) for run in step.nodes if run.name == name]
    upcoming = bool(steps) and name in steps[0].next_nodes
    status = _status(name, execution, [run for _, run in runs], upcoming=upcoming)
    entry: str | None = None
    exit_: str | None = None
    if upcoming and (status in ("running", "failed") or not runs):
        entry = steps[0].checkpoint_id
    elif runs:
        newest = runs[0][0]
        entry = steps[newest + 1].checkpoint_id if newest + 1 < len(steps) else None
        exit_ = steps[newest].checkpoint_id
    return NodeHistory(
        name=name,
        status=status,
        runs=len(runs),
        duration_ms=sum(run.duration_ms for _, run in runs),
        entry=entry,
        exit=exit_,
    )


def _status(name: str, execution: Execution, runs: Sequence[NodeRun], *, upcoming: bool) -> Status:
    over = execution.status in OVER
    if upcoming and not over:
        if execution.status == ExecutionStatus.RUNNING:
            return "running"
        return "failed" if _is_blamed(name, execution) else "pending"
    if runs:
        return "completed" if runs[0].error is None else "failed"
    return "skipped" if over else "pending"


def state_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, StateChange]:
    """How two states differ, by channel."""
    found: dict[str, StateChange] = {}
    for channel in sorted(before.keys() | after.keys()):
        old, new = before.get(channel), after.get(channel)
        if channel not in before:
            found[channel] = StateChange(change="added", after=new)
        elif channel not in after:
            found[channel] = StateChange(change="removed", before=old)
        elif old != new or type(old) is not type(new):
            found[channel] = StateChange(change="changed", before=old, after=new)
    return found
