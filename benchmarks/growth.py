"""Whether a runner grows: the memory of one runner process over thousands of executions."""

from typing import Any, Final

import numpy as np

from benchmarks import common

EVERY: Final = 500
WARM: Final = 1000
"""Executions after which caches, pools and prepared statements are there."""
LIMIT_MIB: Final = 2.0
"""Growth for 1,000 executions that is taken for none."""


def run(*, executions: int = 5000) -> tuple[dict[str, Any], list[common.Target]]:
    """Measures; gives the result to be written and the targets."""
    points: list[tuple[int, float]] = []
    with common.stack(runners_per_pool=1) as stack:
        stack.register("five", "graphs:five")
        for done in range(EVERY, executions + 1, EVERY):
            stack.batch("five", EVERY)
            (runner,) = stack.processes("ray::VariantRunner")
            points.append((done, runner.memory_info().rss / common.MIB))
    common.table(("executions", "runner MiB"), [(n, f"{rss:.1f}") for n, rss in points])
    slope = 1000 * slope_of([point for point in points if point[0] >= WARM])
    target = common.Target("growth for 1,000 executions", slope, LIMIT_MIB, unit=" MiB")
    return {"points_mib": points, "mib_per_1000": slope}, [target]


def slope_of(points: list[tuple[int, float]]) -> float:
    """The least-squares slope."""
    x, y = zip(*points, strict=True)
    return float(np.polyfit(x, y, 1)[0])
