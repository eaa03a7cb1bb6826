"""Frozen models and ids that all layers share."""

import secrets
import time
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, model_validator

from wtb_ray.case import Case as Case
from wtb_ray.environment import EnvironmentConfig, EnvSpec, ExecutionConfig, NodeResourceConfig
from wtb_ray.frozen import Frozen as Frozen
from wtb_ray.frozen import canonical as canonical
from wtb_ray.frozen import digest as digest
from wtb_ray.spending import Budget as Budget
from wtb_ray.spending import Cost as Cost
from wtb_ray.states import BatchStatus, ExecutionStatus, PauseStrategy

VENV = "/.venv/"
"""Where the copy of the environment is in a workspace, as an ignore pattern."""
NAMESPACE = "wtb"
"""Ray namespace of every actor of the bench."""

LONGEST_DEADLINE_S = 365 * 86400.0
BUNDLE_MAX_MB = 64
BUNDLE_MAX_FILES = 10_000
BUNDLE_RESERVED = frozenset({"ray", "langgraph", "wtb_ray"})
"""Top-level names that a bundle must not have: it would hide the bench's own packages."""
BUNDLE_MAIN = ".wtb-main"
"""File in a bundle: the path of the script that runs as `MAIN_MODULE`."""
BUNDLE_PATHS = ".wtb-paths"
"""File in a bundle: further folders for `sys.path`, one a line."""
MAIN_MODULE = "__wtb_main__"
"""What a script that was `__main__` at the user's is called wherever it is imported."""
RUNNER_ENV = "WTB_IN_RUNNER"
"""Environment variable of processes that import users' code."""


def new_id(prefix: str) -> str:
    """A unique id that sorts by creation time: prefix, 12 hex of milliseconds, 12 random hex."""
    return f"{prefix}{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}"


def request_digest(method: str, path: str, query: str, body: bytes) -> str:
    """What makes a request another one under the same idempotency key."""
    return digest([method, path, query, digest(body)])


def keyed_seed(key: str, request: str) -> str:
    """What the ids of all that a command makes come from, if it has an idempotency key."""
    return digest([key, request])


def keyed_id(prefix: str, seed: str) -> str:
    """The id of what a command makes: known to whoever has sent it, before it is answered."""
    return f"{prefix}{seed[:24]}"


def thread_id(execution_id: str, branch: int) -> str:
    """The LangGraph thread of an execution's n-th branch."""
    return f"{execution_id}.{branch}"


class VariantSpec(Frozen):
    """Another implementation of a node, or the same one with other parameters."""

    implementation: str | None = None
    """`"pkg.module:function"`; None keeps the node's own implementation."""
    params: dict[str, Any] = Field(default_factory=dict)
    """What `wtb_ray.params()` gives inside the node."""
    active: bool = True
    """False: nothing new may take it; what has it goes on."""
    environment: EnvSpec | None = None
    """Its own environment; None is that of its node. It then runs in an actor of its own."""
    resources: NodeResourceConfig | None = None
    """Its own resources; None are those of its node. It then runs in an actor of its own."""


class FileTrackingConfig(Frozen):
    """Which files of a workspace belong to every checkpoint, and what happens to them."""

    enabled: bool = True
    """False: files are neither kept nor restored, and finished nodes of a cut-off step do not run again."""
    tracked_paths: tuple[str, ...] = ()
    """Directories of the workspace, relative to it; empty: all of it but `input/`."""
    ignore_patterns: tuple[str, ...] = (".git/", "__pycache__/", "*.pyc", "*.log", "*.tmp")
    """Files left out, in gitignore syntax, relative to the workspace; later patterns win."""
    commit_on: Literal["checkpoint", "node_complete", "manual"] = "checkpoint"
    """When files are kept: at every restore point, only after steps in which nodes ran, or only
    where a node called `workspace().commit()` since the last time."""
    max_file_mb: int = Field(default=2048, ge=1)
    """A larger tracked file is refused."""
    max_files: int = Field(default=200_000, ge=1)
    """More tracked files are refused."""
    max_snapshots: int | None = Field(default=None, ge=1)
    """Steps of an execution whose files are kept, newest first; None keeps all of them."""
    on_error: Literal["fail", "pause"] = "fail"
    """What becomes of an execution whose files cannot be kept or restored."""


