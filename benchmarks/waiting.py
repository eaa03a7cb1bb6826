"""Executions that wait: 512 of five nodes that take a second each, 256 at once.

This is what agents do nearly all of their time. The ideal is the waiting itself, two rounds of five
seconds; the rest is what the whole bench adds to it, from the accepted request to the completed batch.
"""

from typing import Any, Final

from benchmarks import common
from benchmarks.graphs import NODES, WAIT_S

SLOTS: Final = 128
RUNNERS: Final = 2
EXECUTIONS: Final = 512
LIMIT: Final = 1.15


def run(*, repeats: int = 3) -> tuple[dict[str, Any], list[common.Target]]:
    """Measures; gives the result to be written and the targets."""
    ideal = EXECUTIONS / (SLOTS * RUNNERS) * NODES * WAIT_S
    with common.stack(runner_slots=SLOTS, runners_per_pool=RUNNERS) as stack:
        stack.register("waiting", "graphs:waiting")
        stack.warm("waiting", RUNNERS)
        walls = [stack.batch("waiting", EXECUTIONS) for _ in range(repeats)]
    common.table(
        ("", "seconds", "x ideal", "all repeats"),
        [
            ("ideal", f"{ideal:.1f}", "1.00", ""),
            (
                common.BENCH,
                f"{common.median(walls):.2f}",
                f"{common.median(walls) / ideal:.2f}",
                " ".join(f"{wall:.2f}" for wall in walls),
            ),
        ],
    )
    over = common.median(walls) / ideal
    targets = [
        common.Target("waiting batch, times the ideal", over, LIMIT, unit="x"),
    ]
    return {"ideal_s": ideal, "walls_s": walls}, targets
