"""The bodies of requests and answers, shared by the HTTP service and its clients.

Answers reuse the models of `wtb_ray.model`; what is only ever a wire form stands here.
"""

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import Field

from wtb_ray.environment import EnvSpec, NodeResourceConfig
from wtb_ray.file_entries import FileChange, FileEntry
from wtb_ray.model import (
    LONGEST_DEADLINE_S,
    Budget,
    Case,
    Cost,
    Fault,
    Frozen,
    NodeRun,
    ScorerSpec,
    VariantSpec,
)
from wtb_ray.states import BatchStatus, CellStatus, ExecutionStatus

Item = TypeVar("Item")


class Page(Frozen, Generic[Item], use_attribute_docstrings=False):
    """A part of a list; `next` is the `after` of the following part, or null at the end."""

    items: list[Item]
    next: str | None = None


class ExecuteRequest(Frozen):
    """Body of `POST workflows/{name}/execute`."""

    initial_state: dict[str, Any] = Field(default_factory=dict)
    variant_config: dict[str, str] = Field(default_factory=dict)
    """`{node: variant}`, with an optional `_workflow`."""
    breakpoints: list[str] = Field(default_factory=list)
    """`before:node` or `after:node`; a bare node name means before it."""
    recursion_limit: int | None = Field(default=None, ge=1, le=100_000)
    version: str | None = None
    """A registered version; null takes the newest."""
    priority: int = Field(default=0, ge=-100, le=100)
    deadline_s: float | None = Field(default=None, gt=0, le=LONGEST_DEADLINE_S, allow_inf_nan=False)
    """Seconds from its first start, whatever happens in them, after which it fails."""


class BatchTestRequest(Frozen):
    """Body of `POST batch-tests` and `POST workflows/{name}/batch-test`."""

    project: str | None = None
    """Needed by `batch-tests`; under `workflows/{name}` it is that name."""
    version: str | None = None
    variant_matrix: list[dict[str, str]]
    """Bindings `{node: variant}`; `_workflow` takes another graph, `_name` names the row."""
    test_cases: list[Case | dict[str, Any]]
    """Cases `{"id", "input", "expected", "metadata", "answers"}`; without `input` the rest is the input."""
    scorers: list[ScorerSpec | str] = Field(default_factory=list)
    repetitions: int = 1
    node_errors: Literal["zero", "exclude"] = "zero"
    share_prefix: bool = True
    """Whether variants share the node runs of a case until their ways part."""
    interrupts: Literal["fail", "wait"] = "fail"
    """Whether a cell whose case has no answer to what a node asks fails, or waits for one."""
    priority: int = Field(default=0, ge=-100, le=100)
    recursion_limit: int | None = Field(default=None, ge=1, le=100_000)
    deadline_s: float | None = Field(default=None, gt=0, le=LONGEST_DEADLINE_S, allow_inf_nan=False)
    """Seconds from the first start of a cell, whatever happens in them, after which it fails."""
    budget: Budget | None = None
    """The most that it may use."""


class StopRequest(Frozen):
    """Optional body of `POST batch-tests/{id}/stop`."""

    reason: str | None = Field(default=None, max_length=1000)
    variant: str | None = None
    """Stop this variant alone; what it shares with others goes on for them."""


class NodeView(Frozen):
    """A node of a project with its variants."""

    name: str
    implementation: str
    is_async: bool
    subgraph: bool
    apart: bool = False
    """It runs in an actor of its own."""
    environment: EnvSpec | None = None
    """What it needs beside the environment of the project."""
    resources: NodeResourceConfig | None = None
    fingerprint: str
    variants: dict[str, VariantSpec]


class Checkpoint(Frozen):
    """A checkpoint of an execution, newest first in lists."""

    id: str
    thread_id: str
    step: int
    source: str
    nodes: list[NodeRun]
    next_nodes: list[str]
    duration_ms: float
    manifest: str | None = None
    """The file tree that belongs to it."""
    environment: str | None = None
    """Digest of what its nodes ran in, but those with one of their own."""
    created_at: datetime


class StateView(Frozen):
    """The state at a checkpoint. Values of classes are shown as `{"__type__": ..., ...}`."""

    execution_id: str
    checkpoint_id: str | None
    step: int | None
    status: ExecutionStatus
    next_nodes: list[str]
    values: dict[str, Any]
    interrupts: list[dict[str, Any]] = Field(default_factory=list)


class FileList(Page[FileEntry]):
    """Answer of `GET executions/{id}/files`."""

    execution_id: str
    checkpoint_id: str | None
    """The checkpoint that the files belong to; null: none were kept yet."""


class StateChange(Frozen):
    """How one channel of a state differs."""

    change: Literal["added", "removed", "changed"]
    before: Any = None
    after: Any = None


class FilesDiff(Page[FileChange]):
    """Answer of `GET executions/{id}/diff`, with what was really compared."""

    state: dict[str, StateChange] = Field(default_factory=dict)
    """The channels whose values differ; on the first page only."""

    from_execution: str
    from_checkpoint: str | None
    """Null: no files had been kept before."""
    to_execution: str
    to_checkpoint: str | None


