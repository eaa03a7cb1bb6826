"""What the benchmarks measure at length, in short: far less processor time than stock, no growth.

Processor time and memory of a process say the same on a busy machine; rates would not.
"""

import gc
import time
from pathlib import Path

from benchmarks import contenders, growth

EXECUTIONS = 100
REPEATS = 3
WIDTH = 32


async def test_our_saver_takes_far_less_processor_time_than_the_stock_one(url: str) -> None:
    spent: dict[str, list[float]] = {"stock": [], "ours": []}
    async with contenders.stock(url) as stock, contenders.ours(url) as ours:
        for _ in range(REPEATS):
            for name, prepare in (("stock", stock), ("ours", ours)):
                runs = await prepare(EXECUTIONS)
                gc.collect()
                before = time.process_time()
                await contenders.at_once(runs, WIDTH)
                spent[name].append(time.process_time() - before)
    assert min(spent["ours"]) * 1.5 < min(spent["stock"]), spent


def test_a_runner_does_not_grow(url: str, tmp_path: Path) -> None:
    warm, later = growth.without_ray(url, tmp_path, (300, 1000))
    assert later - warm < 8, (warm, later)
