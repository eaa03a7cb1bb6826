"""What the steps of an execution say about its nodes, and how two states differ: pure functions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from wtb_ray.api import StateChange
from wtb_ray.control import NodeHistory
from wtb_ray.model import Execution, NodeRun, Step
from wtb_ray.states import ExecutionStatus

Status = Literal["pending", "running", "completed", "failed", "skipped"]

OVER = frozenset({ExecutionStatus.COMPLETED, ExecutionStatus.CANCELLED})
"""Statuses in which a node that was not reached will not be, unless somebody goes back."""


def nodes(names: Iterable[str], steps: Sequence[Step], execution: Execution) -> list[NodeHistory]:
    """What each of these nodes has done.

    Args:
        names: The nodes of the execution's graph.
        steps: The steps that led to its head, newest first.
        execution: As it is now.
    """
    return [_node(name, steps, execution) for name in names]


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
        blamed = None if execution.error is None else execution.error.node
        failed = execution.status == ExecutionStatus.FAILED and blamed == name
        return "failed" if failed else "pending"
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