class WorkspaceIsolationConfig(Frozen):
    """The directory that each execution has for itself, see `wtb_ray.workspace()`."""

    isolation: Literal["runner", "process"] = "runner"
    """`process`: one execution at a time in a runner, with the workspace as its current directory."""
    inputs: tuple[str, ...] = ()
    """Files and directories of the project's folder that appear below `input/`, read only."""
    strategy: Literal["full_copy", "hardlink_with_fallback", "symlink"] = "full_copy"
    """How inputs get there. Copies share blocks where the file system can; hard links are not made
    for root, whom a read-only file does not stop."""
    quota_mb: int | None = Field(default=None, ge=1)
    """Most that the files of a workspace may take; looked at wherever they are kept."""
    cleanup_on_complete: bool = True
    """Remove the directory of an execution that has completed or was cancelled."""
    preserve_on_failure: bool = True
    """Leave the directory of a failed execution for somebody to look at, until it is swept."""


class ProjectSpec(Frozen):
    """What a project version is made of; its digest is the version."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    entry: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`"pkg.module:name"` of a StateGraph, a factory of one, or a compiled graph."""
    bundle: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the code archive; None when the entry is importable wherever the bench runs."""
    variants: dict[str, dict[str, VariantSpec]] = Field(default_factory=dict)
    """node -> variant name -> variant."""
    workflow_variants: dict[str, str] = Field(default_factory=dict)
    """name -> entry of a whole other graph."""
    state_types: tuple[str, ...] = ()
    """`"pkg.module:Class"` of further classes that may be stored in state."""
    description: str = ""
    file_tracking: FileTrackingConfig | None = None
    """None: files are not tracked."""
    workspace_isolation: WorkspaceIsolationConfig | None = None
    """None: a workspace is made when a node first asks for it."""
    environment: EnvironmentConfig | None = None
    """None: everything runs in the environment of the bench."""
    execution: ExecutionConfig | None = None

    @model_validator(mode="after")
    def _as_fine_as_said(self) -> "ProjectSpec":
        grain = "workflow" if self.environment is None else self.environment.granularity
        for node, variants in self.variants.items():
            for name, variant in variants.items():
                if variant.environment is not None and grain != "variant":
                    raise ValueError(
                        f"variant {name!r} of {node!r} has an environment, which needs"
                        ' EnvironmentConfig(granularity="variant")'
                    )
        return self

    @property
    def environment_of_all(self) -> EnvSpec | None:
        """The environment of the runners of this version; None is that of the bench."""
        return None if self.environment is None else self.environment.default_env

    def environment_of(self, node: str, variant: VariantSpec | None) -> EnvSpec | None:
        """The environment that a node has for itself under this variant of it, if any."""
        if variant is not None and variant.environment is not None:
            return variant.environment
        return None if self.environment is None else self.environment.node_environments.get(node)

    def resources_of(self, node: str, variant: VariantSpec | None) -> NodeResourceConfig | None:
        """The resources that a node has for itself under this variant of it, if any."""
        if variant is not None and variant.resources is not None:
            return variant.resources
        return None if self.execution is None else self.execution.node_resources.get(node)

    @property
    def tracking(self) -> bool:
        """Whether every restore point holds files too."""
        return self.file_tracking is not None and self.file_tracking.enabled

    @property
    def tracked_files(self) -> FileTrackingConfig | None:
        """Which files are kept, if any are; a copy of the environment never is."""
        found = self.file_tracking
        if found is None or not found.enabled or not self.copies_environment:
            return found if self.tracking else None
        return found.model_copy(update={"ignore_patterns": (*found.ignore_patterns, VENV)})

    @property
    def copies_environment(self) -> bool:
        """Whether each workspace gets a copy of the environment."""
        return self.environment is not None and self.environment.copy_to_workspace

    def version(self) -> str:
        """The digest that names this version; what is not configured leaves it as it was before."""
        optional = ("file_tracking", "workspace_isolation", "environment", "execution")
        unset = {name for name in optional if getattr(self, name) is None}
        found = self.model_dump(mode="json", exclude=unset)
        for name in ("volatile_nodes", "node_timeouts", "default_timeout_s", "retries"):
            if found.get("execution") and not found["execution"][name]:
                del found["execution"][name]
        for variant in (v for variants in found["variants"].values() for v in variants.values()):
            if variant["active"]:
                del variant["active"]
            for name in ("environment", "resources"):
                if variant[name] is None:
                    del variant[name]
        return digest(found)


class NodeInfo(Frozen):
    """A node as registration found it."""

    name: str
    implementation: str
    is_async: bool
    subgraph: bool = False
    apart: bool = False
    """It runs in an actor of its own: it has an environment or resources."""
    fingerprint: str
    """Digest of code, closure values and partial arguments."""
    variants: dict[str, str] = Field(default_factory=dict)
    """Fingerprints of the variants that have an implementation of their own."""


class GraphInfo(Frozen):
    """A graph as registration found it."""

    nodes: tuple[NodeInfo, ...]
    edges: tuple[tuple[str, str], ...]
    channels: tuple[str, ...]
    input_channels: tuple[str, ...]


class ProjectVersion(Frozen):
    """A registered version of a project."""

    project: str
    version: str
    spec: ProjectSpec
    graph: GraphInfo
    workflows: dict[str, GraphInfo] = Field(default_factory=dict)
    created_at: datetime
    active: bool = True
    """False: nothing new of its project may start; what runs goes on."""


class Fault(Frozen):
    """Why an execution or cell failed, in a form that can be stored and shown."""

    code: str
    """Stable code of `wtb_ray.errors`, e.g. `node_failed`, `runner_died`."""
    type: str
    """Class name of the exception."""
    message: str
    node: str | None = None
    attempt: int = 1
    """Which try of the node raised, by its retry policy."""
    traceback: str | None = None


class Parking(Frozen):
    """What a paused execution keeps of what it had for itself, and what it gave back."""

    strategy: PauseStrategy
    kept: tuple[str, ...] = ()
    """Of `workspace`, `graph`, `nodes` and `process`."""
    released: tuple[str, ...] = ()
    left_out: dict[str, str] = Field(default_factory=dict)
    """What the strategy could not be applied to, and why."""
    runner: str | None = None
    """The runner that had it."""
    host: str | None = None


class Execution(Frozen):
    """One run of one input."""

    id: str
    project: str
    version: str
    binding: dict[str, str]
    status: ExecutionStatus
    reason: str | None = None
    wanted: str = "run"
    epoch: int
    owner: str | None = None
    thread_id: str
    head: str | None = None
    head_step: int | None = None
    recursion_limit: int
    breakpoints: tuple[str, ...] = ()
    batch_id: str | None = None
    case_id: str | None = None
    repetition: int | None = None
    attempt: int = 0
    suspect: int = 0
    error: Fault | None = None
    latency_ms: float | None = None
    node_runs: int = 0
    usage: dict[str, float] = Field(default_factory=dict)
    """Sums of what nodes on its path said that they used, by key, once it has ended."""
    spent: Cost | None = None
    """What it really spent itself, up to the last time it was given back or ended: a shared prefix
    counts where it ran, steps that were gone back from count too."""
    deadline_s: float | None = None
    """Seconds from its first start, or from where it was brought back, after which it fails."""
    forked_from: str | None = None
    """The execution that it was forked from."""
    forked_at: str | None = None
    """The checkpoint that it began with."""
    parking: Parking | None = None
    """While it is paused: what it keeps."""
    environment: str | None = None
    """Digest of what it runs in, or ran in last; `GET environments/{digest}` says what is installed."""
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None


class Assignment(Frozen):
    """One execution given to a runner: all that it needs to start or go on."""

    execution_id: str
    epoch: int
    thread_id: str
    head: str | None
    head_step: int | None
    version: str
    project: str
    binding: dict[str, str]
    input: Any = None
    recursion_limit: int
    breakpoints: tuple[str, ...] = ()
    batch_id: str | None = None
    case_id: str | None = None
    repetition: int = 0
    attempt: int = 1
    suspect: int = 0
    expected: Any = None
    """What the batch's case expects; for the scorers."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """The case's metadata; for the scorers."""
    case_answers: tuple[Any, ...] = ()
    """The case's answers to what its nodes ask."""
    answered: int = 0
    """How many questions on the way to the head have their answer."""
    members: tuple[int, ...] = ()
    """The variants of its batch that it still runs for, by their places."""
    manifest: str | None = None
    """The file tree of its newest restore point, when files are tracked."""
    wanted: str = "run"
    """`step`: run one super-step; `pause` and `drain`: stop at the next boundary."""
    passed: str | None = None
    """The checkpoint whose breakpoints a user has sent it past."""
    environment: str | None = None
    """Digest of what the runner runs in."""
    left_s: float | None = None
    """Seconds until its deadline, when it was given out; None: it has none."""
    clean_from: int = 0
    """Workspaces of epochs below it are not gone on with."""
    ran: tuple[str, ...] = ()
    """The nodes that ended in the head."""
    answers: dict[str, Any] = Field(default_factory=dict)
    """To questions at the head, by interrupt id."""


