"""Everything that can happen, as one union discriminated by `type`, in the past tense.

An event row is `(xid, seq, at, type, project, execution_id, batch_id, actor, payload)`; the payload
is the canonical JSON of the fields declared here. The cursor of an event is the opaque `xid.seq`.
"""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, TypeAdapter

from wtb_ray import errors
from wtb_ray.model import Fault, Frozen, canonical
from wtb_ray.rates import LimitSpec


class Cursor(Frozen):
    """A position in the event log: transaction id and sequence number."""

    START: ClassVar["Cursor"]

    xid: int = 0
    seq: int = 0

    def __str__(self) -> str:
        return f"{self.xid}.{self.seq}"

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """The cursor of its text form.

        Raises:
            InvalidRequest: The text is no cursor.
        """
        xid, dot, seq = text.partition(".")
        if not (dot and xid.isdecimal() and seq.isdecimal()):
            raise errors.InvalidRequest(
                f"after={text!r} is not a cursor", field="after", reason="form is <xid>.<seq>"
            )
        return cls(xid=int(xid), seq=int(seq))


Cursor.START = Cursor()


class Event(Frozen):
    """Base of all events; ids are columns of the row, fields are its payload."""

    type: str

    def payload(self) -> str:
        """Canonical JSON of the fields without the type."""
        return canonical(self.model_dump(mode="json", exclude={"type"}))


class ProjectRegistered(Event):
    type: Literal["project.registered"] = "project.registered"
    version: str


class ProjectActivated(Event):
    type: Literal["project.activated"] = "project.activated"


class ProjectDeactivated(Event):
    type: Literal["project.deactivated"] = "project.deactivated"


class ProjectRemoved(Event):
    type: Literal["project.removed"] = "project.removed"
    version: str
    """Its newest version."""


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


class FilesRestored(Event):
    type: Literal["files.restored"] = "files.restored"
    manifest: str
    restored: int
    removed: int
    displaced: str | None
    """Manifest of what was there before; None when there was nothing."""
    reason: str


class TrashRestored(Event):
    type: Literal["trash.restored"] = "trash.restored"
    restore_id: int
    paths: list[str]
    manifest: str


class WorkspaceKept(Event):
    type: Literal["workspace.kept"] = "workspace.kept"
    host: str
    path: str
    reason: str


class InputsHealed(Event):
    type: Literal["workspace.inputs_healed"] = "workspace.inputs_healed"
    host: str
    paths: list[str]


class WorkspacesSwept(Event):
    type: Literal["workspaces.swept"] = "workspaces.swept"
    host: str
    removed: int
    freed_bytes: int
    kept: int


class BranchCreated(Event):
    type: Literal["branch.created"] = "branch.created"
    thread_id: str
    parent_thread: str | None
    parent_checkpoint: str | None
    reason: str


class BatchCreated(Event):
    type: Literal["batch.created"] = "batch.created"
    version: str
    variants: list[str]
    cases: int
    cells: int


class BatchStarted(Event):
    type: Literal["batch.started"] = "batch.started"


class BatchPaused(Event):
    type: Literal["batch.paused"] = "batch.paused"


class BatchResumed(Event):
    type: Literal["batch.resumed"] = "batch.resumed"


class BatchCompleted(Event):
    type: Literal["batch.completed"] = "batch.completed"
    counts: dict[str, int]


class BudgetExceeded(Event):
    type: Literal["batch.budget_exceeded"] = "batch.budget_exceeded"
    budget: str
    """Which of them: a field of `Budget`."""
    limit: float
    spent: float
    excluded: int
    """Cells that will not run."""


class BatchRerun(Event):
    type: Literal["batch.rerun"] = "batch.rerun"
    cells: int
    reopened: bool


class BatchExtended(Event):
    type: Literal["batch.extended"] = "batch.extended"
    variants: list[str]
    """Names of those that are new."""
    cases: int
    """How many are new."""
    repetitions: int
    """How many there are now."""
    cells: int
    """How many are new."""
    reopened: bool


class BatchFailed(Event):
    type: Literal["batch.failed"] = "batch.failed"
    reason: str


class BatchCancelled(Event):
    type: Literal["batch.cancelled"] = "batch.cancelled"
    reason: str | None = None


class VariantStopped(Event):
    type: Literal["batch.variant_stopped"] = "batch.variant_stopped"
    variant: str
    cells: int
    """Those that had not ended."""
    reason: str | None = None


class CellScored(Event):
    type: Literal["cell.scored"] = "cell.scored"
    cell: int
    variant: str
    case: str
    repetition: int
    scores: dict[str, float | None]


class CellFailed(Event):
    type: Literal["cell.failed"] = "cell.failed"
    cell: int
    variant: str
    case: str
    repetition: int
    error: Fault
    shared_failure: bool = False
    """Whether the execution that failed was shared with other cells, which failed with it."""


class EnvironmentRegistered(Event):
    type: Literal["environment.registered"] = "environment.registered"
    digest: str
    venv: str


class EnvironmentDeleted(Event):
    type: Literal["environment.deleted"] = "environment.deleted"
    digest: str