class TrashRestoreRequest(Frozen):
    """Body of `POST executions/{id}/trash/restore`."""

    restore_id: int = Field(ge=1, lt=1 << 63)
    """The restore that displaced the files."""
    paths: list[str] | None = Field(default=None, min_length=1, max_length=100_000)
    """Files, or directories with all that is below them; null: all that it displaced."""


class RestoredTrash(Frozen):
    """Files that were brought back from the trash."""

    execution_id: str
    checkpoint_id: str
    """The checkpoint that they belong to from now on."""
    restore_id: int
    paths: list[str]
    manifest: str


class Progress(Frozen):
    """How far a batch is."""

    id: str
    status: BatchStatus
    total: int
    counts: dict[str, int]
    """Cells by status."""
    finished: int
    percent: float
    rate: float | None
    """Cells ended per second in the recent past; null while nothing can be said."""
    remaining_s: float | None
    """At that rate; null while nothing can be said."""
    remaining_low_s: float | None = None
    remaining_high_s: float | None = None
    """95 % interval of it, as far as cells end independently of each other."""
    cost: Cost = Cost()
    """Sums over the cells, each with the whole cost of its path."""
    cost_incurred: Cost = Cost()
    """What its executions really spent."""
    budget: Budget | None = None


class CellResult(Frozen):
    """One row of a batch's results."""

    id: int
    variant: str
    binding: dict[str, str]
    case_id: str
    repetition: int
    status: CellStatus
    execution_id: str | None
    scores: dict[str, float | None]
    latency_ms: float | None
    node_runs: int | None = None
    """Of the whole path, as `latency_ms` and `usage`."""
    usage: dict[str, float] = Field(default_factory=dict)
    error: dict[str, Any] | None = None
    shared_failure: bool = False
    """Whether it failed together with others, in an execution that they shared."""


class MetricSummary(Frozen):
    """One metric of one variant."""

    metric: str
    n: int
    """Cells that count, errors included where they score 0."""
    cases: int
    """Cases these cells belong to: the unit of the interval."""
    mean: float | None
    low: float | None
    high: float | None
    """95 % interval of the mean."""


class LeaderboardRow(Frozen):
    """One variant."""

    rank: int
    variant: str
    binding: dict[str, str]
    metrics: list[MetricSummary]
    cells: int
    done: int
    errors: int
    """Cells that failed by a node error."""
    excluded: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None


class Leaderboard(Frozen):
    """The variants of a batch in the order of the first metric's mean."""

    batch_id: str
    digest: str
    """Of the results it was computed from."""
    primary: str | None
    node_errors: str
    rows: list[LeaderboardRow]
    complete: bool
    """Whether the batch has ended."""
    notes: list[str] = Field(default_factory=list)


class StoredBundle(Frozen):
    """Answer of `PUT bundles/{sha256}`."""

    digest: str
    bytes: int


class Health(Frozen):
    """Answer of `/health` and `/ready`."""

    status: str
    version: str
    components: dict[str, str] = Field(default_factory=dict)


class AuditCount(Frozen):
    """How often something is in the log, and when first and last."""

    name: str
    events: int
    first: datetime
    last: datetime


class AuditError(Frozen):
    """Failures of one kind: the event's type, the error's code, the node if one failed."""

    type: str
    code: str
    node: str
    events: int
    last: datetime


class AuditSummary(Frozen):
    """Answer of `GET audit/summary`; the most frequent first."""

    events: int
    first: datetime | None
    last: datetime | None
    types: list[AuditCount]
    actors: list[AuditCount]
    errors: list[AuditError]


class TimelineEntry(Frozen):
    """One event of a timeline."""

    cursor: str
    at: datetime
    since_start_s: float
    gap_s: float
    """Since the entry before."""
    actor: str
    type: str
    execution_id: str | None
    what: str
    """The event in words."""


class AuditProblem(Frozen):
    """One thing that is not as it was sealed."""

    kind: Literal[
        "event_changed",
        "event_removed",
        "event_inserted",
        "events_differ",
        "seal_removed",
        "seal_changed",
        "seal_forged",
        "seal_replaced",
        "unknown_key",
        "object_missing",
        "object_changed",
        "chain_broken",
    ]
    message: str
    seal: int | None = None
    cursor: str | None = None
    """Of the event."""
    after: str | None = None
    """With `to`: the part of the log that it concerns."""
    to: str | None = None


class AuditReport(Frozen):
    """Answer of `GET audit/verify`: whether seals and events are as they were sealed."""

    intact: bool
    first: int
    seals: int
    """Seals that were looked at, from `first` on."""
    events: int
    """Events that were compared."""
    problem_count: int
    problems: list[AuditProblem]
    """The first hundred of them."""
    head: str | None
    """The newest seal looked at, as `number:chain`: keep it elsewhere and have it checked later."""
    unsealed: int
    """Events that no seal covers yet."""
    unsealed_since: str | None
    next: int | None
    """The seal at which to go on, null when this was all."""


class NodeOutcome(Frozen):
    """What one node did with a state, when it was tried out alone."""

    node: str
    update: Any = None
    """What it would have written."""
    goto: list[Any] = Field(default_factory=list)
    """Where its command would have gone."""
    interrupts: list[Any] = Field(default_factory=list)
    """What it asked."""
    error: Fault | None = None
    duration_ms: float
