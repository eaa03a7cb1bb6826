"""The execution tree: ten variants of the last of five nodes on twenty cases, 200 ms a node, 8 slots."""

from typing import Any, Final

from benchmarks import common
from benchmarks.graphs import NODES
from wtb_ray.batch_tree import Reuse
from wtb_ray.sdk import WorkflowProject

VARIANTS: Final = 10
CASES: Final = 20
SLOTS: Final = 8
LEAST: Final = 3.0
SHARED: Final = CASES * (NODES - 1 + VARIANTS)
APART: Final = CASES * NODES * VARIANTS


def run(*, repeats: int = 5) -> tuple[dict[str, Any], list[common.Target]]:
    """Measures; gives the result to be written and the targets."""
    walls: dict[bool, list[float]] = {True: [], False: []}
    with common.stack(runner_slots=SLOTS, runners_per_pool=1) as stack:
        project = WorkflowProject(name="sharing", graph_factory="graphs:thinking", root=common.HERE)
        for i in range(1, VARIANTS):
            project.register_variant(f"n{NODES - 1}", f"v{i}", params={"mark": i})
        stack.bench.register_project(project)
        batch(stack, True, cases=1)
        for turn in range(repeats):
            for shared in (True, False) if turn % 2 else (False, True):
                wall, reuse = batch(stack, shared)
                walls[shared].append(wall)
                assert reuse.node_runs == (SHARED if shared else APART), reuse
    ideal = {True: SHARED * 0.2 / SLOTS, False: APART * 0.2 / SLOTS}
    common.table(
        ("", "node runs", "seconds", "x ideal", "all repeats"),
        [
            (
                "shared" if shared else "apart",
                SHARED if shared else APART,
                f"{common.median(found):.2f}",
                f"{common.median(found) / ideal[shared]:.2f}",
                " ".join(f"{wall:.2f}" for wall in found),
            )
            for shared, found in walls.items()
        ],
    )
    faster = common.median(walls[False]) / common.median(walls[True])
    return {"shared_s": walls[True], "apart_s": walls[False]}, [
        common.Target("sharing, times faster", faster, LEAST, at_least=True, unit="x")
    ]


def batch(stack: common.Stack, shared: bool, cases: int = CASES) -> tuple[float, Reuse]:
    """Seconds from the accepted request to the completed batch, and what ran."""
    made = stack.bench.run_batch_test(
        project="sharing",
        variant_matrix=[{}, *({f"n{NODES - 1}": f"v{i}"} for i in range(1, VARIANTS))],
        test_cases=[{"id": f"c{i}", "input": {"x": i}} for i in range(cases)],
        share_prefix=shared,
    )
    info = made.info
    assert info.counts == {"DONE": cases * VARIANTS}, info.counts
    assert info.ended_at is not None
    return (info.ended_at - info.created_at).total_seconds(), made.tree().reuse