class LimitSet(Event):
    type: Literal["limit.set"] = "limit.set"
    name: str
    spec: LimitSpec


class LimitRemoved(Event):
    type: Literal["limit.removed"] = "limit.removed"
    name: str


class VenvBuilt(Event):
    type: Literal["venv.built"] = "venv.built"
    host: str
    venv: str
    path: str
    bytes: int
    seconds: float
    packages: dict[str, str]


class VenvFailed(Event):
    type: Literal["venv.failed"] = "venv.failed"
    host: str
    venv: str
    error: dict[str, Any]
    permanent: bool
    """Whether it is the answer until somebody retries."""


class VenvInvalidated(Event):
    type: Literal["venv.invalidated"] = "venv.invalidated"
    host: str
    venv: str


class VenvEvicted(Event):
    type: Literal["venv.evicted"] = "venv.evicted"
    host: str
    venv: str
    path: str
    bytes: int
    reason: str


class RunnerStarted(Event):
    type: Literal["runner.started"] = "runner.started"
    runner: str
    pool: str
    epoch: int
    host: str
    pid: int


class RunnerLost(Event):
    type: Literal["runner.lost"] = "runner.lost"
    runner: str
    reason: str
    executions: int


class RunnerLagged(Event):
    type: Literal["runner.lagged"] = "runner.lagged"
    runner: str
    lag_ms: float
    nodes: list[str]


class RunnerShort(Event):
    """A runner takes no more work until there is memory again."""

    type: Literal["runner.short"] = "runner.short"
    runner: str
    whose: str
    """`process` or `host`."""
    reason: str


class RunnerUnplaced(Event):
    """No runner can be started for a version, so that its work waits."""

    type: Literal["runner.unplaced"] = "runner.unplaced"
    version: str
    reason: str


class ObjectsCollected(Event):
    type: Literal["objects.collected"] = "objects.collected"
    collection: int
    marked: int
    """Objects that can be reached."""
    swept: int
    swept_bytes: int


class ObjectsDamaged(Event):
    type: Literal["objects.damaged"] = "objects.damaged"
    digest: str
    reason: str


class ObjectsRepaired(Event):
    type: Literal["objects.repaired"] = "objects.repaired"
    digest: str
    source: str


class LeaderboardComputed(Event):
    type: Literal["leaderboard.computed"] = "leaderboard.computed"
    digest: str


class IntegrityChecked(Event):
    type: Literal["integrity.checked"] = "integrity.checked"
    report: str
    deep: bool
    healthy: bool
    kinds: dict[str, int]
    """Findings by kind."""
    severities: dict[str, int]


class IntegrityRepaired(Event):
    type: Literal["integrity.repaired"] = "integrity.repaired"
    report: str
    finding: str
    problem: str
    ids: dict[str, str]
    what: str
    """What was done."""


AnyEvent = Annotated[
    ProjectRegistered
    | ProjectActivated
    | ProjectDeactivated
    | ProjectRemoved
    | ExecutionCreated
    | ExecutionStarted
    | ExecutionRequeued
    | ExecutionPaused
    | PauseRequested
    | ExecutionParked
    | PauseWithdrawn
    | StopRequested
    | ExecutionResumed
    | ExecutionRetried
    | ExecutionRolledBack
    | ExecutionForked
    | ExecutionSplit
    | InterruptAnswered
    | BreakpointsSet
    | NodeSwapped
    | StateChanged
    | NodeExecuted
    | ExecutionCompleted
    | ExecutionFailed
    | ExecutionCancelled
    | StepCompleted
    | RestorePointCreated
    | FilesRestored
    | TrashRestored
    | WorkspaceKept
    | InputsHealed
    | WorkspacesSwept
    | BranchCreated
    | BatchCreated
    | BatchStarted
    | BatchPaused
    | BatchResumed
    | BatchCompleted
    | BudgetExceeded
    | BatchRerun
    | BatchExtended
    | BatchFailed
    | BatchCancelled
    | VariantStopped
    | CellScored
    | CellFailed
    | EnvironmentRegistered
    | EnvironmentDeleted
    | LimitSet
    | LimitRemoved
    | VenvBuilt
    | VenvFailed
    | VenvInvalidated
    | VenvEvicted
    | RunnerStarted
    | RunnerLost
    | RunnerLagged
    | RunnerShort
    | RunnerUnplaced
    | LeaderboardComputed
    | IntegrityChecked
    | IntegrityRepaired
    | ObjectsCollected
    | ObjectsDamaged
    | ObjectsRepaired,
    Field(discriminator="type"),
]

EVENT: TypeAdapter[Event] = TypeAdapter(AnyEvent)
TYPES: dict[str, type[Event]] = {
    cls.model_fields["type"].default: cls for cls in get_args(get_args(AnyEvent)[0])
}


class EventRow(Frozen):
    """An event as it is read back, with its place in the log."""

    cursor: str
    at: datetime
    type: str
    project: str | None
    execution_id: str | None
    batch_id: str | None
    actor: str
    payload: dict[str, Any]
