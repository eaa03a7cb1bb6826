"""How the history of an execution is drawn."""

import io
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from wtb_ray import api
from wtb_ray.cli import history_views
from wtb_ray.control import BranchTree, BranchView, ForkView, NodeHistory, Question
from wtb_ray.model import Execution, NodeRun

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def step(
    id: str, number: int, *ran: str, then: tuple[str, ...] = (), **more: Any
) -> api.Checkpoint:
    return api.Checkpoint(
        id=id,
        thread_id="t",
        step=number,
        source=more.pop("source", "loop"),
        nodes=[NodeRun(name=name, task_id=name, duration_ms=12, **more) for name in ran],
        next_nodes=list(then),
        duration_ms=12,
        manifest="m" if id == "c1" else None,
        created_at=NOW,
    )


def branch(number: int, origin: str | None, reason: str, *steps: api.Checkpoint) -> BranchView:
    return BranchView(
        thread_id=f"e1.{number}",
        number=number,
        parent_thread="e1.0" if number else "e0.0",
        parent_checkpoint=origin,
        reason=reason,
        current=number == 2,
        created_at=NOW,
        steps=list(steps),
    )


EXECUTION = Execution(
    id="e1",
    project="p",
    version="v",
    binding={},
    status="PAUSED",
    epoch=1,
    thread_id="e1.2",
    head="c1",
    recursion_limit=9,
    created_at=NOW,
)
TREE = BranchTree(
    execution_id="e1",
    status="PAUSED",
    thread_id="e1.2",
    head="c1",
    forked_from="e0",
    forked_at="c9",
    branches=[
        branch(
            0,
            "c9",
            "fork",
            step("c-1", -1),
            step("c0", 0, then=("a",)),
            step("c1", 1, "a", then=("b", "\x1b[31m")),
            step("c2", 2, "b", error="E"),
        ),
        branch(1, "c1", "rollback", step("c3", 2, "b", "x"), step("c4", 3, source="update")),
        branch(2, "c1", "rollback"),
    ],
    forks=[
        ForkView(id="e2", status="COMPLETED", checkpoint_id="c3", step=2),
        ForkView(id="e3", status="RUNNING", checkpoint_id="c9", step=None),
    ],
)


def drawn(view: Any) -> str:
    console = Console(file=io.StringIO(), width=120, highlight=False, markup=False)
    console.print(view)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_steps_branches_and_forks() -> None:
    lines = [line.rstrip() for line in drawn(history_views.tree(EXECUTION, TREE)).splitlines()]
    assert lines == [
        "e1  PAUSED  forked from e0 at c9",
        "└── branch 0 (fork)",
        "    ├── ⑂ fork e3  RUNNING",
        "    ├── 0  start  → a  c0",
        "    ├── 1  a 12 ms  → b, \\x1b[31m  ▤  c1",
        "    │   ├── branch 1 (rollback)",
        "    │   │   ├── 2  b 12 ms, x 12 ms  c3",
        "    │   │   │   └── ⑂ fork e2  COMPLETED",
        "    │   │   └── 3  state changed  c4",
        "    │   └── branch 2 (rollback)  ◀ here",
        "    └── 2  b 12 ms  c2",
    ]


def test_what_was_left_is_dim() -> None:
    line = history_views._line_to_head(TREE)
    assert line == {"c-1", "c0", "c1"}


def test_nodes_and_questions() -> None:
    item = NodeHistory(name="a", status="failed", runs=2, duration_ms=24, entry="c0", exit=None)
    assert drawn(history_views.nodes([item])).splitlines()[2].split() == [
        "a",
        "failed",
        "2",
        "24",
        "ms",
        "c0",
        "–",
    ]
    assert "no nodes" in drawn(history_views.nodes([]))
    asked = Question(id="i1", value="sure?", answered=False, answer_schema={"type": "boolean"})
    text = drawn(history_views.questions([asked]))
    assert "asks i1: sure?" in text
    assert '"boolean"' in text
    assert "no questions" in drawn(history_views.questions([]))
