"""The bodies of commands on executions and of their answers: control, history, time travel.

Like `wtb_ray.api`, shared by the HTTP service and its clients; models only.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from wtb_ray.api import Checkpoint
from wtb_ray.model import Case, Execution, Frozen, ProjectVersion, VariantSpec
from wtb_ray.spending import BudgetName
from wtb_ray.states import ExecutionStatus, PauseStrategy

Mode = Literal["clean", "as_it_stands"]
Where = Literal["entry", "exit"]

MOST_FORKS = 100
MOST_ITEMS = 500
RecursionLimit = Annotated[int | None, Field(ge=1, le=100_000)]


class PauseRequest(Frozen):
    """Optional body of `POST executions/{id}/pause`."""

    reason: str | None = Field(default=None, max_length=1000)
    strategy: PauseStrategy | None = None
    """What it keeps meanwhile; null: chosen by how long that will be."""
    expected_s: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """How long it will be paused; null: nobody knows."""


class _OfCell(Frozen):
    """A command that may be meant for one of the cells that share an execution."""

    cell: int | None = None
    """Id of that cell: it gets an execution of its own first. Needed where several share it."""


class StateRequest(_OfCell):
    """Body of `PATCH executions/{id}/state`: what `update_state` of LangGraph takes."""

    values: dict[str, Any] = Field(default_factory=dict)
    """By channel; reducers take them as what a node wrote."""
    as_node: str | None = None
    """Whose write it shall be: the nodes after it come next."""
    replace: bool = False
    """Overwrite the channels instead of reducing into them."""


class StopRequest(_OfCell):
    """Body of `POST executions/{id}/stop`; without a cell, all that share the execution are stopped."""

    reason: str | None = Field(default=None, max_length=1000)
    kill: bool = False
    """Cancel it at once, whatever its nodes are doing."""


class ResumeRequest(_OfCell):
    """Optional body of `POST executions/{id}/resume`."""

    state: dict[str, Any] | None = None
    """Changes of the state, made before it goes on."""
    as_node: str | None = None
    replace: bool = False
    answers: dict[str, Any] = Field(default_factory=dict)
    """To its questions, by interrupt id."""
    recursion_limit: RecursionLimit = None
    """A new limit of super-steps for the whole execution."""

    @model_validator(mode="after")
    def _one_of_both(self) -> "ResumeRequest":
        if self.answers and self.changes:
            raise ValueError("a changed state asks anew: change it first, or answer first")
        return self

    @property
    def changes(self) -> StateRequest | None:
        """What it changes of the state."""
        if self.state is None and self.as_node is None:
            return None
        return StateRequest(values=self.state or {}, as_node=self.as_node, replace=self.replace)


class ResetRequest(_OfCell):
    """Optional body of `POST executions/{id}/reset`."""


class RetryRequest(Frozen):
    """Optional body of `POST executions/{id}/retry`."""

    recursion_limit: RecursionLimit = None


class BreakpointsRequest(Frozen):
    """Body of `PUT executions/{id}/breakpoints`, and the answer of its GET."""

    breakpoints: list[str]
    """`before:node` or `after:node`; a bare node name means before it."""


class Question(Frozen):
    """What an execution asks at its head."""

    id: str
    value: Any = None
    answered: bool
    """It has its answer, and only waits for others."""
    answer_schema: dict[str, Any] | None = None
    """JSON schema of an answer, where the node gave one."""


class AnswersRequest(_OfCell):
    """Body of `POST executions/{id}/interrupts`."""

    answers: dict[str, Any] = Field(min_length=1)
    """By interrupt id."""
    resume: bool = True
    """Send the execution on with them."""


class _Place(Frozen):
    """A checkpoint of the execution's history, by its id or by a node."""

    checkpoint_id: str | None = None
    node: str | None = None
    """Instead of a checkpoint: the newest run of this node on the current branch."""
    where: Where = "exit"
    """Right before the node began, or right after it ended."""

    @model_validator(mode="after")
    def _one_place(self) -> "_Place":
        if self.checkpoint_id is not None and self.node is not None:
            raise ValueError("give a checkpoint_id or a node, not both")
        return self


