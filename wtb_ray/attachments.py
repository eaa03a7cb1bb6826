"""A run of an execution in this process: its claim, and what the saver learns while it runs."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson
from langchain_core.runnables import RunnableConfig
from langgraph._internal._constants import ERROR_SOURCE_NODE
from langgraph.checkpoint.base import WRITES_IDX_MAP, Checkpoint, CheckpointMetadata
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT
from langgraph.constants import START
from langgraph.types import Interrupt

from wtb_ray import secret_values
from wtb_ray.commits import Row, Step
from wtb_ray.context import Calls, Limits, Workspace

SEPARATOR: Final = "\x1f"
"""Between the names of next nodes on their way to Postgres."""

LONGEST_ERROR: Final = 2_000

Tasks = tuple[tuple[str, str], ...]


class Lease(NamedTuple):
    """Under which objects are stored that a row is to name."""

    id: str
    release: Callable[[], None]
    """To be called when that row is committed, or never will be."""


class Boundary(NamedTuple):
    """What follows a root checkpoint: the nodes, and the tasks as (id, node)."""

    next_nodes: tuple[str, ...] = ()
    next_tasks: Tasks = ()


def _nothing_follows(
    checkpoint: Checkpoint, metadata: CheckpointMetadata, config: RunnableConfig
) -> Boundary:
    return Boundary()


@dataclass(eq=False)
class Attachment:
    """One run of an execution in this process, and what the saver learns of it."""

    execution_id: str
    epoch: int
    thread_id: str
    head: str | None = None
    """The newest root checkpoint that is stored."""
    head_step: int | None = None
    project: str | None = None
    batch_id: str | None = None
    actor: str = ""
    """Who writes: the actor of its events."""
    forbidden_prefix: str | None = None
    """Strings and paths at or below this directory are refused in state."""
    change: dict[str, Any] | None = None
    """What a user changes: the checkpoint then is no step but that change, in the log too."""
    environment: str | None = None
    """Digest of what it runs in."""
    workspace: Workspace | None = None
    """Where its nodes have their files."""
    calls: Calls = field(default_factory=Calls)
    """Its sync nodes that run in threads."""
    limits: Limits | None = None
    """Where its nodes take from limits."""
    boundary: Callable[[Checkpoint, CheckpointMetadata, RunnableConfig], Boundary] = (
        _nothing_follows
    )
    snapshot: Callable[[CheckpointMetadata], Awaitable[str | None]] | None = None
    """Keeps the files that belong to a root checkpoint; gives their manifest."""
    lease: Lease | None = None
    """Under which the newest snapshot was stored, until the saver takes it."""
    on_wanted: Callable[[str], None] | None = None
    """Called when a commit says that the execution is wanted to do something else than run."""
    on_breakpoints: Callable[[Sequence[str]], None] | None = None
    """Called when a root checkpoint is stored, with the execution's breakpoints as they are now."""
    wanted: str = "run"
    errors: dict[str, Any] = field(default_factory=dict)
    """What tasks of the present super-step raised, by task id."""
    finished: dict[str, float] = field(default_factory=dict)
    """When tasks of the present super-step ended (monotonic), by task id."""
    interrupts: dict[str, list[Interrupt]] = field(default_factory=dict)
    """What tasks of the present super-step ask, by task id."""
    next_tasks: Tasks = ()
    """The tasks of the present super-step."""
    step_started: float = field(default_factory=time.monotonic)
    steps: int = 0
    """Super-steps that this run has stored."""
    within: bool = False
    """Something of the present super-step is stored: what its tasks or subgraphs have done so far."""
    fenced: bool = False
    """Another owner holds the execution; nothing of this run is stored any more."""

    def __post_init__(self) -> None:
        self.forbidden_prefix = (self.forbidden_prefix or "").rstrip("/") or None
        self.claim = (self.execution_id, self.epoch, self.thread_id)
        self.fresh = self.head is None
        self.newest = self.head
        self.namespaces: set[str] = set()
        self.last: asyncio.Future[str] | None = None

    def note(self, ns: str, future: "asyncio.Future[str]") -> None:
        """A checkpoint is on its way to be committed."""
        self.last = future
        if ns:
            self.namespaces.add(ns)
            self.within = True
        else:
            self.let_go(future)

    def let_go(self, after: "asyncio.Future[str] | None" = None) -> None:
        """Releases the lease of the newest snapshot, at once or when its commit has ended.

        A cancelled run leaves its items to be committed, so that it must not end with the run.
        """
        lease, self.lease = self.lease, None
        if lease is None:
            return
        if after is None:
            lease.release()
        else:
            after.add_done_callback(lambda _: lease.release())

    def takes(self, task_id: str, checkpoint_id: str) -> bool:
        """Whether what a root task wrote at this checkpoint is of use to anybody.

        It is not once the checkpoint has a successor, nor for the input's own task, which only
        spreads the input over the channels and can do so again.
        """
        return checkpoint_id == self.newest and self.next_tasks != ((task_id, START),)

    def observe(self, task_id: str, writes: Sequence[tuple[str, Any]]) -> None:
        """Takes notice of what a task leaves behind; called when it ends, however it ends."""
        self.finished[task_id] = time.monotonic()
        for channel, value in writes:
            if channel == ERROR:
                self.errors[task_id] = value
            elif channel == INTERRUPT:
                self.interrupts[task_id] = list(value)

    def step(
        self,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        next: Boundary,
        now: float,
        manifest: str | None = None,
    ) -> Step:
        """The super-step that ended `now` (monotonic) in this checkpoint, which becomes the newest."""
        number, source = metadata["step"], metadata["source"]
        ran = self._ran() if source == "loop" else []
        duration_ms = (now - self.step_started) * 1000 - self._delayed(ran)
        tasks = next.next_tasks
        step = Step(
            head=(checkpoint["id"], number),
            row=(
                *(self.thread_id, checkpoint["id"], number, source),
                orjson.dumps(ran),
                SEPARATOR.join(next.next_nodes),
                orjson.dumps(tasks),
                duration_ms,
                manifest,
                self.environment,
            ),
            event=self._event(checkpoint["id"], number, ran, next, duration_ms, manifest)
            if number > 0
            else None,
        )
        self.newest, self.next_tasks = checkpoint["id"], tasks
        return step

    def _ran(self) -> list[dict[str, Any]]:
        ran = []
        for id, name in self.next_tasks:
            if name == START:
                continue
            # A task whose writes were kept from an earlier run did not run in this one.
            spent = (self.finished.get(id, self.step_started) - self.step_started) * 1000
            waited = min(spent, self.calls.waited.pop(id, 0.0) * 1000)
            error = self.errors.get(id)
            run = {
                "name": name,
                "task_id": id,
                "duration_ms": round(spent - waited, 3),
                "error": None if error is None else _shown(error),
            }
            if name in self.calls.environments:
                run["environment"] = self.calls.environments[name]
            if waited:
                run["waited_ms"] = round(waited, 3)
            if used := self.calls.used.pop(id, None):
                run["usage"] = used
            ran.append(run)
        return ran

    @staticmethod
    def _delayed(ran: Sequence[dict[str, Any]]) -> float:
        """By how many ms waiting for limits made the super-step longer.

        Without it, the step would have taken what the slowest node took of its own.
        """
        own = max((run["duration_ms"] for run in ran), default=0.0)
        all_ = max((run["duration_ms"] + run.get("waited_ms", 0.0) for run in ran), default=0.0)
        return float(all_ - own)

    def _event(
        self,
        id: str,
        number: int,
        ran: list[dict[str, Any]],
        next: Boundary,
        duration_ms: float,
        manifest: str | None,
    ) -> Row:
        if self.change is not None:
            told = {**self.change, "checkpoint_id": id}
            text = orjson.dumps(told, option=orjson.OPT_SORT_KEYS)
            ids = (self.project, self.execution_id, self.batch_id)
            return ("state.changed", *ids, self.actor, text)
        payload = orjson.dumps(
            {
                "thread_id": self.thread_id,
                "checkpoint_id": id,
                "step": number,
                "nodes": [run["name"] for run in ran],
                "next_nodes": next.next_nodes,
                "duration_ms": round(duration_ms, 3),
                "manifest": manifest,
            },
            option=orjson.OPT_SORT_KEYS,
        )
        ids = (self.project, self.execution_id, self.batch_id)
        return ("step.completed", *ids, self.actor, payload)

    def stored(self, head: tuple[str, int]) -> None:
        """A root checkpoint is committed: its super-step has ended and the next begins."""
        self.head, self.head_step = head
        self.steps += head[1] > 0
        self.errors, self.finished, self.interrupts, self.within = {}, {}, {}, False
        self.step_started = time.monotonic()


def without_output_of_failed(writes: Sequence[tuple[str, Any]]) -> Sequence[tuple[str, Any]]:
    """What counts of a task's writes: one that failed after its node returned has not finished.

    LangGraph stores the node's output beside the error of its router, and would take the node for
    finished when the execution goes on: its routes would never run.
    """
    channels_written = {channel for channel, _ in writes}
    if ERROR not in channels_written or ERROR_SOURCE_NODE in channels_written:
        return writes
    return [write for write in writes if write[0] in WRITES_IDX_MAP]


def _shown(error: Any) -> str:
    """An error as text that Postgres can hold, of bearable length."""
    return (
        secret_values.blacked_out(repr(error))[:LONGEST_ERROR]
        .encode("utf-8", "replace")
        .decode()
        .replace("\x00", "")
    )