class Branch(Frozen):
    """One LangGraph thread of an execution."""

    thread_id: str
    execution_id: str
    number: int
    parent_thread: str | None = None
    parent_checkpoint: str | None = None
    reason: str
    created_at: datetime


class NodeRun(Frozen):
    """One node in one super-step."""

    name: str
    task_id: str
    duration_ms: float
    """Without the time in which it waited for limits."""
    waited_ms: float = 0.0
    """How long it waited for limits, see `wtb_ray.limit`."""
    error: str | None = None
    environment: str | None = None
    """Digest of what it ran in, where that was one of its own."""
    usage: dict[str, float] = Field(default_factory=dict)
    """What it said by `wtb_ray.usage` that it used, of all attempts."""


class Step(Frozen):
    """One root super-step, and the checkpoint that it ended in."""

    thread_id: str
    checkpoint_id: str
    step: int
    source: str
    nodes: tuple[NodeRun, ...]
    next_nodes: tuple[str, ...]
    duration_ms: float
    manifest: str | None = None
    environment: str | None = None
    """Digest of what its nodes ran in, but those with one of their own."""
    created_at: datetime


class InnerStep(Frozen):
    """One super-step of a subgraph, within a root super-step."""

    thread_id: str
    root: str
    """The root checkpoint after which the subgraph ran."""
    path: str
    """Of the subgraph: `outer`, or `outer/inner`."""
    ran: tuple[str, ...]
    """The nodes that ended in it."""
    following: tuple[str, ...]
    """Of its last super-step: nodes that come next; such as wait for several others are not told."""