class RollbackRequest(_Place, _OfCell):
    """Body of `POST executions/{id}/rollback`: back, or forward again, to any checkpoint of it."""

    pause: bool = False
    """Pause it first where it runs; without this a running execution is refused."""
    mode: Mode = "clean"
    """`as_it_stands` keeps what tasks of the next step had finished or been answered there."""

    @model_validator(mode="after")
    def _some_place(self) -> "RollbackRequest":
        if self.checkpoint_id is None and self.node is None:
            raise ValueError("give a checkpoint_id or a node")
        return self


class ForkRequest(_Place):
    """Body of `POST executions/{id}/fork`; without a place, from the head."""

    state: dict[str, Any] | None = None
    """Changes of the state, made before it runs."""
    as_node: str | None = None
    replace: bool = False
    variant_config: dict[str, str] = Field(default_factory=dict)
    """Put over the execution's own binding; the variant `default` takes one back."""
    version: str | None = None
    """A registered version of its project; null keeps that of the execution."""
    breakpoints: list[str] = Field(default_factory=list)
    recursion_limit: RecursionLimit = None
    count: int = Field(default=1, ge=1, le=MOST_FORKS)
    """How many to make."""
    run: bool = False
    """Let them run at once; else they are PAUSED."""
    mode: Mode = "clean"

    @property
    def changes(self) -> StateRequest | None:
        """What it changes of the state."""
        if self.state is None and self.as_node is None:
            return None
        return StateRequest(values=self.state or {}, as_node=self.as_node, replace=self.replace)


class SwapRequest(_OfCell):
    """Body of `POST executions/{id}/swap`: other implementations from the next super-step on."""

    node: str | None = None
    variant: str | None = None
    """The variant that the node gets; `default` is its own implementation."""
    variant_config: dict[str, str] = Field(default_factory=dict)
    """More of these, `{node: variant}`."""
    version: str | None = None
    """A registered version of its project, with all that is new in it."""

    @model_validator(mode="after")
    def _something(self) -> "SwapRequest":
        if (self.node is None) != (self.variant is None):
            raise ValueError("node and variant go together")
        if not self.binding and self.version is None:
            raise ValueError("nothing to swap: give node and variant, or a version")
        return self

    @property
    def binding(self) -> dict[str, str]:
        """What it changes of the binding."""
        one = {} if self.node is None or self.variant is None else {self.node: self.variant}
        return {**self.variant_config, **one}


class ExecuteNodeRequest(Frozen):
    """Optional body of `POST executions/{id}/nodes/{node}/execute`."""

    state: dict[str, Any] | None = None
    """Null takes the state at the head."""


class Forked(Frozen):
    """Answer of `POST executions/{id}/fork`."""

    executions: list[Execution]


class Operation(Frozen):
    """A command that takes longer than its caller waits; answer of `GET operations/{id}`."""

    id: str
    kind: str
    """The command."""
    execution_id: str | None
    status: Literal["RUNNING", "DONE", "FAILED"]
    result: Any = None
    """What the command would have answered."""
    error: dict[str, Any] | None = None
    """`{"code", "message", "details"}`"""
    created_at: datetime
    ended_at: datetime | None = None


class NodeHistory(Frozen):
    """What a node of an execution's graph has done on the current branch."""

    name: str
    """A node inside a subgraph is `outer/inner`."""
    status: Literal["pending", "running", "completed", "failed", "skipped", "unknown"]
    """`unknown`: inside a subgraph that keeps no checkpoints. A node inside a subgraph that waits for
    several others is `pending` until it has ended."""
    runs: int
    """Inside a subgraph: super-steps in which it ended; of those that `Send` starts, the first."""
    duration_ms: float | None
    """Of all runs; null inside a subgraph, where it is not measured."""
    entry: str | None
    """The checkpoint right before its newest run; null inside a subgraph, where none can be gone to."""
    exit: str | None
    """The checkpoint right after it; null while it has not ended, and inside a subgraph."""


