"""Everything that can happen, as one union discriminated by `type`, in the past tense.

An event row is `(xid, seq, at, type, project, execution_id, batch_id, actor, payload)`; the payload
is the canonical JSON of the fields declared here. The cursor of an event is the opaque `xid.seq`.
"""

from datetime import datetime
from typing import Annotated, Any, get_args

from pydantic import Field, TypeAdapter

from wtb_ray.events.base import Cursor, Event
from wtb_ray.events.batches import (
    BatchCancelled,
    BatchCompleted,
    BatchCreated,
    BatchExtended,
    BatchFailed,
    BatchPaused,
    BatchRerun,
    BatchResumed,
    BatchStarted,
    BudgetChanged,
    BudgetExceeded,
    CellFailed,
    CellScored,
    LeaderboardComputed,
    VariantStopped,
)
from wtb_ray.events.executions import (
    BranchCreated,
    BreakpointsSet,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionCreated,
    ExecutionFailed,
    ExecutionForked,
    ExecutionParked,
    ExecutionPaused,
    ExecutionRequeued,
    ExecutionResumed,
    ExecutionRetried,
    ExecutionRolledBack,
    ExecutionSplit,
    ExecutionStarted,
    InterruptAnswered,
    NodeExecuted,
    NodeSwapped,
    PauseRequested,
    PauseWithdrawn,
    RestorePointCreated,
    SplitPart,
    StateChanged,
    StepCompleted,
    StopRequested,
)
from wtb_ray.events.files import (
    FilesRestored,
    ObjectsCollected,
    ObjectsDamaged,
    ObjectsRepaired,
    TrashRestored,
)
from wtb_ray.events.hosts import (
    InputsHealed,
    IntegrityChecked,
    IntegrityRepaired,
    RunnerLagged,
    RunnerLost,
    RunnerShort,
    RunnerStarted,
    RunnerUnplaced,
    WorkspaceKept,
    WorkspacesSwept,
)
from wtb_ray.events.projects import (
    EnvironmentDeleted,
    EnvironmentRegistered,
    LimitRemoved,
    LimitSet,
    ProjectActivated,
    ProjectDeactivated,
    ProjectRegistered,
    ProjectRemoved,
    VenvBuilt,
    VenvEvicted,
    VenvFailed,
    VenvInvalidated,
)
from wtb_ray.frozen import Frozen

__all__ = [
    "EVENT",
    "TYPES",
    "AnyEvent",
    "BatchCancelled",
    "BatchCompleted",
    "BatchCreated",
    "BatchExtended",
    "BatchFailed",
    "BatchPaused",
    "BatchRerun",
    "BatchResumed",
    "BatchStarted",
    "BranchCreated",
    "BreakpointsSet",
    "BudgetChanged",
    "BudgetExceeded",
    "CellFailed",
    "CellScored",
    "Cursor",
    "EnvironmentDeleted",
    "EnvironmentRegistered",
    "Event",
    "EventRow",
    "ExecutionCancelled",
    "ExecutionCompleted",
    "ExecutionCreated",
    "ExecutionFailed",
    "ExecutionForked",
    "ExecutionParked",
    "ExecutionPaused",
    "ExecutionRequeued",
    "ExecutionResumed",
    "ExecutionRetried",
    "ExecutionRolledBack",
    "ExecutionSplit",
    "ExecutionStarted",
    "FilesRestored",
    "InputsHealed",
    "IntegrityChecked",
    "IntegrityRepaired",
    "InterruptAnswered",
    "LeaderboardComputed",
    "LimitRemoved",
    "LimitSet",
    "NodeExecuted",
    "NodeSwapped",
    "ObjectsCollected",
    "ObjectsDamaged",
    "ObjectsRepaired",
    "PauseRequested",
    "PauseWithdrawn",
    "ProjectActivated",
    "ProjectDeactivated",
    "ProjectRegistered",
    "ProjectRemoved",
    "RestorePointCreated",
    "RunnerLagged",
    "RunnerLost",
    "RunnerShort",
    "RunnerStarted",
    "RunnerUnplaced",
    "SplitPart",
    "StateChanged",
    "StepCompleted",
    "StopRequested",
    "TrashRestored",
    "VariantStopped",
    "VenvBuilt",
    "VenvEvicted",
    "VenvFailed",
    "VenvInvalidated",
    "WorkspaceKept",
    "WorkspacesSwept",
]

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
    | BudgetChanged
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
