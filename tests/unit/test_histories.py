"""What steps say about nodes, and how states differ."""

from datetime import UTC, datetime
from typing import Any

import pytest

from wtb_ray import histories
from wtb_ray.model import Execution, Fault, NodeRun, Step

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def execution(status: str, failed: str | None = None) -> Execution:
    error = Fault(code="node_failed", type="E", message="m", node=failed) if failed else None
    return Execution(
        id="e1",
        project="p",
        version="v",
        binding={},
        status=status,
        epoch=1,
        thread_id="e1.0",
        recursion_limit=10,
        error=error,
        created_at=NOW,
    )


def step(number: int, *ran: str, then: tuple[str, ...] = (), error: str | None = None) -> Step:
    runs = [NodeRun(name=name, task_id=name, duration_ms=5, error=error) for name in ran]
    return Step(
        thread_id="e1.0",
        checkpoint_id=f"c{number}",
        step=number,
        source="loop",
        nodes=tuple(runs),
        next_nodes=then,
        duration_ms=5,
        created_at=NOW,
    )


def shown(names: str, steps: list[Step], status: str, failed: str | None = None) -> list[Any]:
    found = histories.nodes(names, list(reversed(steps)), execution(status, failed))
    return [(n.name, n.status, n.runs, n.duration_ms, n.entry, n.exit) for n in found]


BEGUN = [step(-1, then=("__start__",)), step(0, then=("a",))]


@pytest.mark.parametrize(
    ("steps", "status", "failed", "expected"),
    [
        ([], "PENDING", None, [("a", "pending", 0, 0, None, None)]),
        ([], "CANCELLED", None, [("a", "skipped", 0, 0, None, None)]),
        (BEGUN, "PAUSED", None, [("a", "pending", 0, 0, "c0", None)]),
        (BEGUN, "RUNNING", None, [("a", "running", 0, 0, "c0", None)]),
        (BEGUN, "FAILED", "a", [("a", "failed", 0, 0, "c0", None)]),
        (BEGUN, "FAILED", "b", [("a", "pending", 0, 0, "c0", None)]),
        (BEGUN, "CANCELLED", None, [("a", "skipped", 0, 0, "c0", None)]),
        ([*BEGUN, step(1, "a")], "COMPLETED", None, [("a", "completed", 1, 5, "c0", "c1")]),
        ([*BEGUN, step(1, "b")], "COMPLETED", None, [("a", "skipped", 0, 0, None, None)]),
        (
            [*BEGUN, step(1, "a", then=("a",)), step(2, "a")],
            "COMPLETED",
            None,
            [("a", "completed", 2, 10, "c1", "c2")],
        ),
        (
            [*BEGUN, step(1, "a", then=("a",))],
            "RUNNING",
            None,
            [("a", "running", 1, 5, "c1", None)],
        ),
        (
            [*BEGUN, step(1, "a", then=("a",))],
            "PAUSED",
            None,
            [("a", "pending", 1, 5, "c0", "c1")],
        ),
        (
            [*BEGUN, step(1, "a", error="E: no", then=("b",))],
            "PAUSED",
            None,
            [("a", "failed", 1, 5, "c0", "c1")],
        ),
        ([step(1, "a", "a")], "COMPLETED", None, [("a", "completed", 2, 10, None, "c1")]),
    ],
)
def test_a_node_and_its_checkpoints(
    steps: list[Step], status: str, failed: str | None, expected: list[Any]
) -> None:
    assert shown("a", steps, status, failed) == expected


def test_nodes_of_one_step_that_fails() -> None:
    steps = [*BEGUN, step(1, "a", then=("b", "c"))]
    found = shown("abcd", steps, "FAILED", "b")
    assert [(name, status) for name, status, *_ in found] == [
        ("a", "completed"),
        ("b", "failed"),
        ("c", "pending"),
        ("d", "pending"),
    ]


def test_states_differ_by_channel() -> None:
    before = {"same": [1], "gone": 1, "other": {"a": 1}, "kind": 1, "null": None}
    after = {"same": [1], "new": None, "other": {"a": 2}, "kind": True, "null": None}
    found = histories.state_changes(before, after)
    assert {name: (c.change, c.before, c.after) for name, c in found.items()} == {
        "gone": ("removed", 1, None),
        "kind": ("changed", 1, True),
        "new": ("added", None, None),
        "other": ("changed", {"a": 1}, {"a": 2}),
    }
    assert list(found) == sorted(found)
