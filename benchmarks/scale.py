"""Twenty thousand trivial cells in one batch: time, processor and memory for a cell from 1,000 on.

What a cell costs must not depend on how many there are, neither in the runners nor in the singletons
nor in Postgres. The hourly check of integrity, which would fall into the last of them, stays out.
"""

import time
from typing import Any, Final

from benchmarks import common
from wtb_ray.states import TERMINAL_BATCH

SIZES: Final = (1_000, 5_000, 20_000)
GROWTH: Final = 1.15
"""Most that a cell of the largest batch may cost of one of the smallest."""
GROWTH_MIB: Final = 120.0
"""Most that the processes of the stack, but Postgres, may grow from the smallest to the largest."""


def run(*, sizes: tuple[int, ...] = SIZES) -> tuple[dict[str, Any], list[common.Target]]:
    """Measures; gives the result to be written and the targets."""
    with common.stack(integrity_every_s=0) as stack:
        stack.register("five", "graphs:five")
        stack.warm("five", 2)
        rows = [_measured(stack, size) for size in sizes]
    common.table(
        ("cells", "seconds", "cells/s", "ms CPU a cell", "of it Postgres", "MiB at most"),
        [
            (
                f"{row['cells']:,}",
                f"{row['wall_s']:.1f}",
                f"{row['cells'] / row['wall_s']:.0f}",
                f"{row['cpu_ms']:.2f}",
                f"{row['postgres_ms']:.2f}",
                f"{row['peak_mib']:.0f}",
            )
            for row in rows
        ],
    )
    first, last = rows[0], rows[-1]
    targets = [
        common.Target(
            "processor time for a cell, largest batch over smallest",
            last["cpu_ms"] / first["cpu_ms"],
            GROWTH,
            unit="x",
        ),
        common.Target(
            "memory over that of the smallest batch",
            last["peak_mib"] - first["peak_mib"],
            GROWTH_MIB,
            unit=" MiB",
        ),
    ]
    return {"rows": rows}, targets


def _measured(stack: common.Stack, cells: int) -> dict[str, float]:
    ours, postgres = stack.without_postgres(), stack.postgres()
    before = common.processor_s(ours), common.processor_s(postgres)
    cases = [{"id": f"c{i}", "input": {"x": i}} for i in range(cells)]
    batch = stack.bench.run_batch_test("five", [{}], cases, wait=False)
    peak = 0.0
    while (info := stack.bench.get_batch(batch.id).info).status not in TERMINAL_BATCH:
        peak = max(peak, common.memory_mib(ours))
        time.sleep(1.0)
    assert info.counts == {"DONE": cells}, info.counts
    assert info.ended_at is not None
    spent = common.processor_s(ours) - before[0]
    of_it = common.processor_s(postgres) - before[1]
    return {
        "cells": cells,
        "wall_s": (info.ended_at - info.created_at).total_seconds(),
        "cpu_ms": 1000 * (spent + of_it) / cells,
        "postgres_ms": 1000 * of_it / cells,
        "peak_mib": peak,
    }
