"""A process of its own that uses environments: `python -m tests.venv_worker hold|acquire ...`."""

import asyncio
import sys
import time
from pathlib import Path

from tests.venv_bench import VenvBench, alpha
from wtb_ray import venvs


def hold(python: str) -> None:
    """As a runner does; until it is killed."""
    venvs.hold(python)
    print("held", flush=True)
    time.sleep(600)


async def acquire(data_dir: str, url: str, bundle: str, times: str) -> None:
    """Many at once."""
    async with VenvBench(Path(data_dir), url).cache() as cache:
        asked = (cache.acquire(alpha(), bundle) for _ in range(int(times)))
        for venv in await asyncio.gather(*asked):
            print(venv.python, flush=True)


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "hold":
        hold(*arguments)
    else:
        asyncio.run(acquire(*arguments))
