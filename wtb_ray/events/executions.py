"""What happens to executions: their lives, their steps, and what users do to them."""

from typing import Any, Literal

from pydantic import Field

from wtb_ray.events.base import Event
from wtb_ray.frozen import Frozen
from wtb_ray.model import Fault


class ExecutionCreated(Event):
    type: Literal["execution.created"] = "execution.created"
    version: str
    binding: dict[str, str]


class ExecutionStarted(Event):
    type: Literal["execution.started"] = "execution.started"
    owner: str
    epoch: int
    attempt: int


class ExecutionRequeued(Event):
    type: Literal["execution.requeued"] = "execution.requeued"
    reason: str
    suspect: int


class ExecutionPaused(Event):
    type: Literal["execution.paused"] = "execution.paused"
    reason: str
    interrupts: list[dict[str, Any]] = Field(default_factory=list)


class PauseRequested(Event):
    type: Literal["execution.pause_requested"] = "execution.pause_requested"
    reason: str | None = None


class PauseWithdrawn(Event):
    type: Literal["execution.pause_withdrawn"] = "execution.pause_withdrawn"


class ExecutionParked(Event):
    type: Literal["execution.parked"] = "execution.parked"
    strategy: str
    kept: list[str]
    released: list[str]
    left_out: dict[str, str]
    """What the strategy could not be applied to, and why."""
    runner: str | None = None
    host: str | None = None


class StopRequested(Event):
    type: Literal["execution.stop_requested"] = "execution.stop_requested"
    reason: str | None = None


class ExecutionResumed(Event):
    type: Literal["execution.resumed"] = "execution.resumed"
    one_step: bool = False


class ExecutionRetried(Event):
    type: Literal["execution.retried"] = "execution.retried"


class ExecutionRolledBack(Event):
    type: Literal["execution.rolled_back"] = "execution.rolled_back"
    thread_id: str
    checkpoint_id: str
    step: int
    left: str | None
    """The checkpoint that was the head until now."""


class ExecutionForked(Event):
    type: Literal["execution.forked"] = "execution.forked"
    source: str
    checkpoint_id: str
    step: int
    version: str
    binding: dict[str, str]


class SplitPart(Frozen):
    """Cells that go on together."""

    execution: str
    variants: list[int]
    """Their places in the batch."""
    cells: list[int]


class ExecutionSplit(Event):
    type: Literal["execution.split"] = "execution.split"
    thread_id: str
    checkpoint_id: str | None
    """The last one that they share; null: they had not begun."""
    step: int | None
    parts: list[SplitPart]
    """The first one goes on in the execution itself."""


class InterruptAnswered(Event):
    type: Literal["interrupt.answered"] = "interrupt.answered"
    interrupts: list[str]
    prepared: bool = False
    """Whether the answers are those of its case; else somebody gave them."""


class BreakpointsSet(Event):
    type: Literal["breakpoints.set"] = "breakpoints.set"
    breakpoints: list[str]


class NodeSwapped(Event):
    type: Literal["node.swapped"] = "node.swapped"
    node: str
    before: str | None
    """Fingerprint of the implementation until now."""
    after: str | None
    version: str
    binding: dict[str, str]


class StateChanged(Event):
    type: Literal["state.changed"] = "state.changed"
    checkpoint_id: str
    channels: list[str]
    as_node: str | None
    replaced: bool


class NodeExecuted(Event):
    type: Literal["node.executed"] = "node.executed"
    node: str
    duration_ms: float
    error: str | None = None


class ExecutionCompleted(Event):
    type: Literal["execution.completed"] = "execution.completed"
    latency_ms: float
    node_runs: int


class ExecutionFailed(Event):
    type: Literal["execution.failed"] = "execution.failed"
    error: Fault


class ExecutionCancelled(Event):
    type: Literal["execution.cancelled"] = "execution.cancelled"
    reason: str | None = None


class StepCompleted(Event):
    type: Literal["step.completed"] = "step.completed"
    thread_id: str
    checkpoint_id: str
    step: int
    nodes: list[str]
    next_nodes: list[str]
    duration_ms: float
    manifest: str | None = None


class RestorePointCreated(Event):
    type: Literal["restore_point.created"] = "restore_point.created"
    thread_id: str
    checkpoint_id: str
    seq: int
    manifest: str | None
    reason: str


class BranchCreated(Event):
    type: Literal["branch.created"] = "branch.created"
    thread_id: str
    parent_thread: str | None
    parent_checkpoint: str | None
    reason: str
