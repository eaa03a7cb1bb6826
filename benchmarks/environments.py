"""What environments cost: finding one that is there, and building pandas + scikit-learn.

With the cache as a host runs it, on a Postgres of its own. `as asked` is what a user writes, of which the
base may have parts; `other` asks for a scikit-learn that the base does not have. `cold` begins with an
empty cache of uv, so that everything is fetched from the package index; `warm` finds all of it there. A
build contains trying the environment out: importing Ray and the bench's runner in it.
"""

import asyncio
import os
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks import common
from wtb_ray import environments
from wtb_ray.actors.venvs import VenvCache
from wtb_ray.environment import EnvSpec
from wtb_ray.settings import Settings

HITS: Final = 500
LIMIT_MS: Final = 10.0

Times = dict[str, list[float]]


def run(*, repeats: int = 3) -> tuple[dict[str, Any], list[common.Target]]:
    """Measures; gives the result to be written and the targets."""
    seconds: Times = {}
    hits: list[float] = []
    with common.postgres() as server:
        for number in range(repeats):
            with TemporaryDirectory(prefix="wtb-bench-venvs-") as directory:
                url = server.database(f"venvs{number}")
                with common.environment({"UV_CACHE_DIR": f"{directory}/uv"}):
                    asyncio.run(_turn(Path(directory), url, seconds, hits))
    ms = sorted(1000 * hit for hit in hits)
    p50, p95 = statistics.median(ms), statistics.quantiles(ms, n=20)[-1]
    rows = [(name, f"{common.median(values):.2f}") for name, values in seconds.items()]
    common.table(("built", "median s"), rows)
    common.table(("found", "ms"), [("p50", f"{p50:.3f}"), ("p95", f"{p95:.3f}")])
    result = {
        "seconds": seconds,
        "hit_ms": {"p50": p50, "p95": p95, "most": ms[-1], "n": len(ms)},
        "packages": {name: list(spec.packages) for name, spec in _specs().items()},
    }
    return result, [common.Target("an environment that is there, p95", p95, LIMIT_MS, unit=" ms")]


def _specs() -> dict[str, EnvSpec]:
    have = environments.base().packages["scikit-learn"]
    return {
        "as asked": EnvSpec(packages=("pandas", "scikit-learn")),
        "other": EnvSpec(packages=("pandas", f"scikit-learn<{have}")),
    }


async def _turn(place: Path, url: str, seconds: Times, hits: list[float]) -> None:
    """Builds all with an empty cache of uv, then again, and finds one many times."""
    for name, spec in _specs().items():
        os.environ["UV_CACHE_DIR"] = str(place / f"uv-{name.replace(' ', '-')}")
        for state in ("cold", "warm"):
            data_dir = place / state
            cache = VenvCache(Settings(data_dir=data_dir), url, state)
            try:
                # The second time it is known what it comes down to, as on a second host.
                venv = await cache.acquire(spec)
                assert not venv.hit
                seconds.setdefault(f"{name}, {state}", []).append(venv.seconds)
                for _ in range(HITS):
                    began = time.perf_counter()
                    assert (await cache.acquire(spec)).hit
                    hits.append(time.perf_counter() - began)
            finally:
                await cache.close()