class ForkView(Frozen):
    """An execution that was forked from another."""

    id: str
    status: ExecutionStatus
    checkpoint_id: str
    """Where it was forked."""
    step: int | None


class BranchView(Frozen):
    """A branch and the steps that were made on it, oldest first."""

    thread_id: str
    number: int
    parent_thread: str | None
    parent_checkpoint: str | None
    """The checkpoint that it began with."""
    reason: str
    current: bool
    created_at: datetime
    steps: list[Checkpoint]


class BranchTree(Frozen):
    """Answer of `GET executions/{id}/branches`: all that was ever done, abandoned steps included."""

    execution_id: str
    status: ExecutionStatus
    thread_id: str
    """The current branch."""
    head: str | None
    """The checkpoint at which the execution stands."""
    forked_from: str | None
    forked_at: str | None
    branches: list[BranchView]
    forks: list[ForkView]


class RollbackItem(RollbackRequest):
    """One rollback of many."""

    command: Literal["rollback"]
    execution_id: str


class ForkItem(ForkRequest):
    """One fork of many."""

    command: Literal["fork"]
    execution_id: str


Item = Annotated[RollbackItem | ForkItem, Field(discriminator="command")]


class ManyRequest(Frozen):
    """Body of `POST executions/batch`: each item is done, or refused, by itself."""

    items: list[Item] = Field(min_length=1, max_length=MOST_ITEMS)


class Outcome(Frozen):
    """What became of one item; either executions, an operation or an error."""

    execution_id: str
    command: str
    ok: bool
    executions: list[Execution] = Field(default_factory=list)
    operation: Operation | None = None
    error: dict[str, Any] | None = None
    """`{"code", "message", "details"}`"""


class Outcomes(Frozen):
    """Answer of `POST executions/batch`, in the order of the items."""

    items: list[Outcome]


class Renewed(Frozen):
    """A project that was registered anew, and the paused executions that went over to it."""

    version: ProjectVersion
    swapped: list[Outcome]


class NewVariant(VariantSpec):
    """Body of `POST workflows/{name}/nodes/{node}/variants`."""

    name: str = Field(min_length=1, max_length=200)


class VariantChange(Frozen):
    """Body of `PATCH workflows/{name}/nodes/{node}/variants/{variant}`."""

    active: bool
    """False: nothing new may take it; what runs with it goes on."""


class ProjectChange(Frozen):
    """Body of `PATCH workflows/{name}`."""

    active: bool
    """False: nothing new of the project may start; what runs goes on."""


class RerunRequest(Frozen):
    """Optional body of `POST batch-tests/{id}/rerun`: which cells run again."""

    status: list[Literal["FAILED", "CANCELLED", "EXCLUDED"]] = Field(
        default=["FAILED", "CANCELLED"], min_length=1
    )
    """`EXCLUDED` are those that a budget kept from beginning."""
    variant: str | None = None
    """Only of the variant with this name."""
    case: str | None = None
    """Only of the case with this id."""


class BatchChange(Frozen):
    """Body of `PATCH batch-tests/{id}`."""

    budget: dict[BudgetName, FiniteFloat | None] = Field(min_length=1)
    """The budgets that change; null lifts one."""


class ExtendRequest(Frozen):
    """Body of `POST batch-tests/{id}/extend`: what the batch is to have, beside what it has."""

    cases: list[Case | dict[str, Any]] = Field(default_factory=list)
    variants: list[dict[str, str]] = Field(default_factory=list)
    repetitions: int | None = Field(default=None, ge=1)
    """How many there are to be in all; null leaves them."""