class ScorerSpec(Frozen):
    """A scorer by name or import path, with its arguments."""

    name: str
    """A built-in name (`exact`, `token_f1`, ...) or `"pkg.module:function"` of the project."""
    args: dict[str, Any] = Field(default_factory=dict)

    def digest(self) -> str:
        return digest(self.model_dump(mode="json"))


class BatchSpec(Frozen):
    """What a batch runs."""

    project: str
    version: str | None = None
    """None takes the project's newest version when the batch is made."""
    variants: tuple[dict[str, str], ...]
    """Bindings `{node: variant}`, each with an optional `_workflow` and `_name`."""
    cases: tuple[Case, ...]
    scorers: tuple[ScorerSpec, ...] = ()
    repetitions: int = Field(default=1, ge=1)
    node_errors: Literal["zero", "exclude"] = "zero"
    """Whether a cell with a node error counts as score 0 or is left out of the mean."""
    priority: int = Field(default=0, ge=-100, le=100)
    recursion_limit: int | None = Field(default=None, ge=1)
    share_prefix: bool = True
    """Whether variants share the node runs of a case until their ways part."""
    interrupts: Literal["fail", "wait"] = "fail"
    """Whether a cell whose case has no answer to what a node asks fails, or waits for one."""
    deadline_s: float | None = Field(default=None, gt=0, le=LONGEST_DEADLINE_S, allow_inf_nan=False)
    """Seconds from the first start of a cell's execution, after which the cell fails."""
    budget: Budget | None = None


class Batch(Frozen):
    """A matrix of variants, cases and repetitions, and how far it is."""

    id: str
    project: str
    version: str
    status: BatchStatus
    variants: tuple[str, ...]
    bindings: tuple[dict[str, str], ...]
    scorers: tuple[ScorerSpec, ...]
    repetitions: int
    node_errors: str
    cases: int
    cells: int
    counts: dict[str, int]
    """Cells by status."""
    priority: int = 0
    share_prefix: bool = True
    interrupts: str = "fail"
    deadline_s: float | None = None
    """Seconds from the first start of a cell's execution, after which the cell fails."""
    budget: Budget | None = None
    cost: Cost | None = None
    """Sums over its cells, each with the whole cost of its path; null in lists."""
    cost_incurred: Cost | None = None
    """What its executions really spent, up to when each was given back or ended; null in lists."""
    reason: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None


class Score(Frozen):
    """One metric of one scorer on one cell."""

    metric: str
    value: float | None
    explanation: str | None = None
