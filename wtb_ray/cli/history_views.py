"""Lists of executions, their steps and branches as a tree, their nodes, and what they ask."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from wtb_ray import api
from wtb_ray.cli.file_views import printable
from wtb_ray.cli.render import (
    STYLES,
    bound,
    duration,
    facts,
    fault,
    flat,
    moment,
    nothing,
    status,
    table,
)
from wtb_ray.control import BranchTree, BranchView, ForkView, NodeHistory, Question
from wtb_ray.model import Execution

SOURCES = {"loop": "start", "update": "state changed"}
"""What a step without nodes was."""
NODE_STYLES = {
    "completed": "green",
    "running": "cyan",
    "failed": "red",
    "skipped": "dim",
    "pending": "",
    "unknown": "dim",
}


def executions(items: Sequence[Execution]) -> RenderableType:
    if not items:
        return nothing("executions")
    columns = ["execution", "project", "status", "reason", "variants", "step", "created"]
    made = table(*columns, right=["step"], wrap=["project", "reason", "variants", "created"])
    for item in items:
        made.add_row(
            item.id,
            item.project,
            status(item.status),
            item.reason or "",
            bound(item.binding),
            "–" if item.head_step is None else str(max(item.head_step, 0)),
            moment(item.created_at),
        )
    return made


def tree(info: Execution, found: BranchTree) -> RenderableType:
    """All steps that were made, each branch below the step that it began with."""
    title = Text.assemble(info.id, "  ", (info.status, STYLES.get(info.status, "")))
    if found.forked_from is not None:
        title.append(f"  forked from {found.forked_from} at {found.forked_at}", style="dim")
    drawing = _Drawing(found)
    root = Tree(title)
    for branch in found.branches:
        if drawing.starts(branch):
            drawing.draw(branch, root)
    return root


class _Drawing:
    """One tree: branches and forks by the place where they begin."""

    def __init__(self, found: BranchTree) -> None:
        self._found = found
        # A checkpoint has its step where it was made; branches that begin with it have copies.
        self._drawn = {step.id for b in found.branches for step in b.steps}
        self._line = _line_to_head(found)
        self._told: set[str] = set()

    def starts(self, branch: BranchView) -> bool:
        """Whether it begins with nothing of this tree."""
        return branch.parent_checkpoint not in self._drawn

    def draw(self, branch: BranchView, below: Tree) -> None:
        place = below.add(self._title(branch))
        if branch.parent_checkpoint is not None and self.starts(branch):
            self._forks(branch.parent_checkpoint, place)
        for step in branch.steps:
            if step.step < 0:
                continue
            shown = place.add(self._step(branch, step))
            for other in self._found.branches:
                if other.parent_checkpoint == step.id:
                    self.draw(other, shown)
            self._forks(step.id, shown)

    def _title(self, branch: BranchView) -> Text:
        title = Text(f"branch {branch.number} ({branch.reason})", "bold" if branch.current else "")
        begun = self._found.head == branch.parent_checkpoint and not branch.steps
        if branch.current and begun:
            title.append("  ◀ here", style="yellow")
        return title

    def _step(self, branch: BranchView, step: api.Checkpoint) -> Text:
        left = "" if step.id in self._line else "dim"
        names = ", ".join(
            f"{printable(run.name)} {duration(run.duration_ms)}" for run in step.nodes
        )
        line = Text(f"{step.step}  {names or SOURCES.get(step.source, step.source)}", left)
        if any(run.error for run in step.nodes):
            line.stylize("red")
        if step.next_nodes:
            line.append(f"  → {printable(', '.join(step.next_nodes))}", style="dim")
        if step.manifest is not None:
            line.append("  ▤", style="dim")
        if branch.current and step.id == self._found.head:
            line.append("  ◀ here", style="yellow")
        return line.append(f"  {step.id}", style="dim")

    def _forks(self, checkpoint: str, below: Tree) -> None:
        for fork in self._found.forks:
            if fork.checkpoint_id == checkpoint and fork.id not in self._told:
                self._told.add(fork.id)
                below.add(_fork(fork))


def _fork(fork: ForkView) -> Text:
    return Text.assemble("⑂ fork ", fork.id, "  ", (fork.status, STYLES.get(fork.status, "")))


def _line_to_head(found: BranchTree) -> set[str]:
    """The steps that led to where the execution stands."""
    threads = {branch.thread_id: branch for branch in found.branches}
    line: set[str] = set()
    branch, last = threads.get(found.thread_id), found.head
    while branch is not None:
        steps = [step.id for step in branch.steps]
        line |= set(steps[: steps.index(last) + 1]) if last in steps else set()
        last = branch.parent_checkpoint
        branch = threads.get(branch.parent_thread or "")
    return line


def nodes(items: Sequence[NodeHistory]) -> RenderableType:
    if not items:
        return nothing("nodes")
    columns = ["node", "status", "runs", "duration", "entry", "exit"]
    made = table(*columns, right=["runs", "duration"], wrap=["node"])
    for item in items:
        made.add_row(
            printable(item.name),
            Text(item.status, NODE_STYLES[item.status]),
            str(item.runs),
            duration(item.duration_ms) if item.runs and item.duration_ms is not None else "–",
            item.entry or "–",
            item.exit or "–",
        )
    return made


def questions(items: Sequence[Question]) -> RenderableType:
    """What is asked, with the schema of its answer."""
    if not items:
        return nothing("questions")
    lines: list[RenderableType] = []
    for item in items:
        done = "  answered" if item.answered else ""
        lines.append(
            Text(
                f"asks {item.id}: {printable(flat(item.value))}{done}", "dim" if done else "yellow"
            )
        )
        if item.answer_schema is not None:
            lines.append(Text(f"  answer: {printable(flat(item.answer_schema))}", "dim"))
    return Group(*lines)


def outcome(item: api.NodeOutcome) -> RenderableType:
    """What a node did that was tried out."""
    shown = facts(
        [
            ("node", item.node),
            ("took", duration(item.duration_ms)),
            ("wrote", printable(flat(item.update)) if item.error is None else None),
            ("went to", printable(flat(item.goto)) if item.goto else None),
            ("asked", printable(flat(item.interrupts)) if item.interrupts else None),
        ]
    )
    return shown if item.error is None else Group(shown, fault(item.error))
